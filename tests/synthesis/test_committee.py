"""synthesis/committee.py: teachers whose losses are weighted, and units that are optimised by other teachers."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import cvdd, sre2l
from attar.models.small import ConvNet, SmallResNet
from attar.ops.pixels import Normalisation
from attar.synthesis.canvas import Plain
from attar.synthesis.committee import Weighted, committee_of, unit_weights, voters_of
from attar.synthesis.gradients import Gradients
from attar.synthesis.statistics import statistics_of
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy
from attar.synthesis.views import Whole
from formula import Curves

NORMALISATIONS = tuple(Normalisation((mean, mean, mean), (0.3, 0.3, 0.3)) for mean in (0.5, 0.4, 0.45))
SIDE, NUM_CLASSES = 8, 3


def networks() -> tuple[Network, ...]:
    """Three networks with other inputs and accuracies, and statistics that noise does not meet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules: list[nn.Module] = [
            SmallResNet(8, NUM_CLASSES), ConvNet(2, NUM_CLASSES, SIDE, width=8), SmallResNet(8, NUM_CLASSES)
        ]  # fmt: skip
        for module in modules:
            for name, tensor in module.state_dict().items():
                if name.endswith("running_mean"):
                    tensor.normal_(0, 0.3)
    accuracies = (0.9, 0.8, 0.7)
    frozen = [module.eval().requires_grad_(False) for module in modules]
    return tuple(
        Network(module, units, accuracy=accuracy)
        for module, units, accuracy in zip(frozen, NORMALISATIONS, accuracies, strict=True)
    )


def task_of(slots: tuple[int, ...], teachers: tuple[Network, ...] | None = None) -> Task:
    """One unit of three classes for each slot."""
    return Task(
        labels=torch.arange(NUM_CLASSES).repeat(len(slots)),
        slots=torch.tensor(slots).repeat_interleave(NUM_CLASSES),
        size=(SIDE, SIDE),
        teachers=teachers or networks(),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, str(slot), *names) for slot in slots),
        shared_stream=lambda *names: generator(0, *names),
        monitor=Curves(),
        unit_sizes=(NUM_CLASSES,) * len(slots),
    )


def config_of(**values: Any) -> cvdd.Config:
    fixed: dict[str, Any] = {"ipc": 10, "start": "noise", "iterations": 3, "crop": "none", "flip": False, "jitter": 0}
    return cvdd.Config.of(fixed | values, "the test")


def looked(network: nn.Module, images: Tensor) -> tuple[Tensor, list[tuple[Any, Tensor]]]:
    """The logits, and each BatchNorm layer with its input."""
    fed: list[tuple[Any, Tensor]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda one, given, _: fed.append((one, given[0]))) for layer in layers]
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, fed


def by_hand(task: Task, config: cvdd.Config, pixels: Tensor, weights: Tensor) -> tuple[Tensor, list[float]]:
    """Gradient and losses: each unit's weighted sum over teachers of cross-entropy and statistics, one by one."""
    leaf, losses = pixels.clone().requires_grad_(), list[Tensor]()
    images, first = NORMALISATIONS[0].undo(leaf), 0
    for unit, size in enumerate(task.unit_sizes):
        own, loss = slice(first, first + size), torch.zeros(())
        first += size
        for teacher, weight in zip(task.teachers, weights[unit].tolist(), strict=True):
            logits, fed = looked(teacher.module, teacher.normalisation.apply(images[own]))
            loss = loss + weight * F.cross_entropy(logits, task.labels[own])
            for place, (layer, maps) in enumerate(fed):
                mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
                away = (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
                loss = loss + weight * config.bn_weight * (1.0 if place else config.first_bn_multiplier) * away
        losses.append(loss)
    (slope,) = torch.autograd.grad(torch.stack(losses).sum(), leaf)
    return slope, [loss.item() for loss in losses]


def test_two_votes_for_each_unit_are_the_weighted_sum_written_out():
    """Three units in one batch, each with another pair of the three teachers."""
    config, task = config_of(priors=(70.0, 60.0, 65.0), prior_temperature=5.0, bn_weight=0.1), task_of((0, 1, 2))
    raised = torch.tensor([70.0, 60.0, 65.0]).div(5).exp()
    expected = torch.zeros(3, 3)
    for unit, pair in enumerate(itertools.combinations(range(3), 2)):
        expected[unit, list(pair)] = raised[list(pair)] / raised[list(pair)].sum()
    torch.testing.assert_close(unit_weights(task, config), expected)
    pixels = torch.randn(9, 3, SIDE, SIDE, generator=generator(1))
    gradients = Gradients(task, (CrossEntropy(), statistics_of(task, config)), canvas=Plain(), views=Whole())
    found, metrics = gradients(pixels, committee_of(task, config).turn(0), 0, None, task.size)
    slope, losses = by_hand(task, config, pixels, expected)
    assert metrics["loss"].tolist() == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-4 * slope.abs().max().item())


def test_units_in_one_batch_are_what_they_are_alone():
    config, slots = config_of(priors=(70.0, 60.0, 65.0), learning_rate=0.1), (0, 1, 2)
    together = cvdd.recover(task_of(slots), config).images.split(NUM_CLASSES)
    for place, slot in enumerate(slots):
        torch.testing.assert_close(cvdd.recover(task_of((slot,)), config).images, together[place], rtol=0, atol=1e-4)


def test_every_pair_of_five_takes_its_turn_in_the_published_order():
    five = (*networks(), *networks()[:2])
    found = voters_of(task_of(tuple(range(12)), five), config_of())
    assert found[:10] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert found[10:] == found[:2]
    assert voters_of(task_of((0, 9), five), config_of(voters=0)) == [(0, 1, 2, 3, 4)] * 2
    assert voters_of(task_of((0, 9), five), config_of(voters=9)) == [(0, 1, 2, 3, 4)] * 2
    in_tens = config_of(unit_slots=10)  # the second unit of ten slots has the second pair
    assert voters_of(task_of((0, 10), five), in_tens) == [(0, 1), (0, 2)]


def test_random_pairs_depend_on_the_slot_only():
    config = config_of(voters_chosen="random")
    many = voters_of(task_of(tuple(range(20))), config)
    assert set(many) == {(0, 1), (0, 2), (1, 2)}
    assert voters_of(task_of((7, 3)), config) == [many[7], many[3]]


def test_measured_accuracy_is_the_prior_where_none_is_given():
    measured = unit_weights(task_of((0,)), config_of(voters=0))
    torch.testing.assert_close(measured, unit_weights(task_of((0,)), config_of(voters=0, priors=(90, 80, 70))))
    unknown = tuple(dataclasses.replace(teacher, accuracy=None) for teacher in networks())
    with pytest.raises(AttarError, match=r"accuracy of teacher 0 is not known.*--recover\.priors"):
        unit_weights(task_of((0,), unknown), config_of())


def test_every_inversion_can_be_weighted():
    """All teachers in each iteration; equal weights are the mean."""

    def made(**values: Any) -> Tensor:
        config = sre2l.Config.of({"ipc": 1, "iterations": 3, "jitter": 2, **values}, "the test")
        return sre2l.recover(task_of((0,)), config).images

    mean, equal, other = (
        made(committee="mean"),
        made(committee="weighted", weights=(2.0, 2.0, 2.0)),
        made(committee="weighted", weights=(1.0, 5.0, 2.0)),
    )
    torch.testing.assert_close(equal, mean, rtol=0, atol=1e-5)
    assert (other - mean).abs().max() > 0.01
    assert isinstance(committee_of(task_of((0,)), config_of()), Weighted)


def test_cost_and_refusals():
    assert config_of().passes(5) == (0.4,) * 5
    assert config_of(voters=0).passes(5) == (1.0,) * 5
    assert config_of(committee="round-robin").passes(5) == (0.2,) * 5
    assert {"voters", "voters_chosen", "priors"} <= config_of(committee="one").idle().keys()
    assert config_of(members=(3, 1), priors=(50.0, 60.0)).members_of(5) == (3, 1)
    with pytest.raises(AttarError, match="--recover.priors has 2 priors for 5 teachers"):
        config_of(priors=(50.0, 60.0)).members_of(5)
