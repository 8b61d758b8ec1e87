"""Code outside attar is known by its file: an edited network or method is not taken for the one that was used."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from conftest import mini_recipe

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3))) * SCALE
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of one's own into the working folder, as if in a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name: str, text: str) -> None:
        path = Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == name.split(".")[0]]:
            sys.modules.pop(loaded)

    yield write
    for loaded in ("ownnets", "ownways", "ownways.mine"):
        sys.modules.pop(loaded, None)


def test_an_edited_teacher_is_another_teacher(module, tmp_path: Path):
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(architecture="ownnets:Net"))
    module("ownnets", NET.replace("SCALE", "1"))
    for _ in range(2):
        pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    module("ownnets", NET.replace("SCALE", "3"))
    with pytest.raises(AttarError, match="squeeze was made from an earlier version of your source code"):
        pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)


def test_an_edited_student_is_trained_again(module, finished: Path):
    recipe = mini_recipe()
    evaluate = recipe.evaluate.changed(students=("ownnets:Net",), rows=("distilled",), num_seeds=1)
    recipe = recipe.changed(evaluate=evaluate)
    module("ownnets", NET.replace("SCALE", "1"))
    first = {path.name for path in (finished / "evaluate" / "scores").iterdir()}
    counts = []
    for scale in ("1", "1", "3"):
        module("ownnets", NET.replace("SCALE", scale))
        pipeline.run(recipe, finished, stage="evaluate", quiet=True)
        counts.append(len({path.name for path in (finished / "evaluate" / "scores").iterdir()} - first))
    assert counts == [1, 1, 2]


def test_an_edited_method_is_another_method(module, finished: Path, tmp_path: Path):
    module("ownways.mine", "from attar.methods.sre2l import *")
    recipe = mini_recipe().with_method("ownways.mine")
    (finished / "squeeze").rename(tmp_path / "squeeze")
    out = tmp_path
    for _ in range(2):
        pipeline.run(recipe, out, stage="recover", quiet=True)
    module("ownways.mine", "from attar.methods.sre2l import *  # edited")
    with pytest.raises(AttarError, match="recover was made from an earlier version of your source code"):
        pipeline.run(recipe, out, stage="recover", quiet=True)


def test_a_method_that_is_nowhere_is_refused_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttarError, match="There is no module 'nosuch.way' for the method; start attar in the folder"):
        mini_recipe().with_method("nosuch.way")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
            self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).mean((2, 3)))


def test_a_module_of_the_callers_keeps_its_own_weights(tmp_path: Path):
    recipe = mini_recipe()
    recipe = recipe.changed(
        recover=recipe.recover.changed(accept_weak_teacher=True), relabel=recipe.relabel.changed(mode="online")
    )
    given = Small()
    for stage in ("squeeze", "recover", "relabel"):
        attar.run(recipe, tmp_path / "run", teacher=given, stage=stage, quiet=True)
    other = Small()
    before = other.head.weight.clone()
    next(iter(attar.load(tmp_path / "run" / "distilled", teacher=other).batches(epoch=0, batch_size=5)))
    assert torch.equal(other.head.weight, before)
    with pytest.raises(AttarError, match=r"pass it from Python: attar\.load\(folder, teacher=module\)"):
        next(iter(attar.load(tmp_path / "run" / "distilled").batches(epoch=0, batch_size=5)))
    written = recipe.changed(squeeze=recipe.squeeze.changed(architecture=teachers.name_of_module(other)))
    with pytest.raises(AttarError, match="was passed from Python .* pass it again"):
        pipeline.run(written, tmp_path / "run", quiet=True)
