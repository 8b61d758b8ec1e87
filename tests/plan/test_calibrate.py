"""plan/calibrate.py: the training of networks and the labelling are timed step by step."""

from pathlib import Path
from typing import Any

import pytest

from attar.core.stopwatch import Pace
from attar.plan import calibrate
from attar.plan.calibrate import Work
from conftest import mini_recipe


@pytest.mark.parametrize(("weights", "stem"), [("", "small"), ("IMAGENET1K_V1", "standard"), ("FILE", "small")])
def test_the_teacher_has_the_stem_of_its_weights(weights: str, stem: str, tmp_path: Path, work_of):
    if weights == "FILE":
        (tmp_path / "teacher.pt").touch()
        weights = str(tmp_path / "teacher.pt")
    squeeze = mini_recipe().squeeze.changed(architecture="resnet18", weights=weights)
    teacher = calibrate.untrained_teacher(work_of(mini_recipe(), squeeze=squeeze, size=32))
    assert teacher.stem == stem
    assert (teacher.module.conv1.stride == (2, 2)) == (stem == "standard")


def test_a_teacher_in_a_squeeze_folder_is_of_its_own_kind(mini_run, work_of):
    squeeze = mini_recipe().squeeze.changed(architecture="resnet20", weights=str(mini_run / "squeeze"))
    assert calibrate.untrained_teacher(work_of(mini_recipe(), squeeze=squeeze)).architecture == "convnet3"


@pytest.mark.parametrize(
    ("batch_size", "images_per_second", "counts"),
    [(5, 64, [5]), (100, 64, [8, 19]), (16, 64, [8, 16]), (10, 64, [8, 10]), (100, 12, [8])],
)
def test_batches_that_take_long_are_measured_on_fewer_images(
    batch_size: int, images_per_second: int, counts: list[int], work_of
):
    now, asked = [0.0], []
    work = work_of(mini_recipe(), clock=lambda: now[0])

    def run(count: int, pace: Pace) -> None:
        asked.append(count)
        enough = False
        while not enough:
            now[0] += count / images_per_second
            enough = pace.tick()

    assert calibrate.seconds_per_image(work, batch_size, run) == pytest.approx(1 / images_per_second)
    assert asked == counts


def test_epochs_are_timed_image_by_image(monkeypatch, work_of):
    """With 3 ms an image whatever is done, an epoch takes 3 ms times its images."""
    monkeypatch.setattr(calibrate, "seconds_per_image", lambda work, batch_size, run: 0.003)
    work = work_of(mini_recipe())
    assert calibrate.full_epoch_seconds(work, "convnet3", "auto") == pytest.approx(0.003 * sum(work.counts))
    assert calibrate.distilled_epoch_seconds(work, "convnet3") == pytest.approx(0.003 * 20)
    assert calibrate.labels_epoch_seconds(work) == pytest.approx(0.003 * 20)


@pytest.mark.parametrize("measure", ["full", "distilled", "labels"])
def test_whole_batches_are_measured(measure: str, monkeypatch, work_of):
    asked = []

    def once(work: Work, batch_size: int, run: Any) -> float:
        asked.append(batch_size)
        pace = work.pace(0, 7)
        run(batch_size, pace)
        assert len(pace.times) == 7
        return 1.0

    monkeypatch.setattr(calibrate, "seconds_per_image", once)
    work = work_of(mini_recipe())
    if measure == "full":
        calibrate.full_epoch_seconds(work, "convnet3", "auto")
        calibrate.full_epoch_seconds(work, "convnet3", "auto")  # known by now
    elif measure == "distilled":
        calibrate.distilled_epoch_seconds(work, "convnet3")
    else:
        calibrate.labels_epoch_seconds(work)
    assert asked == [64 if measure == "full" else 20]
