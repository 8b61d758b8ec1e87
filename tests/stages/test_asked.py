"""Runs whose images, labels and rows ask no teacher: none is trained, and the set holds the classes alone."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.begin import recipe_of
from attar.core.errors import AttarError
from attar.pipeline import work_of
from attar.plan import forecast
from attar.recipes.arguments import changed_by, split, without_effect
from attar.recipes.catalogue import ENTRIES, recipe_named
from attar.recipes.recipe import Recipe
from attar.report import card
from attar.stages.asked import asks_teachers
from attar.stages.dataset_info import read_info
from attar.stages.folder import MANIFEST
from attar.stages.methods import method_named
from attar.stages.run import Run
from attar.store import sealed
from conftest import edit_json, mini_recipe

HARD = ("distilled-hard", "random-hard", "equal-bytes")


def alone(*rows: str, **relabel: Any) -> Recipe[Any]:
    """DM on digits with hard labels: nothing in it asks a teacher."""
    mini = mini_recipe()
    judging = mini.evaluate.changed(rows=rows or HARD, num_seeds=1, full_data="teacher")
    labelling = mini.relabel.changed(**{"mode": "none", **relabel})
    mini = mini.changed(evaluate=judging, relabel=labelling).with_method("dm")
    return mini.changed(recover=mini.recover.changed(ipc=1, iterations=2, real_batch=4, network_width=16))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    attar.run(alone(), out, quiet=True)
    return out


def test_no_teacher_is_trained_and_the_set_holds_images_only(made: Path):
    assert not (made / "squeeze").exists()
    files = {path.name for path in (made / "distilled").rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "dataset.json",
        "manifest.json",
        *(path.name for path in (made / "recover" / "data").iterdir()),
    }
    info = read_info(made / "distilled")
    assert (info.label_bytes, info.teachers, info.labels.mode, info.labels.scored) == (0, (), "none", "hard")
    rows = Run(made).scores.rows
    assert set(map(str, rows)) == set(HARD)
    assert {(row.teacher_seconds, row.label_bytes) for row in rows.values()} == {(0.0, 0)}


def test_the_set_trains_students_on_its_classes_and_says_that_it_has_no_soft_labels(made: Path):
    found = attar.load(made)
    assert repr(found).count("hard labels") == 1
    assert "soft" not in repr(found)
    images, targets = next(found.batches(0))
    assert targets.logits is None
    assert found.loss(images.flatten(1)[:, :10], targets).isfinite()
    assert len(found.hard_dataset()) == 10
    for ask in (found.soft_dataset, lambda: next(found.batches(0, soft=True))):
        with pytest.raises(AttarError, match=r"has no soft labels \(relabel.mode is 'none'\); train on its classes"):
            ask()


def test_card_and_page_speak_of_classes_alone(made: Path):
    assert "their classes as hard labels" in card.text(read_info(made / "distilled"), [])
    text = (made / "distilled" / "README.md").read_text()
    assert "soft" not in text.replace("soft=False", "")
    assert 'To open the images and their classes without attar, use `datasets.load_dataset("this folder")`.' in text
    page = (made / "report" / "index.html").read_text()
    assert 'id="labels-section"' not in page
    assert 'id="gallery-section"' in page


def test_a_finished_run_stays_as_it_is_when_a_row_asks_for_a_teacher_later(made: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(made, out)
    before = sealed.sha256_of(next((out / "recover" / "data").iterdir()))
    attar.run(alone(*HARD, "herding-hard", "full"), out, quiet=True)
    assert Run(out).is_done("squeeze")
    assert sealed.sha256_of(next((out / "recover" / "data").iterdir())) == before
    assert set(map(str, Run(out).scores.rows)) == {*HARD, "herding-hard", "full"}
    costs = {str(row): line.teacher_seconds for row, line in Run(out).scores.rows.items()}
    assert [row for row, seconds in costs.items() if seconds] == ["herding-hard"]  # the others asked it nothing
    attar.run(alone(), out, quiet=True)  # the teacher is there now, and nothing is made again
    assert set(map(str, Run(out).scores.rows)) == set(HARD)
    assert len(list((out / "baselines").glob("equal-bytes-*"))) == 1


def test_a_run_of_an_earlier_version_keeps_its_images_its_labels_and_its_teacher(tmp_path: Path):
    out = tmp_path / "run"
    attar.run(alone(mode="online"), out, quiet=True)
    assert (out / "distilled" / "teacher").is_dir()
    weights = Run(out).teachers[0].weights_sha256
    for folder in (out / "recover", out / "baselines" / "random" / "recover"):  # as it recorded them
        parents = sealed.read_json(folder / MANIFEST, "")["parents"]
        assert "teacher" not in parents
        edit_json(folder / MANIFEST, parents={"teacher": weights, **parents})
    held = {path: path.stat().st_mtime_ns for path in (out / "recover").rglob("*.parquet")}
    attar.run(alone(), out, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in held} == held
    assert (out / "distilled" / "teacher").is_dir()
    assert read_info(out / "distilled").labels.mode == "online"


@pytest.mark.parametrize("stage", ["", "evaluate"])
def test_soft_labels_of_a_set_without_them_are_refused_before_a_teacher_is_trained(
    made: Path, tmp_path: Path, stage: str
):
    out = tmp_path / "run"
    shutil.copytree(made, out)
    with pytest.raises(AttarError, match="distilled was made without soft labels"):
        attar.run(alone(*HARD, "distilled", mode="stored"), out, stage=stage, quiet=True)
    assert not (out / "squeeze").exists()
    attar.run(alone(mode="stored"), out, stage="evaluate", quiet=True)  # which rows with hard labels do not use


def test_a_committee_may_be_named_where_none_labels(tmp_path: Path):
    recipe = alone("distilled-hard", committee={"members": (0, 1), "policy": "weighted", "weights": (1.0, 2.0)})
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(members=({}, {})))
    attar.run(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "squeeze").exists()
    attar.run(recipe.changed(evaluate=recipe.evaluate.changed(rows=("herding-hard",))), tmp_path / "run", quiet=True)
    assert len(Run(tmp_path / "run").teachers) == 2  # and the set stays as it is


def test_soft_rows_are_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(AttarError, match="The row random-soft trains with soft labels, and --relabel.mode none makes"):
        attar.run(alone("distilled-hard", "random-soft"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_method_that_asks_a_teacher_although_it_needs_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "asking.py").write_text(
        "from dataclasses import replace\n"
        "import torch\n"
        "from attar.synthesis.method import MethodConfig\n"
        "from attar.synthesis.task import Recovered\n"
        "class Config(MethodConfig):\n"
        "    def needs(self):\n"
        "        return replace(super().needs(), teachers='none')\n"
        "def recover(task, config):\n"
        "    task.teachers[0].module(torch.zeros(1, 3, *task.size))\n"
        "    return Recovered(torch.zeros(len(task.labels), 3, *task.size))\n"
    )
    recipe = alone("distilled-hard").with_method("own.asking")
    with pytest.raises(AttarError, match=r"says that it needs none .*teachers='one'"):
        attar.run(recipe, tmp_path / "run", quiet=True)


def test_plan_counts_no_teacher(mini_run: Path):
    recipe = alone()
    real = attar.pipeline.load(recipe.data, 0, attar.pipeline.Log(quiet=True))
    lines = forecast.lines(work_of(recipe, real))
    assert lines[0] == "Squeeze: nothing, because neither images nor labels nor rows of the table ask a teacher"
    assert any("Relabel: nothing, because students use hard labels" in line for line in lines)
    classes_only = recipe.evaluate.protocol.changed(loss="hard")
    for rows in (("distilled", "distilled-noaug"), ("full",)):
        judging = recipe.evaluate.changed(rows=rows, protocol=classes_only)
        work = work_of(recipe.changed(evaluate=judging), real)
        assert forecast.made(work)[-1] == "Labels: hard, the class of each image"
        assert forecast._relabel(work) == (0.0, "nothing, because students use hard labels")


@pytest.mark.parametrize(
    ("rows", "relabel", "asked"),
    [
        (("distilled-hard",), {}, False),
        (("distilled-hard", "random-hard", "equal-bytes"), {}, False),
        (("distilled-hard",), {"mode": "online"}, True),
        (("distilled-hard", "herding-hard"), {}, True),
        (("distilled-hard", "kcentre-hard"), {}, True),
        (("distilled-hard", "full"), {}, True),
    ],
)
def test_who_asks(rows: tuple[str, ...], relabel: dict[str, Any], asked: bool):
    recipe = alone(*rows, **relabel)
    assert asks_teachers(recipe.recover.needs(), recipe.relabel, recipe.evaluate) is asked
    trained = recipe.changed(evaluate=recipe.evaluate.changed(full_data="train"))
    if "full" in rows:  # students are trained on all real images, and no teacher is shown
        assert not asks_teachers(trained.recover.needs(), trained.relabel, trained.evaluate)
    assert asks_teachers(method_named("cda").Config().needs(), recipe.relabel, recipe.evaluate)


def test_a_typed_setting_of_a_teacher_that_is_not_trained_is_named(capsys: pytest.CaptureFixture[str]):
    def told(*words: str) -> list[str]:
        pairs = list(zip(words[::2], ([word] for word in words[1::2]), strict=True))
        return without_effect(changed_by(alone(), pairs, "attar"), pairs)

    epochs = ("--squeeze.training.epochs", "9")
    assert told(*epochs) == ["--squeeze.training.epochs has no effect: no teacher is asked, so none is trained"]
    assert told(*epochs, "--relabel.mode", "online") == []
    assert told("--squeeze.experts.number", "3") == []
    given = split(
        "squeeze", ["digits", "--method", "dm", "--relabel.mode", "none", *epochs, "--evaluate.rows", HARD[0]]
    )
    recipe_of("squeeze", given)
    assert "has no effect" not in capsys.readouterr().err  # 'attar squeeze' trains one all the same
    recipe_of("run", given)
    assert "--squeeze.training.epochs has no effect" in capsys.readouterr().err


def test_recipes_with_hard_rows_alone_make_no_soft_labels():
    found = [name for name in ENTRIES if re.match(r"(dm|mtt|tesla|ncfm)/(cifar|tiny)", name) or name.endswith("-hard")]
    assert len(found) > 20
    for name in found:
        assert recipe_named(name).relabel.mode == "none", name
