"""What tests of pages share: names that try to be markup, and a distilled set of many classes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from attar.ops.choices import PLAIN
from attar.stages.dataset_info import INFO
from conftest import edit_json

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\u202eevil\x1b[31m",
    "{{ 7*7 }}",
    "a,b",
)


def renamed(run: Path, names: list[str]) -> Path:
    """Give the classes of a finished run other names."""
    edit_json(run / "distilled" / INFO, classes=names, titles={})
    path = run / "evaluate" / "per-class.json"
    manifest = run / "evaluate" / "manifest.json"
    edit_json(path, classes=names, titles={})
    result = json.loads(manifest.read_text())["result"]
    edit_json(manifest, result={key: value for key, value in result.items() if key != "per_class_sha256"})
    return run


def many(count: int, size: int = 8) -> Any:
    """A distilled set of one image per class, without files."""
    stream = torch.Generator().manual_seed(0)
    info = SimpleNamespace(titles={}, size=size, storage=PLAIN, method="cda")
    return SimpleNamespace(
        info=info,
        classes=tuple(f"class {number}" for number in range(count)),
        labels=torch.arange(count),
        images=torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=stream),
    )
