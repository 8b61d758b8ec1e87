"""Accuracy and calibration against plain sums over images."""

import math

import pytest
import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.models.teacher import accuracy
from attar.ops.metrics import NUM_BINS, Measured, measure, tally


def drawn(count: int, num_classes: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(count)
    logits = scale * torch.randn(count, num_classes, generator=stream)
    return logits, torch.randint(0, num_classes, (count,), generator=stream)


def by_formula(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Image by image and bin by bin, as Guo et al. write it."""
    rows, classes = logits.double().softmax(1).tolist(), labels.tolist()
    seen = [(max(row), row.index(max(row)) == label) for row, label in zip(rows, classes, strict=True)]
    ece = 0.0
    for number in range(1, NUM_BINS + 1):
        inside = [(sure, hit) for sure, hit in seen if (number - 1) / NUM_BINS < sure <= number / NUM_BINS]
        if inside:
            accurate = sum(hit for _, hit in inside) / len(inside)
            confident = sum(sure for sure, _ in inside) / len(inside)
            ece += len(inside) / len(seen) * abs(accurate - confident)
    return {
        "top1": sum(hit for _, hit in seen) / len(seen),
        "ece": ece,
        "confidence": sum(sure for sure, _ in seen) / len(seen),
    }


def measured(logits: Tensor, labels: Tensor, batch_size: int = 7) -> Measured:
    """With the logits in the images' place."""
    return measure(lambda shown: shown, zip(logits.split(batch_size), labels.split(batch_size), strict=True))


@pytest.mark.parametrize("num_classes", [2, 4, 11])
def test_measures_equal_their_formulas(num_classes: int):
    logits, labels = drawn(200, num_classes)
    found = measured(logits, labels)
    for name, value in by_formula(logits, labels).items():
        assert math.isclose(getattr(found, name), value, abs_tol=1e-12), name
    assert (found.top1, found.top5) == pytest.approx(accuracy(lambda shown: shown, [(logits, labels)]), abs=1e-6)
    right = logits.argmax(1) == labels
    assert found.per_class == tuple(float(right[labels == label].double().mean()) for label in range(num_classes))


def test_batches_add_up_to_the_whole():
    logits, labels = drawn(50, 6)
    whole, parts = measured(logits, labels, 50), measured(logits, labels, 3)
    assert whole.per_class == parts.per_class
    assert (whole.top1, whole.top5) == (parts.top1, parts.top5)
    assert math.isclose(whole.ece, parts.ece, abs_tol=1e-12)


def test_a_calibrated_classifier_has_no_error_and_a_sure_one_all_of_its_mistakes():
    even = torch.log(torch.tensor([[0.75, 0.25]])).repeat(8, 1)
    assert measured(even, torch.tensor([0, 0, 0, 1, 0, 0, 0, 1])).ece == pytest.approx(0, abs=1e-7)
    sure = torch.tensor([[100.0, 0.0]]).repeat(8, 1)
    found = measured(sure, torch.tensor([0, 1, 1, 1, 0, 1, 1, 1]))
    assert (found.ece, found.confidence, found.top1) == (0.75, 1.0, 0.25)


def test_a_class_without_images_has_no_accuracy():
    logits, labels = drawn(30, 3)
    found = measured(logits, labels.clamp(max=1))
    assert found.per_class[2] is None
    assert all(isinstance(value, float) for value in found.per_class[:2])


def test_a_diverged_network_is_right_about_nothing():
    found = measured(torch.full((6, 3), math.nan), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert (found.top1, found.top5, found.confidence, found.ece) == (0, 0, 0, 0)
    assert found.per_class == (0, 0, 0)
    assert found.num_broken == 6


def test_images_without_a_number_are_counted():
    logits, labels = drawn(50, 6)
    whole = measured(logits, labels)
    hit = int((logits.argmax(1) == labels).nonzero()[0])
    logits[hit, 3] = math.nan
    found = measured(logits, labels)
    assert found.num_broken == 1
    assert found.top1 == pytest.approx(whole.top1 - 1 / 50)
    logits[hit] = torch.tensor([math.inf, 0, 0, 0, 0, 0])  # of no probability either
    assert measured(logits, labels).num_broken == 1
    logits[hit] = torch.tensor([-math.inf] * 5 + [0.0])  # classes that are ruled out
    assert measured(logits, labels).num_broken == 0


def test_a_teacher_without_numbers_is_refused():
    logits, labels = drawn(20, 3)
    logits[4:6] = math.nan
    with pytest.raises(AttarError, match=r"logits are NaN for 2 of 20 validation images"):
        accuracy(lambda shown: shown, [(logits, labels)])


def test_no_images_are_refused():
    with pytest.raises(AttarError, match="no validation images"):
        measure(lambda shown: shown, [])
    with pytest.raises(ValueError, match="no images"):
        tally(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).measured()
