"""examples/continual.py: its tables, what a student and a teacher may know of classes to come, resuming."""

import csv
import itertools
import shutil
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.core.errors import AttarError
from conftest import MINI

QUICK = ["--steps", "2", "3", "--seeds", "2", "--epochs", "2", "--quiet", "--execution.threads", "1"]
SEEN = (7, 2, 5)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(continual: ModuleType, mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; tests read it."""
    folder = tmp_path_factory.mktemp("continual") / "out"
    continual.main([str(mini_run), "--out", str(folder), *QUICK])
    return folder


@pytest.fixture(scope="module")
def opened(continual: ModuleType, mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    recipe, run = continual.open_run(str(mini_run), ["--execution.threads", "1"], mini_run, True)
    return continual.Continual(recipe, run, tmp_path_factory.mktemp("opened"), 2, True)


def test_the_first_of_several_teachers_labels_and_a_run_without_one_is_refused(
    continual: ModuleType, mini_run: Path, opened: Any, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(mini_run, run)
    (run / "squeeze").rename(tmp_path / "0")
    with pytest.raises(AttarError, match="run has no teacher, which labels the memory here"):
        continual.Continual(opened.recipe, run, tmp_path / "out", 2, True)
    (tmp_path / "0").rename((run / "squeeze").with_name("squeeze-0"))
    (run / "squeeze").mkdir()
    (run / "squeeze-0").rename(run / "squeeze" / "0")
    found = continual.Continual(opened.recipe, run, tmp_path / "out", 2, True)
    assert found.teacher_sha256 == opened.distilled.info.teachers[0].weights_sha256
    assert found.teacher_bytes == opened.teacher_bytes
    assert found.score_path("distilled", SEEN, 0).name == opened.score_path("distilled", SEEN, 0).name


def test_a_memory_has_the_quality_of_its_format(continual: ModuleType, opened: Any, tmp_path: Path):
    def num_bytes(**storage: Any) -> int:
        recipe = opened.recipe.changed(recover=opened.recipe.recover.changed(image_format="webp", **storage))
        return int(continual.Continual(recipe, tmp_path, tmp_path, 2, True).memory("distilled", 0).num_bytes.sum())

    shutil.copytree(opened.distilled.folder.parent, tmp_path, dirs_exist_ok=True)
    assert num_bytes(webp_quality=20) < num_bytes(webp_quality=95)


def test_every_step_has_a_line_for_every_memory(out: Path):
    lines = table(out / "continual.csv")
    assert [(line["steps"], line["num_classes"]) for line in lines if line["row"] == "distilled"] == [
        *(("2", "5"), ("2", "10")),
        *(("3", "4"), ("3", "7"), ("3", "10")),
    ]
    assert [line["row"] for line in lines[:8:2]] == ["distilled", "random-soft", "random-hard", "teacher"]
    for line in lines:
        count = int(line["num_classes"])
        assert 0 <= float(line["top1_mean"]) <= 100
        if line["row"] == "teacher":
            assert (line["num_seeds"], line["top1_std"]) == ("1", "")
            assert float(line["top1_mean"]) > 80
        else:
            assert line["num_seeds"] == "2"
            assert float(line["top1_std"]) >= 0
            assert int(line["num_images"]) == 2 * count
            assert 50 * 2 * count < int(line["image_bytes"]) < 500 * 2 * count
            assert (int(line["label_bytes"]) > 0) == (line["row"] != "random-hard")
    full = [line for line in lines if line["num_classes"] == "10"]
    assert len({(line["row"], line["top1_mean"], line["image_bytes"]) for line in full}) == 4, "the order is the same"
    assert Image.open(out / "continual.png").size == (920, 420)


def test_the_average_is_that_of_the_steps(out: Path):
    lines, averages = table(out / "continual.csv"), table(out / "average.csv")
    assert len(averages) == 8
    for average in averages:
        steps = [line for line in lines if (line["steps"], line["row"]) == (average["steps"], average["row"])]
        mean = statistics.fmean(float(line["top1_mean"]) for line in steps)
        assert float(average["top1_mean"]) == pytest.approx(mean, abs=0.011)


def test_steps_that_see_the_same_classes_share_a_training(out: Path):
    assert len(list((out / "scores").iterdir())) == 3 * 2 * len({5, 10, 4, 7})


def test_a_second_run_trains_only_what_is_missing_and_finds_the_same(
    continual: ModuleType, mini_run: Path, out: Path, tmp_path: Path
):
    again = tmp_path / "again"
    again.mkdir()
    (again / "scores").mkdir()
    paths = sorted((out / "scores").iterdir())
    for path in paths:
        (again / "scores" / path.name).write_bytes(path.read_bytes())
    missing = [path.name for path in paths if path.name.startswith(("distilled-5-seed1", "random-hard-7-seed0"))]
    for name in missing:
        (again / "scores" / name).unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (again / "scores").iterdir()}
    continual.main([str(mini_run), "--out", str(again), *QUICK])
    assert len(missing) == 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    for name in ("continual.csv", "average.csv", *(f"scores/{path.name}" for path in paths)):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_targets_are_the_teachers_answers_for_the_seen_classes_alone(continual: ModuleType, opened: Any):
    memory = opened.memory("distilled", 0).of(SEEN)
    assert memory.labels.tolist() == [{7: 0, 2: 1, 5: 2}[int(x)] for x in opened.distilled.labels if int(x) in SEEN]
    names = [opened.distilled.classes[label] for label in SEEN]
    assert opened.restricted(SEEN).classes == tuple(names)
    found = list(continual.batches(memory, opened.restricted(SEEN), opened.recipe.relabel, opened.protocol, 0, 3))
    assert sum(len(shown) for shown, _ in found) == 6
    for shown, targets in found:
        with torch.no_grad():
            everything = opened.teacher.logits(shown)
        plain = torch.stack([everything[:, 7], everything[:, 2], everything[:, 5]], dim=1)
        torch.testing.assert_close(targets.logits, plain)
        torch.testing.assert_close(targets.logits.softmax(1).sum(1), torch.ones(len(shown)))
        assert set(targets.labels.tolist()) | set(targets.partner_labels.tolist()) <= {0, 1, 2}
        # in the teacher's own proportions: its distribution over all classes, cut down and scaled up to 1
        cut = everything.softmax(1)[:, list(SEEN)]
        torch.testing.assert_close(targets.logits.softmax(1), cut / cut.sum(1, keepdim=True), atol=1e-4, rtol=1e-3)


def test_pixels_of_classes_to_come_reach_neither_teacher_nor_student(continual: ModuleType, opened: Any):
    memory = opened.memory("distilled", 0)
    unseen = torch.tensor([label not in SEEN for label in memory.labels.tolist()])
    pixels = torch.where(unseen[:, None, None, None], 255 - memory.images, memory.images)
    other = continual.Memory(pixels, memory.labels, memory.num_bytes)
    assert unseen.any()
    both = [
        list(continual.batches(kept.of(SEEN), opened.restricted(SEEN), opened.recipe.relabel, opened.protocol, 0, 1))
        for kept in (memory, other)
    ]
    for (one, targets), (two, same) in zip(*both, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(targets.logits, same.logits)


def test_views_are_drawn_anew_each_epoch_and_labels_with_them(continual: ModuleType, opened: Any):
    memory = opened.memory("distilled", 0).of(SEEN)
    teacher = opened.restricted(SEEN)
    first, again, second = (
        next(continual.batches(memory, teacher, opened.recipe.relabel, opened.protocol, 0, epoch))[1].logits
        for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("row", ["distilled", "random-hard"])
def test_a_student_knows_no_unseen_class(continual: ModuleType, opened: Any, row: str):
    network = opened.student(row, opened.memory(row, 0).of(SEEN), SEEN, 0)
    shown = torch.cat([images for images, _ in opened.validation(tuple(range(10)))])
    with torch.no_grad():
        logits = continual.predictor(network, opened.distilled.normalisation)(shown)
    assert logits.shape == (359, 3)


def test_only_validation_images_of_seen_classes_are_tested(opened: Any):
    images, places = (torch.cat(parts) for parts in zip(*opened.validation(SEEN), strict=True))
    labels = opened.space.val.labels
    chosen = np.flatnonzero(np.isin(labels, SEEN))
    assert [SEEN[place] for place in places.tolist()] == labels[chosen].tolist()
    assert torch.equal((images * 255).round().to(torch.uint8), opened.space.val.take(chosen.tolist()))
    always_seven = torch.tensor([1.0, 0.0, 0.0])
    share = float((labels[chosen] == 7).mean())
    assert opened.accuracy(lambda shown: always_seven.expand(len(shown), 3), SEEN) == pytest.approx(share)


def test_random_real_images_are_as_many_of_each_class_and_others_for_another_seed(opened: Any):
    first, again, other = (opened.memory("random-soft", seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(first.labels.bincount(), opened.distilled.labels.bincount())
    train = opened.space.train
    for image, label in zip(first.images, first.labels.tolist(), strict=True):
        same = train.take(np.flatnonzero(train.labels == label).tolist())
        assert (same == image).flatten(1).all(1).any()
    assert torch.equal(first.images, opened.memory("random-hard", 0).images), "with either kind of labels the same"


def test_classes_come_in_a_seeded_order_and_stay(continual: ModuleType):
    stages = continual.seen_after(10, 4, 0)
    assert [len(seen) for seen in stages] == [3, 6, 8, 10]
    assert all(later[: len(seen)] == seen for seen, later in itertools.pairwise(stages))
    assert sorted(stages[-1]) == list(range(10))
    assert stages == continual.seen_after(10, 4, 0)
    assert stages != continual.seen_after(10, 4, 1)
    assert continual.seen_after(10, 10, 0)[-1] == stages[-1]
    with pytest.raises(AttarError, match="10 classes cannot come in 11 steps; use --steps 10"):
        continual.seen_after(10, 11, 0)


def test_a_finished_run_is_not_altered(continual: ModuleType, mini_run: Path, tmp_path: Path, out: Path):
    assert not (mini_run / "scores").exists()
    assert (out / "scores").exists()
    with pytest.raises(AttarError, match="is finished, and these settings alter it"):
        continual.main([str(mini_run), "--out", str(tmp_path / "out"), "--recover.ipc", "3"])
    with pytest.raises(AttarError, match="--recover.ipcs"):
        continual.main([str(mini_run), "--out", str(tmp_path / "out"), "--recover.ipcs", "3"])
    assert not (tmp_path / "out").exists()


def test_a_recipes_run_is_made(continual: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    one = ["--steps", "1", "--seeds", "1", "--epochs", "1", "--quiet"]
    continual.main(["digits", "--out", str(tmp_path / "out"), *one, *MINI])
    printed = capsys.readouterr().out.splitlines()
    assert (tmp_path / "out" / "run" / "distilled" / "manifest.json").is_file()
    assert not (tmp_path / "out" / "run" / "evaluate").exists()
    assert [line.split(" | ")[1] for line in printed[2:]] == list(continual.TITLES.values())
