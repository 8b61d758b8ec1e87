"""ops/targets.py against sums written out."""

import math

import pytest
import torch
from torch import Tensor

from attar.ops.targets import Targets, hard_loss, logit_loss, soft_loss


def randn(*shape: int, seed: int) -> Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def probabilities(logits: Tensor, temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in logits.tolist()]
    return [value / sum(exponentials) for value in exponentials]


LABELS = torch.tensor([0, 4, 2, 1, 1, 3])
STUDENT, TEACHER = randn(6, 5, seed=1), randn(6, 5, seed=2)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("squared", [False, True])
def test_soft_loss_is_the_mean_divergence(temperature: float, squared: bool):
    total = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        pairs = zip(probabilities(teacher, temperature), probabilities(student, temperature), strict=True)
        total += sum(p * math.log(p / q) for p, q in pairs)
    expected = total / len(LABELS) * (temperature**2 if squared else 1)
    loss = soft_loss(STUDENT, Targets(LABELS, logits=TEACHER), temperature, squared)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_soft_loss_is_zero_for_the_teacher_itself_and_takes_half_precision():
    assert soft_loss(TEACHER, Targets(LABELS, logits=TEACHER), 20, False).item() == pytest.approx(0, abs=1e-7)
    loss = soft_loss(STUDENT.half(), Targets(LABELS, logits=TEACHER.half()), 4, True)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(soft_loss(STUDENT, Targets(LABELS, logits=TEACHER), 4, True).item(), rel=1e-2)


def test_losses_towards_a_teacher_without_soft_labels_say_what_to_do():
    with pytest.raises(ValueError, match="no soft labels; relabel"):
        soft_loss(STUDENT, Targets(LABELS), 20, False)
    with pytest.raises(ValueError, match="no soft labels; relabel"):
        logit_loss(STUDENT, Targets(LABELS))


@pytest.mark.parametrize("dropped", [-3e4, -65504.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0, 250.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dropped_classes_add_exactly_nothing_to_the_soft_loss(dropped: float, temperature: float, dtype: torch.dtype):
    """The loss is that over the classes that are kept, with the student's probabilities among all."""
    teacher = TEACHER.clone()
    kept = teacher.argsort(1, descending=True)[:, :2]
    teacher = torch.full_like(teacher, dropped).scatter(1, kept, teacher.gather(1, kept)).to(dtype)
    student = STUDENT.clone().requires_grad_()
    loss = soft_loss(student, Targets(LABELS, logits=teacher), temperature, False)
    loss.backward()
    total = 0.0
    for row, answer, classes in zip(STUDENT, teacher.float(), kept, strict=True):
        q = probabilities(row, temperature)
        for p, place in zip(probabilities(answer[classes], temperature), classes.tolist(), strict=True):
            total += p * math.log(p / q[place])
    assert loss.item() == pytest.approx(total / len(LABELS), rel=1e-4)
    shares = torch.softmax(teacher.float() / temperature, 1)
    assert (shares > 0).sum(1).tolist() == [2] * len(LABELS)
    assert student.grad is not None
    expected = (torch.softmax(STUDENT / temperature, 1) - shares) / temperature / len(LABELS)
    torch.testing.assert_close(student.grad, expected, atol=1e-7, rtol=1e-4)


def test_logit_loss_is_the_mean_square_over_images_and_classes():
    expected = sum((s - t) ** 2 for s, t in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True))
    loss = logit_loss(STUDENT, Targets(LABELS, logits=TEACHER))
    assert loss.item() == pytest.approx(expected / STUDENT.numel(), rel=1e-5)
    assert logit_loss(TEACHER, Targets(LABELS, logits=TEACHER)) == 0
    half = logit_loss(STUDENT.half(), Targets(LABELS, logits=TEACHER.half()))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=1e-2)


def cross_entropy(logits: Tensor, label: int, smoothing: float) -> float:
    surprise = [-math.log(p) for p in probabilities(logits, 1.0)]
    return (1 - smoothing) * surprise[label] + smoothing * sum(surprise) / len(surprise)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_loss_is_the_mean_cross_entropy(smoothing: float):
    expected = sum(cross_entropy(row, label, smoothing) for row, label in zip(STUDENT, LABELS.tolist(), strict=True))
    assert hard_loss(STUDENT, Targets(LABELS), smoothing).item() == pytest.approx(expected / len(LABELS), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_loss_of_mixed_images_is_in_proportion_to_their_parts(smoothing: float):
    partners, weights = LABELS.flip(0), torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9, 0.1])
    expected = 0.0
    for logits, own, other, weight in zip(STUDENT, LABELS.tolist(), partners.tolist(), weights.tolist(), strict=True):
        expected += weight * cross_entropy(logits, own, smoothing)
        expected += (1 - weight) * cross_entropy(logits, other, smoothing)
    loss = hard_loss(STUDENT, Targets(LABELS, partners, weights), smoothing)
    assert loss.item() == pytest.approx(expected / len(LABELS), rel=1e-5)


def test_taking_places_takes_all_that_is_there():
    whole = Targets(LABELS, LABELS.flip(0), torch.linspace(0, 1, 6), TEACHER)
    for index in (slice(1, 3), torch.tensor([1, 2])):
        part = whole.take(index)
        assert part.labels.tolist() == [4, 2]
        assert part.partner_labels is not None
        assert part.partner_labels.tolist() == [1, 1]
        assert part.weight is not None
        assert torch.equal(part.weight, torch.linspace(0, 1, 6)[1:3])
        assert part.logits is not None
        assert torch.equal(part.logits, TEACHER[1:3])
    bare = Targets(LABELS).take(slice(0, 2))
    assert (bare.partner_labels, bare.weight, bare.logits) == (None, None, None)
