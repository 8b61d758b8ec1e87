"""stages/method_code.py: mistakes in a method of one's own end in one sentence, and nothing broken is kept."""

import contextlib
import shutil
import sys
from pathlib import Path

import pytest

from attar import pipeline
from attar.core import plugin
from attar.core.errors import AttarError
from attar.stages.methods import method_named
from conftest import mini_recipe

METHOD = """
import torch

from attar.synthesis.method import MethodConfig, Preparation
from attar.synthesis.task import Recovered


class Config(MethodConfig):
    pass


def step(context, config):
    return {TABLE}


def prepare(config):
    return {STEPS}


def recover(task, config):
    images = torch.full((len(task.labels), 3, *task.size), 0.5)
    return {RESULT}
"""
RIGHT = {"TABLE": "{'key': torch.zeros(len(context.rows), 1)}", "STEPS": "[]", "RESULT": "Recovered(images)"}
STEP = "[Preparation('means', step, per_teacher=False)]"
WRONG = {
    "nothing": ({"RESULT": "None"}, "returned NoneType, not Recovered"),
    "one image too few": (
        {"RESULT": "Recovered(images[1:])"},
        r"images of shape \(19, 3, 8, 8\) and not \(20, 3, 8, 8\)",
    ),
    "no tensor": ({"RESULT": "Recovered([])"}, "images of shape list and not"),
    "beyond white": ({"RESULT": "Recovered(images * 3)"}, "pixels from 1.5 to 1.5, and images lie in"),
    "not a number": ({"RESULT": "Recovered(images / 0 * 0)"}, "its pixels are not finite"),
    "an exception": ({"RESULT": "images.no_such_name"}, r"mine.py, line 22\); correct it"),
    "one step and no list": ({"STEPS": STEP[1:-1]}, "not iterable"),
    "a step without tables": ({"STEPS": STEP, "TABLE": "None"}, "The method ownways.mine failed with"),
    "a table of other rows": ({"STEPS": STEP, "TABLE": "{'key': torch.zeros(3, 1)}"}, "for 10 rows"),
    "an unknown setting": ({"STEPS": STEP, "TABLE": "{'key': config.ipc}"}, "ipc.*mine.py, line 13"),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the method ``ownways.mine`` into the working folder, as if in a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("ownways").mkdir()

    def write(text: str) -> None:
        Path("ownways", "mine.py").write_text(text)
        for name in ("ownways", "ownways.mine"):
            sys.modules.pop(name, None)

    yield write
    for name in ("ownways", "ownways.mine"):
        sys.modules.pop(name, None)


def filled(text: str, parts: dict[str, str]) -> str:
    """The text with each part in place of its name in braces."""
    for key, value in parts.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def recovered(mini_run: Path, out: Path) -> None:
    """Make two images per class with the method ``ownways.mine`` and the mini run's teacher."""
    shutil.copytree(mini_run / "squeeze", out / "squeeze")
    recipe = mini_recipe().with_method("ownways.mine")
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=2, unit_slots=2))
    pipeline.run(recipe, out, stage="recover", quiet=True)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence_and_no_unit_is_kept(own, mini_run, tmp_path, name: str):
    changes, words = WRONG[name]
    own(filled(METHOD, RIGHT | changes))
    with pytest.raises(AttarError, match=words) as raised:
        recovered(mini_run, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "run" / "recover").rglob("*.safetensors"))


OWN = """
import torch

from attar.synthesis.method import MethodConfig, Needs, Preparation
from attar.synthesis.task import Recovered


class Config(MethodConfig):
    def metrics(self):
        return {METRICS}

    def needs(self):
        return super().needs() | Needs(real_images={REAL})


def prepare(config):
    return [Preparation("means", step, per_teacher=False)]


def step(context, config):
    return {"count": torch.tensor([{COUNT} for row in context.rows])}


def recover(task, config):
    images = torch.full((len(task.labels), 3, *task.size), 0.5)
    task.monitor.step(0, lambda: images, {REPORTED})
    {USE}
    return Recovered(images)
"""
DECLARED = {
    "METRICS": "('loss',)",
    "REAL": "True",
    "COUNT": "context.real.count(row)",
    "REPORTED": "loss=torch.ones(1)",
}
DECLARED |= {"USE": "task.real.take(0, [0])"}
UNDECLARED = {
    "all is declared": ({}, ""),
    "not declared": ({"METRICS": "()"}, r"reports metrics that it does not declare \(loss\); return"),
    "not reported": ({"METRICS": "('loss', 'size')"}, r"mine declares metrics that it does not report \(size\)"),
    "no iteration": ({"REPORTED": "", "METRICS": "('loss',)"}, r"declares metrics that it does not report \(loss\)"),
    "real images in recover": ({"REAL": "False", "COUNT": "1"}, r"reads real images and does not declare it; .*Needs"),
    "real images in a step": ({"REAL": "False", "USE": ""}, r"reads real images and does not declare it; .*Needs"),
    "a wrong table": (
        {"USE": "task.table('means.cuont')"},
        "no table 'means.cuont' of teacher 0; there are means.count",
    ),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_what_a_method_does_is_what_it_declares(own, mini_run, tmp_path, name: str):
    changes, words = UNDECLARED[name]
    own(filled(OWN, DECLARED | changes))
    with pytest.raises(AttarError, match=words) if words else contextlib.nullcontext():
        recovered(mini_run, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "cannot be imported .SyntaxError"),
        ("import no_such_package\n", "cannot be imported .ModuleNotFoundError"),
        ("class Config:\n    pass\n\n\nrecover = None\n", "derive it from attar.synthesis.method.MethodConfig"),
        ("recover = None\n", "it lacks Config"),
    ],
)
def test_a_file_that_is_no_method_is_refused(own, text: str, words: str):
    own(text)
    with pytest.raises(AttarError, match=words):
        method_named("ownways.mine")


def test_a_file_beside_is_pointed_to(own):
    Path("nearby.py").write_text("")
    with pytest.raises(AttarError, match="move it into a folder and give the dotted path, FOLDER.nearby"):
        plugin.resolve("attar.methods", "nearby", "method")
