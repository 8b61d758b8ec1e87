"""What attar reads names no code: only what the user typed is imported. docs/trust.md lists both, with these tests."""

import ast
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.build import build
from attar.recipes.recipe import Recipe
from attar.stages.imported import parted
from conftest import edit_json, mini_recipe

ROOT = Path(__file__).parents[1]
OWN = "attar_test_nets:make"
MODULE = """
import pathlib
from attar.models.build import build
pathlib.Path({log!r}).open("a").write("imported ")
def make(num_classes, image_size):
    pathlib.Path({log!r}).open("a").write("called ")
    return build("convnet3", num_classes, image_size, seed=0)
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the network outside attar says that it was imported or called."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "attar_test_nets.py").write_text(MODULE.format(log=str(tmp_path / "called")))
    monkeypatch.syspath_prepend(tmp_path / "nets")
    monkeypatch.delitem(__import__("sys").modules, "attar_test_nets", raising=False)
    return tmp_path / "called"


def online(architecture: str = "convnet3") -> Recipe:
    recipe = mini_recipe()
    return recipe.changed(
        squeeze=recipe.squeeze.changed(
            architecture=architecture, training=recipe.squeeze.training.changed(epochs=1, warmup_epochs=0)
        ),
        recover=recipe.recover.changed(ipc=1, iterations=1, snapshots=(), accept_weak_teacher=True),
        relabel=recipe.relabel.changed(mode="online", epochs=1),
        evaluate=recipe.evaluate.changed(num_seeds=1, rows=("distilled",)),
    )


def rename(folder: Path, architecture: str) -> None:
    """Make a saved teacher name another network, as somebody may who means harm: record, weights and hashes fit."""
    found = teachers.load(folder)
    dataclasses.replace(found, architecture=architecture).save(folder)


def hostile(run: Path, architecture: str = OWN) -> Path:
    """An artefact with on-line labels whose teacher names code."""
    pipeline.run(online(), run, stage="squeeze", quiet=True)
    for stage in ("recover", "relabel"):
        pipeline.run(online(), run, stage=stage, quiet=True)
    rename(run / "distilled" / "teacher" / "0", architecture)
    edit_json(run / "distilled" / "dataset.json", files={})
    return run / "distilled"


def test_a_downloaded_artefact_runs_no_code(tmp_path: Path, called: Path):
    folder = hostile(tmp_path / "run")
    opened = attar.load(folder)
    with pytest.raises(AttarError, match=rf"teacher.json names the network '{OWN}', which is code outside.*factories="):
        next(iter(opened.batches(0, 5)))
    assert not called.exists()


@pytest.mark.parametrize("name", ["os:kill", "timm/hf-hub:someone/model", "torchvision/../x:y", "a.b:c"])
def test_a_record_names_nothing_but_attars_torchvisions_and_timms_networks(tmp_path: Path, name: str):
    network = build("convnet3", 2, 8, seed=0)
    grey = attar_normalisation()
    teachers.Teacher(network, "convnet3", "standard", ("a", "b"), grey, 8).save(tmp_path)
    rename(tmp_path, name)
    with pytest.raises(AttarError, match="code outside attar"):
        teachers.load(tmp_path)


def attar_normalisation():
    from attar.ops.pixels import Normalisation

    return Normalisation((0.5,) * 3, (0.5,) * 3)


def test_a_squeeze_folder_of_someone_else_runs_no_code(tmp_path: Path, mini_run: Path, called: Path):
    folder = tmp_path / "theirs"
    shutil.copytree(mini_run / "squeeze", folder)
    (folder / "manifest.json").unlink()
    rename(folder, OWN)
    recipe = online()
    alone = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(folder)))
    second = recipe.changed(squeeze=recipe.squeeze.changed(members=({}, {"weights": str(folder)})))
    for spoiled in (alone, second):
        with pytest.raises(AttarError, match=f"--squeeze.architecture {OWN}"):
            pipeline.run(spoiled, tmp_path / "run", quiet=True)
    assert f"--squeeze.architecture {OWN}" in pipeline.plan(alone, quiet=True)
    assert not called.exists()
    typed = alone.changed(squeeze=alone.squeeze.changed(architecture=OWN))
    pipeline.run(typed, tmp_path / "typed", stage="squeeze", quiet=True)
    assert called.read_text().startswith("imported called")


def test_ones_own_network_works_in_ones_own_run_and_opens_when_it_is_named(tmp_path: Path, called: Path):
    pipeline.run(online(OWN), tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "distilled"
    called.unlink()
    with pytest.raises(AttarError, match="which is code outside"):
        next(iter(attar.load(folder).batches(0, 5)))
    assert not called.exists()
    named = next(iter(attar.load(folder, factories=[OWN]).batches(0, 5)))
    given = next(iter(attar.load(folder, teacher=build("convnet3", 10, 8, seed=3)).batches(0, 5)))
    assert torch.equal(named[1].logits, given[1].logits)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50:IMAGENET1K_V1", ("resnet50", "IMAGENET1K_V1")),
        ("timm/vit:a/b.pth", ("timm/vit", "a/b.pth")),
        ("mynets.small:Net:runs/a/squeeze", ("mynets.small:Net", "runs/a/squeeze")),
        ("resnet18", ("resnet18", "")),
    ],
)
def test_a_verifier_may_be_ones_own_network(name: str, parts: tuple[str, str]):
    assert parted(name) == parts


def test_hashes_that_fit_are_no_reason_to_trust(tmp_path: Path, called: Path):
    """A recipe in a folder is not read, and a record with whatever in it is a sentence."""
    folder = hostile(tmp_path / "run")
    record = json.loads((folder / "teacher" / "0" / "teacher.json").read_text())
    for change in ({"image_size": 10**9}, {"std": [0, 1, 1]}, {"classes": []}, {"mean": "x"}, {"more": 1}):
        (folder / "teacher" / "0" / "teacher.json").write_text(json.dumps(record | change))
        with pytest.raises(AttarError, match="teacher"):
            next(iter(attar.load(folder).batches(0, 5)))
    assert not called.exists()


RISKY = re.compile(
    r"(importlib\.)?import_module|__import__|exec|eval|runpy\.\w+|pickle\.(loads?|Unpickler)|marshal\.\w+|joblib\.\w+|torch\.load"
    r"|torch\.hub\.\w+|yaml\.(unsafe_|full_)?load|subprocess\.\w+|os\.(system|popen|exec\w*|spawn\w*)"
)
ALLOWED = {
    ("__init__.py", "importlib.import_module"): "names in attar itself",
    ("cli.py", "importlib.import_module"): "names in attar itself",
    ("verbs.py", "importlib.import_module"): "names in attar itself",
    ("plan/doctor.py", "importlib.import_module"): "five packages by their names, which stand there",
    ("core/raw_yaml.py", "yaml.load"): "by a SafeLoader: plain values",
    ("core/plugin.py", "importlib.import_module"): "methods: names in attar, and dotted paths that were typed",
    ("models/factory.py", "importlib.import_module"): "networks: factories that were typed",
    ("store/pickles.py", "torch.load"): "with weights_only: tensors and plain values",
}


def test_code_is_imported_in_a_few_places_only():
    """Whoever adds a way from a name to code must add it here, and to docs/trust.md."""
    found = set()
    for path in sorted((ROOT / "src" / "attar").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and RISKY.fullmatch(called := ast.unparse(node.func)):
                found.add((path.relative_to(ROOT / "src" / "attar").as_posix(), called))
    assert found == set(ALLOWED)


def test_every_line_of_the_page_names_a_test_that_there_is():
    text = (ROOT / "docs" / "trust.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 12
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "|---"))]
    assert rows
    assert all("::test_" in row for row in rows), "every row names its test"


def test_own_modules_are_taken_from_python(tmp_path: Path, mini_run: Path):
    """A module that the caller hands over is code that he typed: nothing is imported for it."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = teachers.load(mini_run / "squeeze").module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)

    pipeline.run(online(), tmp_path / "run", teacher=Own(), stage="squeeze", quiet=True)
    with pytest.raises(AttarError, match="your own .*pass it from Python"):
        teachers.load(tmp_path / "run" / "squeeze")
    assert teachers.load(tmp_path / "run" / "squeeze", module=Own()).architecture.startswith("python:")
