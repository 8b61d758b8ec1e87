"""Every check with sound cases, from built-in recipes, and with bad ones."""

import json
import math

import pytest
import torch

from attar.core.log import Log
from attar.methods import cda, dm, edc, random, rded
from attar.stages import health
from attar.stages.health import Finding, Health, Sampled

CLASSES = tuple("abcdefghij")


def means(loss: float, cross_entropy: float, view_accuracy: float) -> dict[str, float]:
    return {"loss": loss, "cross_entropy": cross_entropy, "view_accuracy": view_accuracy}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"loss": -1e30, "cross_entropy": 0.0}, {}])
def test_finite_numbers_are_sound(values):
    assert health.not_finite(values, "unit", 50, cda.Config()) is None


def test_a_loss_that_is_not_finite_is_found():
    found = health.not_finite({"loss": math.nan, "cross_entropy": 1.0}, "slot00000-block0000", 50, cda.Config())
    assert found is not None
    assert found.text.startswith("loss of slot00000-block0000 is not finite after 50 iterations")
    assert "lower --recover.learning-rate" in found.text
    found = health.not_finite({"loss": math.inf, "distance": math.nan}, "unit", 50, dm.Config())
    assert found is not None
    assert "loss and distance of unit are not finite" in found.text
    assert "lower --recover.image-learning-rate" in found.text


@pytest.mark.parametrize(
    "values",
    [means(5.4, 0.441, 0.9), means(15.8, 0.511, 0.85), means(18.8, 2.48, 0.5),  # 'digits' at 50, 100 and 150 of 200
     means(7.2, 6.9, 0.001), means(1e-9, 0.0, 1.0), means(900.0, 0.02, 0.99)],
)  # fmt: skip
def test_sound_losses(values):
    assert health.dominant_statistics(values, 10, 50, 0.01) is None


@pytest.mark.parametrize("values", [means(5000.0, 2.3, 0.1), means(60.0, 2.4, 0.3), means(math.inf, 2.3, 0.1)])
def test_statistics_that_dwarf_the_cross_entropy_are_found(values):
    found = health.dominant_statistics(values, 10, 50, 100.0)
    assert found is not None
    assert "lower --recover.bn-weight (now 100)" in found.text


def test_different_images_are_sound():
    images = noise(6, 3, 8, 8)
    assert health.collapsed(Sampled.of(images, [0, 0, 0, 1, 1, 2]), CLASSES, cda.Config(), photographs=False) is None
    dark = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    dark[0, :, 2:6, 3], dark[1, :, 3, 2:6] = 255, 255  # few pixels of a digit
    assert health.collapsed(Sampled.of(dark, [0, 0]), CLASSES, cda.Config(), photographs=False) is None
    grey = noise(2, 1, 8, 8).expand(2, 3, 8, 8)
    assert health.collapsed(Sampled.of(grey, [0, 0]), CLASSES, cda.Config(), photographs=False) is None


def test_images_of_one_colour_are_found():
    images = noise(4, 3, 8, 8)
    images[1] = torch.tensor([200, 10, 90], dtype=torch.uint8)[:, None, None] + noise(3, 8, 8) % 3  # nearly
    found = health.collapsed(Sampled.of(images, [0, 1, 2, 3]), CLASSES, cda.Config(), photographs=False)
    assert found is not None
    assert found.text.startswith("1 of 4 images are of one colour")
    assert "--recover.learning-rate" in found.text
    found = health.collapsed(Sampled.of(images, [0, 1, 2, 3]), CLASSES, random.Config(), photographs=True)
    assert found is not None
    assert "remove them from the data" in found.text


def test_copies_are_found_also_in_another_unit_and_class():
    images = noise(3, 3, 8, 8)
    units = [Sampled.of(images[:2], [0, 1]), Sampled.of(images[[2, 0]], [0, 1])]
    for one in units:
        assert health.collapsed(one, CLASSES, cda.Config(), photographs=False) is None
    found = health.collapsed(Sampled.together(units), CLASSES, cda.Config(), photographs=False)
    assert found is not None
    assert found.text.startswith("1 of 4 images are copies of others")
    found = health.collapsed(Sampled.together(units), CLASSES, random.Config(), photographs=True)
    assert found is not None
    assert "remove the duplicates from the data" in found.text


@pytest.mark.parametrize(("spread", "is_found"), [(1, True), (30, False)])
def test_a_class_whose_images_are_nearly_the_same_is_found(spread, is_found):
    one, draws = noise(3, 16, 16), noise(4, 3, 16, 16)
    images = (one // 2 + draws % (spread + 1)).to(torch.uint8)
    found = health.collapsed(Sampled.of(images, [4, 4, 4, 4]), CLASSES, cda.Config(), photographs=False)
    assert (found is not None) is is_found
    if found is not None:
        assert "the images of 'e' are nearly the same" in found.text
        assert "lower --recover.min-crop" in found.text


def test_images_of_different_classes_may_be_alike():
    one, draws = noise(3, 16, 16), noise(4, 3, 16, 16)
    images = (one // 2 + draws % 2).to(torch.uint8)
    assert health.collapsed(Sampled.of(images, [0, 1, 2, 3]), CLASSES, cda.Config(), photographs=False) is None


def test_how_sure_a_teacher_is():
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.0, 0.8, 0.2]])
    accuracy, confidence = health.own_images(probabilities, torch.tensor([0, 2, 1, 1]))
    assert (accuracy, confidence) == (0.75, pytest.approx((0.9 + 0.5 + 0.3 + 0.8) / 4))


def test_an_unsure_teacher_is_found():
    assert health.unsure_teacher(0.5, 0.4, "unit", edc.Config()) is None
    found = health.unsure_teacher(0.31, 0.22, "slot00000-block0000", edc.Config())
    assert found is not None
    assert "recognises 31% of the finished images of slot00000-block0000" in found.text
    stronger = "train a stronger teacher (--squeeze.training.epochs)"
    assert found.text.endswith(f"; raise --recover.iterations, lower --recover.bn-weight or {stronger}")
    found = health.unsure_teacher(0.31, 0.22, "slot00000-block0000", rded.Config())  # which has neither setting
    assert found is not None
    assert found.text.endswith(f"classes; {stronger}")


@pytest.mark.parametrize(
    ("top1", "num_images", "num_classes", "is_found"),
    [(0.11, 500, 10, True), (0.10, 359, 10, True), (0.02, 500, 10, True), (0.15, 500, 10, False),
     (0.24, 359, 10, False), (0.004, 512, 1000, True), (0.02, 512, 1000, False), (0.52, 100, 2, True),
     (0.72, 100, 2, False), (0.33, 24, 3, False), (0.33, 240, 3, True)],
)  # fmt: skip
def test_a_student_at_chance_is_found(top1, num_images, num_classes, is_found):
    found = health.student_at_chance(top1, num_images, num_classes, "resnet18", "distilled", 30, 300)
    assert (found is not None) is is_found
    if found is not None:
        assert "after 30 of 300 epochs" in found.text
        assert "--evaluate.protocol.training.epochs" in found.text


@pytest.mark.parametrize(
    ("epochs", "steps", "warmup", "epoch"),
    [(300, 10, 0, 30), (1000, 1, 0, 200), (300, 1, 0, 150), (80, 1, 0, 0), (3, 10, 0, 0), (3, 100, 0, 1),
     (100, 10, 20, 21), (100, 10, 49, 50), (100, 10, 60, 0), (20, 23, 1, 9), (100, 4, 0, 50)],
)  # fmt: skip
def test_a_student_is_examined_when_its_statistics_have_settled(epochs, steps, warmup, epoch):
    assert health.examined_epoch(epochs, steps, warmup) == epoch


def test_each_kind_is_told_once_also_when_the_run_is_continued(tmp_path, capsys):
    log = Log(tmp_path / "log.jsonl")
    for text in ("first", "second"):
        Health(log).tell(Finding("flat-images", text))
    own = Health(log)
    own.tell(None)
    own.tell(Finding("equal-images", "third"))
    own.tell(Finding("equal-images", "fourth"))
    assert capsys.readouterr().err == "warning: first\nwarning: third\n"
    log.warn("of another kind")
    assert health.recorded(tmp_path) == {"flat-images": "first", "equal-images": "third"}
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["warning"] * 3
