import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar import pipeline
from attar.core.device import Execution
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.stages.workspace import Workspace
from conftest import mini_recipe


def pictures(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """A folder a class of noise as BMP, whose files are all of one size."""
    draws = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.bmp")
    return root


def squeeze(source: Path, out: Path) -> None:
    recipe = mini_recipe()
    training = recipe.squeeze.training.changed(epochs=1)
    data = DataChoice(source=str(source), size=8)
    recipe = recipe.changed(data=data, squeeze=recipe.squeeze.changed(training=training))
    pipeline.run(recipe, out, stage="squeeze", quiet=True)


def test_replaced_pictures_are_other_data(tmp_path: Path) -> None:
    source, out = pictures(tmp_path / "set", {"a": 6, "b": 6}), tmp_path / "out"
    squeeze(source, out)
    made = (out / "squeeze" / "manifest.json").read_bytes()
    squeeze(source, out)
    pictures(source, {"a": 6, "b": 6}, seed=1)
    with pytest.raises(AttarError, match="squeeze was made from real data that differ from the current ones"):
        squeeze(source, out)
    assert (out / "squeeze" / "manifest.json").read_bytes() == made


def test_results_may_lie_among_the_classes(tmp_path: Path) -> None:
    source = pictures(tmp_path / "set", {"a": 6, "b": 6})
    for _ in range(2):
        squeeze(source, source / "runs" / "one")


def test_a_class_without_validation_images_is_squeezed(tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "train", {"a": 6, "b": 6, "rare": 2})
    pictures(tmp_path / "set" / "val", {"a": 2, "b": 2})
    squeeze(tmp_path / "set", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "squeeze" / "teacher.json").read_text())["classes"] == ["a", "b", "rare"]


def test_a_run_that_recorded_the_former_fingerprint_continues(tmp_path: Path) -> None:
    choice = DataChoice(source=str(pictures(tmp_path / "set", {"a": 6, "b": 6})), size=8)

    def fingerprint() -> str:
        return Workspace(tmp_path / "out", 0, choice, Execution(), Log(quiet=True)).real.fingerprint

    now = fingerprint()
    former = Workspace(tmp_path / "out", 0, choice, Execution(), Log(quiet=True)).real.former_fingerprint
    assert now != former
    for name in ("plan.json", "manifest.json"):
        (tmp_path / "out" / "squeeze").mkdir(parents=True, exist_ok=True)
        for recorded in (former, now, "f" * 64):
            (tmp_path / "out" / "squeeze" / name).write_text(json.dumps({"parents": {"data": recorded}}))
            assert fingerprint() == (former if recorded == former else now)
