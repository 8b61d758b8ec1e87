import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attar import pipeline
from attar.core.log import Log
from attar.methods import cda, cim, dm
from attar.ops.pixels import Normalisation
from attar.recipes.catalogue import recipe_named
from attar.stages import health, students
from attar.stages.checkup import UnitCheckup, examine_student
from attar.stages.health import Health
from attar.store import units
from attar.synthesis.task import Network
from conftest import mini_recipe

CLASSES = tuple("abcdefghij")


class Reader(nn.Module):
    """Reads the class from the first pixel of an image, which is 25 times its number."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255 / 25).round().long().clamp(0, 9), 10) * self.sure


TEACHER = Network(Reader(), Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def made(config: cda.Config | cim.Config | dm.Config, folder: Path, iterations: int = 500) -> UnitCheckup:
    return UnitCheckup(config, [TEACHER], CLASSES, iterations, Log(folder / "log.jsonl", quiet=True))


def images_of(unit: units.Unit, num_right: int, seed: int = 0) -> torch.Tensor:
    """Different images, of which the teacher recognises the first."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(unit.labels), 3, 8, 8), generator=draws, dtype=torch.uint8)
    for place, label in enumerate(unit.labels):
        images[place, :, 0, 0] = 25 * (label if place < num_right else (label + 1) % 10)
    return images


@pytest.fixture
def unit() -> units.Unit:
    (first, *_) = units.plan(10, 0, 1, 10)
    return first


def test_the_log_gets_how_sure_the_teacher_is(unit, tmp_path):
    known = made(cda.Config(), tmp_path).finished(unit, images_of(unit, 10))
    assert known == {"teacher_accuracy": 1.0, "teacher_confidence": pytest.approx(1.0, abs=1e-3)}
    assert health.recorded(tmp_path) == {}
    known = made(cda.Config(), tmp_path).finished(unit, images_of(unit, 3))
    assert known["teacher_accuracy"] == 0.3
    assert "recognises 30% of the finished images" in health.recorded(tmp_path)["unsure-teacher"]


def test_the_parts_of_a_mosaic_are_shown_one_by_one(unit, tmp_path):
    known = made(cim.Config(), tmp_path).finished(unit, images_of(unit, 10))
    assert known["teacher_accuracy"] < 0.6  # only the first part of four has the class in its first pixel


def test_a_method_without_teacher_is_not_measured_by_one(unit, tmp_path):
    assert made(dm.Config(), tmp_path).finished(unit, images_of(unit, 0)) == {}
    assert health.recorded(tmp_path) == {}


def test_losses_are_examined_after_a_tenth_of_the_iterations(tmp_path):
    bad = {"loss": 5000.0, "cross_entropy": 2.3, "view_accuracy": 0.1}
    made(cda.Config(), tmp_path, iterations=600).iteration("unit", 50, bad)
    made(dm.Config(), tmp_path).iteration("unit", 50, {"loss": 1e9})
    assert health.recorded(tmp_path) == {}
    made(cda.Config(), tmp_path, iterations=500).iteration("unit", 50, bad)
    made(cda.Config(), tmp_path).iteration("unit", 50, {**bad, "loss": float("nan")})
    assert list(health.recorded(tmp_path)) == ["dominant-statistics", "not-finite"]


def test_copies_in_different_units_are_found_at_the_end(unit, tmp_path):
    own = made(cda.Config(), tmp_path)
    for seed in (0, 0):
        own.add(unit, images_of(unit, 10, seed))
    assert health.recorded(tmp_path) == {}
    own.whole()
    assert "10 of 20 images are copies" in health.recorded(tmp_path)["equal-images"]


def test_a_student_is_measured_on_validation_images(tmp_path):
    labels = torch.arange(10).repeat(30).numpy()
    images = torch.zeros(300, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.tensor(labels * 25, dtype=torch.uint8)[:, None]
    val = SimpleNamespace(num_images=300, labels=labels, take=lambda rows: images[rows])
    space = SimpleNamespace(
        val=val, real=SimpleNamespace(classes=CLASSES), device=SimpleNamespace(device=torch.device("cpu"))
    )
    own, job = Health(Log(tmp_path / "log.jsonl", quiet=True)), SimpleNamespace(student="resnet18", row="distilled")
    examine_student(space, own, job, TEACHER.module, 30, 300)  # type: ignore[arg-type]
    assert health.recorded(tmp_path) == {}
    examine_student(space, own, job, lambda shown: TEACHER.module(shown * 0), 30, 300)  # type: ignore[arg-type]
    assert "has 10.0% on 300 validation images" in health.recorded(tmp_path)["student-at-chance"]


def test_the_examination_changes_no_student_and_warns_in_the_log(mini_run, finished, monkeypatch):
    shutil.rmtree(finished / "evaluate" / "scores")
    monkeypatch.setattr(students, "examined_epoch", lambda *_: 1)
    monkeypatch.setattr(health, "DEVIATIONS", 1000.0)
    monkeypatch.setattr(health, "TELLING", float("inf"))
    recipe = mini_recipe()
    pipeline.run(
        recipe.changed(evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=2)), finished, quiet=True
    )
    assert "after 1 of 3 epochs" in health.recorded(finished / "evaluate")["student-at-chance"]
    again = sorted((finished / "evaluate" / "scores").glob("*.json"))
    assert len(again) == 2
    for path in again:
        one, other = (json.loads(each.read_text()) for each in (path, mini_run / "evaluate" / "scores" / path.name))
        assert (one["score"]["top1"], one["losses"]) == (other["score"]["top1"], other["losses"])


def test_units_of_a_run_have_it_in_their_log(mini_run):
    lines = [json.loads(line) for line in (mini_run / "recover" / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["event"] == "unit"]
    assert len(found) == 2
    assert all(0 <= line["teacher_confidence"] <= 1 for line in found)
    baseline = (mini_run / "baselines" / "random" / "recover" / "log.jsonl").read_text()
    assert "teacher_confidence" not in baseline


@pytest.mark.parametrize(("weight", "found"), [(1.0, []), (300.0, ["dominant-statistics", "unsure-teacher"])])
def test_a_run_is_warned_of_statistics_that_weigh_too_much(squeezed, weight, found):
    recipe = mini_recipe()
    recover = recipe.recover.changed(iterations=100, unit_slots=2, bn_weight=weight)
    pipeline.run(recipe.changed(recover=recover), squeezed, stage="recover", quiet=True)
    assert list(health.recorded(squeezed / "recover")) == found
    entries = [json.loads(line) for line in (squeezed / "recover" / "log.jsonl").read_text().splitlines()]
    assert any("view_accuracy" in entry.get("values", {}) for entry in entries if entry["event"] == "progress")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits", "dm/digits-ipc1", "dm/digits-ipc10"])
def test_sound_runs_have_no_finding(recipe, tmp_path):
    whole = recipe_named(recipe)
    judged = whole.evaluate.changed(rows=("distilled", "distilled-hard"), num_seeds=1)
    pipeline.run(whole.changed(evaluate=judged), tmp_path / "run", quiet=True)
    assert [health.recorded(tmp_path / "run" / stage) for stage in ("recover", "evaluate")] == [{}, {}]
