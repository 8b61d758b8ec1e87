"""methods/tesla.py and mtt.py against plain differentiation, and in memory against the number of steps."""

import dataclasses
import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from attar.core.errors import AttarError
from attar.methods import mtt, tesla
from attar.models.small import ConvNet
from attar.ops import dsa
from attar.ops.pixels import Normalisation
from attar.synthesis.networks import Bare
from attar.synthesis.trajectories import Course, Step
from methods.test_conformance import config_of, task_of

NUM_CLASSES, COUNT, SIDE = 3, 6, 8
KINDS = ("colour", "crop", "cutout", "flip", "scale", "rotate")
RATE = 0.3


class Experts:
    """One expert at the beginning and the end of its way."""

    normalisation, num_experts, num_snapshots = Normalisation(), 1, 2

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = ConvNet(2, NUM_CLASSES, SIDE, width=4, norm="instance")
        self.call = Bare(lambda: ConvNet(2, NUM_CLASSES, SIDE, width=4, norm="instance"))
        self.begin = self.call.flat(self.network)
        stream = torch.Generator().manual_seed(0)
        self.goal = self.begin + 0.05 * torch.randn(len(self.begin), generator=stream)

    def weights(self, expert: int, snapshot: int) -> Tensor:
        return (self.begin, self.goal)[snapshot].clone()


def course_of(num_steps: int, batch: int = COUNT) -> tuple[Course, Tensor, Tensor]:
    """A course of this many steps, with images and label probabilities."""
    stream, experts = torch.Generator().manual_seed(5), Experts()
    steps = [
        Step(torch.randperm(COUNT, generator=stream)[:batch], dsa.sample(KINDS, "one", batch, stream))
        for _ in range(num_steps)
    ]
    pixels = torch.randn(COUNT, 3, SIDE, SIDE, generator=stream)
    labels = torch.randn(COUNT, NUM_CLASSES, generator=stream).softmax(1)
    return Course(experts, experts.weights(0, 0), experts.weights(0, 1), steps, KINDS), pixels, labels


def plain(course: Course, pixels: Tensor, labels: Tensor, rate: Tensor, through_all: bool) -> Tensor:
    """The loss written out with the network's own parameters; ``through_all``: the way depends on earlier steps."""
    network = course.experts.network  # type: ignore[attr-defined]
    names, start = [name for name, _ in network.named_parameters()], dict[str, Tensor]()
    sizes = [part.numel() for part in network.parameters()]
    for name, part, values in zip(names, network.parameters(), course.begin.split(sizes), strict=True):
        start[name] = values.view(part.shape)
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    moved = {name: torch.zeros_like(value) for name, value in start.items()}
    for step in course.steps:
        logits = functional_call(network, weights, (dsa.apply(pixels[step.index], step.levels, KINDS),))
        loss = -(labels[step.index] * F.log_softmax(logits, 1)).sum() / len(step.index)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        for name, slope in zip(names, slopes, strict=True):
            moved[name] = moved[name] + slope
            weights[name] = weights[name] - rate * slope
            if not through_all:
                weights[name] = weights[name].detach().requires_grad_()
    end = torch.cat([(start[name] - rate * moved[name]).flatten() for name in names])
    return (end - course.goal).square().sum() / (course.begin - course.goal).square().sum()


@pytest.mark.parametrize(("module", "through_all"), [(tesla, False), (mtt, True)])
@pytest.mark.parametrize("batch", [COUNT, 4])
def test_gradients_are_those_of_plain_differentiation(module: Any, through_all: bool, batch: int):
    course, pixels, labels = course_of(4, batch)
    inputs = [part.clone().requires_grad_() for part in (pixels, labels, torch.tensor(RATE))]
    loss = plain(course, *inputs, through_all=through_all)
    expected = torch.autograd.grad(loss, inputs)
    found = module.differentiate(course, pixels, labels, torch.tensor(RATE), learns_labels=True)
    assert float(found.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, theirs in zip((found.pixels, found.labels, found.rate), expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert module.differentiate(course, pixels, labels, torch.tensor(RATE), learns_labels=False).labels is None


def test_the_two_methods_differ_in_the_way_through_earlier_steps():
    course, pixels, labels = course_of(1)
    ours, theirs = (each.differentiate(course, pixels, labels, torch.tensor(RATE), False) for each in (tesla, mtt))
    torch.testing.assert_close(ours.pixels, theirs.pixels, rtol=1e-3, atol=1e-6)  # one step has no earlier ones
    course, pixels, labels = course_of(4)
    ours, theirs = (each.differentiate(course, pixels, labels, torch.tensor(RATE), False) for each in (tesla, mtt))
    assert (ours.pixels - theirs.pixels).norm() > 0.01 * theirs.pixels.norm()


def kept_bytes(module: ModuleType, num_steps: int) -> int:
    """The most memory that graphs hold at one time."""
    alive, most = 0, 0

    class Kept:
        def __init__(self, value: Tensor) -> None:
            nonlocal alive, most
            self.value, size = value, value.numel() * value.element_size()
            alive += size
            most = max(most, alive)
            weakref.finalize(self, release, size)

    def release(size: int) -> None:
        nonlocal alive
        alive -= size

    course, pixels, labels = course_of(num_steps)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        module.differentiate(course, pixels, labels, torch.tensor(RATE), False)
    return most


def test_the_memory_of_tesla_does_not_grow_with_the_steps_and_that_of_mtt_does():
    assert kept_bytes(tesla, 8) <= 1.01 * kept_bytes(tesla, 2)
    assert kept_bytes(mtt, 8) > 3 * kept_bytes(mtt, 2)


@pytest.mark.parametrize("labels", ["hard", "assigned", "learned"])
def test_it_learns_a_rate_and_labels(labels: str):
    config = config_of(tesla, labels=labels, student_steps=3, rate_learning_rate=0.01, image_learning_rate=1.0)
    found = tesla.recover(task_of(tesla)[0], config)
    assert found.learned is not None
    assert found.learned["student_learning_rate"] not in (0.01, 0.0)
    assert (found.soft_labels is None) == (labels == "hard")
    if found.soft_labels is not None:
        assert found.soft_labels.shape == (NUM_CLASSES, NUM_CLASSES)
        torch.testing.assert_close(found.soft_labels.sum(1), torch.ones(NUM_CLASSES))


def test_experts_with_too_few_snapshots_are_refused():
    task, _ = task_of(tesla)
    with pytest.raises(
        AttarError, match=r"have 7 snapshots of their weights, but 8 are needed; lower --recover.max-st"
    ):
        tesla.recover(dataclasses.replace(task), config_of(tesla, max_start_epoch=6))
