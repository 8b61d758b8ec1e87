"""A stage's folder: what was asked (plan.json, first), what came out (manifest.json, last), and when to refuse."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.core import ranks
from attar.core.config import differences, pruned
from attar.core.errors import AttarError
from attar.core.spent import Spent
from attar.store import atomic

PLAN, MANIFEST = "plan.json", "manifest.json"
_PACKAGES = ("attar", "torchvision", "timm", "numpy", "pillow", "pyarrow", "safetensors")


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of one run. All processes of a run must call its methods alike."""

    path: Path
    stage: str
    request: dict[str, Any]
    """Everything that can alter the result, as plain values."""
    parents: dict[str, str]
    """Identities (content hashes) of what the stage starts from."""

    def finished(self) -> dict[str, Any] | None:
        """The manifest, when this very work is done already; None when it is to be done or continued.

        Raises AttarError when the folder holds other work: it is neither reused nor overwritten.
        """
        plan, manifest = _read(self.path / PLAN), _read(self.path / MANIFEST)
        ranks.wait()  # everyone has looked before anyone writes
        known = manifest or (plan if self._has_results() else None)
        if known is None:
            return None
        changed = differences(pruned(known["request"], self.request), self.request)
        if changed:
            raise AttarError(
                f"{self.path} was made with other settings ({'; '.join(changed[:4])}); "
                f"choose another --out, or delete that folder to make it anew."
            )
        stale = [name for name, identity in self.parents.items() if known["parents"].get(name) != identity]
        if stale:
            raise AttarError(
                f"{self.path} was made from another {stale[0]} than the one there is now; "
                f"choose another --out, or delete that folder to make it anew."
            )
        return manifest

    def begin(self) -> None:
        """Write down what will be made here, so that a later run can tell whether to continue it."""
        if ranks.is_first():
            atomic.write_json(self.path / PLAN, {"stage": self.stage, "request": self.request, "parents": self.parents})
        ranks.wait()

    def finish(self, result: dict[str, Any], spent: Spent | float, device: str) -> dict[str, Any]:
        """Write the manifest; called once, by the first process, when every file of the stage is in place.

        ``spent`` may be wall seconds alone, where those of the processor were not measured.
        """
        took = spent if isinstance(spent, Spent) else Spent(spent, None)
        manifest = {
            "stage": self.stage,
            "request": self.request,
            "parents": self.parents,
            "result": result,
            "device_seconds": took.plain()["seconds"],  # on the wall clock, of all processes together
            "processor_seconds": took.plain()["processor_seconds"],
            "device": device,
            "processes": ranks.world_size(),
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        atomic.write_json(self.path / MANIFEST, manifest)
        (self.path / PLAN).unlink(missing_ok=True)
        return manifest

    def _has_results(self) -> bool:
        """Whether anything was made under the plan: a plan alone binds nobody."""
        return any(path.is_file() and path.name != PLAN and path.suffix != ".jsonl" for path in self.path.rglob("*"))


def manifest_of(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a finished stage; raises AttarError when it is not finished."""
    manifest = _read(folder / MANIFEST)
    if manifest is None:
        raise AttarError(f"{folder} is not finished; run 'attar {made_by}' (or 'attar run') with the same --out first.")
    return manifest


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can alter results."""
    found = {"python": platform.python_version(), "torch": torch.__version__}  # with its build, as in 2.15.0+cu130
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def logged(folder: Path, event: str) -> Spent:
    """Sum over all events of this name in the logs of all processes, each ``name`` counted once."""
    found: dict[str, tuple[float, float | None]] = {}
    for path in sorted(folder.glob("log*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill, or damaged
                entry = json.loads(line)
                if entry["event"] == event:
                    processor = entry.get("processor_seconds")
                    found[entry["name"]] = float(entry["seconds"]), None if processor is None else float(processor)
    return total(Spent(*values) for values in found.values())


def total(parts: Iterable[Spent]) -> Spent:
    """The sum of several; processor seconds are known when they are known of all."""
    known = list(parts)
    processor = [part.processor_seconds for part in known if part.processor_seconds is not None]
    return Spent(sum(part.seconds for part in known), sum(processor) if len(processor) == len(known) else None)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise AttarError(f"{path} is damaged ({error}); delete the folder {path.parent} to make it anew.") from None
