"""methods/delt.py against the published loop: one Adam over a batch whose later images join with the rounds."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.methods import delt
from attar.ops import views
from attar.ops.pixels import from_bytes
from attar.synthesis.method import UnitShape
from attar.synthesis.optimise import shape_of
from attar.synthesis.views import views_of
from inverted_digits import task_of, teachers
from matched_digits import NORMALISATION, NUM_CLASSES, Real, Saved, digits

FEW = {"ipc": 4, "iterations": 9, "rounds": 3, "round_iterations": 3, "learning_rate": 0.1, "flip": False}


def config_of(**values: Any) -> delt.Config:
    return delt.Config.of(FEW | values, "the test")


def medium(label: int) -> list[int]:
    """A class's images, the one of median probability first."""
    count = Real().count(label)
    logits = teachers()[0].module(NORMALISATION.apply(from_bytes(digits()[label])))
    order = logits.softmax(1)[:, label].argsort(descending=True).tolist()
    return sorted(order, key=lambda image: abs(order.index(image) - (count - 1) / 2))


def published(config: delt.Config, joined: list[int]) -> tuple[Tensor, list[float]]:
    """Images (slot, class) and losses: all images in one Adam; ``joined`` slots take part in each round."""
    task, _ = task_of(delt, config, num_slots=config.ipc)
    network, draw = task.teachers[0].module, views_of(task, config)
    start = [
        from_bytes(digits()[label][medium(label)[slot]]) for slot in range(config.ipc) for label in range(NUM_CLASSES)
    ]
    pixels = NORMALISATION.apply(torch.stack(start)).requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=config.learning_rate, betas=(0.5, 0.9), eps=1e-8)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    fed: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, inputs, __: fed.append(inputs[0])) for layer in layers]
    low, high = NORMALISATION.bounds(pixels)
    losses = []
    for iteration in range(config.iterations):
        rate = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations)) * config.learning_rate
        optimiser.param_groups[0]["lr"] = rate
        count = joined[min(iteration // config.round_iterations, len(joined) - 1)] * NUM_CLASSES
        seen = views.apply(pixels[:count], views.View(*draw.draw(iteration, task.size, task.size)))
        fed.clear()
        loss = F.cross_entropy(network(seen), task.labels[:count])
        for layer, maps in zip(layers, fed, strict=True):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            away = (maps.mean((0, 2, 3)) - layer.running_mean).norm()
            away = away + (maps.var((0, 2, 3), unbiased=False) - layer.running_var).norm()
            loss = loss + config.bn_weight * (10 if layer is layers[0] else 1) * away
        optimiser.zero_grad()
        loss.backward()  # the gradient of images that wait is zero
        optimiser.step()
        pixels.data.clamp_(low, high)
        losses.append(float(loss.detach()))
    for handle in handles:
        handle.remove()
    return NORMALISATION.undo(pixels.detach()), losses


def test_the_loop_is_the_published_one():
    config = config_of()
    task, curves = task_of(delt, config, num_slots=4)
    images = delt.recover(task, config).images
    expected, losses = published(config, [2, 3, 4])
    assert [loss for (loss,) in curves.losses] == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(images, expected, atol=2e-4, rtol=0)
    start = published(config_of(learning_rate=1e-9), [2, 3, 4])[0]
    away = (expected - start).abs().mean((1, 2, 3)).view(4, NUM_CLASSES).mean(1)
    assert away[0] > 2 * away[3] > 0.001, "early images must have moved further than late ones"


def test_late_images_may_have_a_rate_of_their_own():
    task, _ = task_of(delt, config_of(), num_slots=4)
    images = {rates: delt.recover(task, config_of(late_rates=rates)).images.view(4, -1) for rates in ("shared", "own")}
    start = delt.recover(task, config_of(learning_rate=1e-9)).images.view(4, -1)
    away = {rates: (made - start).abs().mean(1) for rates, made in images.items()}
    assert away["own"][3] > 2 * away["shared"][3]


def test_images_may_have_views_of_their_own_while_others_wait():
    task, curves = task_of(delt, config_of(), num_slots=4)
    own, shared = (
        delt.recover(task, config_of(views_per_image=each, min_crop=0.3)).images.view(4, -1) for each in (True, False)
    )
    assert len(curves.losses) == 18
    assert not torch.equal(own[0], shared[0])


@pytest.mark.parametrize(
    ("slots", "rounds", "joined"),
    [
        (50, 8, [7, 14, 20, 26, 32, 38, 44, 50]),
        (10, 8, [2, 4, 5, 6, 7, 8, 9, 10]),
        (5, 8, [1, 2, 3, 4, 5]),
        (1, 8, [1]),
    ],
)
def test_rounds_have_the_published_numbers_of_images(slots: int, rounds: int, joined: list[int]):
    config = delt.Config(ipc=slots, iterations=4000, rounds=rounds, round_iterations=500)
    stretches = config.cost(UnitShape(10, slots, 32))
    assert [stretch.slots for stretch in stretches] == joined
    assert sum(stretch.iterations for stretch in stretches) == 4000
    assert {stretch.iterations for stretch in stretches[:-1]} <= {500}


def test_a_checkpoint_continues_bit_by_bit():
    config, saved = config_of(), Saved(after=5)
    task, _ = task_of(delt, config, num_slots=4, checkpoint=saved)
    images = delt.recover(task, config).images
    again, curves = task_of(delt, config, num_slots=4, checkpoint=saved)
    assert torch.equal(delt.recover(again, config).images, images)
    assert len(curves.losses) == 4
    assert shape_of(task).num_slots == 4


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [2.6145, 2.3119, 2.272, 2.3765, 2.1312, 2.4656, 2.4113, 2.5344, 2.4246]),
        (
            {"grey": True, "late_rates": "own", "rounds": 2, "min_crop": 0.5},
            [2.6145, 2.4333, 2.2887, 2.3801, 2.2525, 2.5184, 2.3894, 2.4773, 2.4716],
        ),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    config = config_of(**choices)
    task, curves = task_of(delt, config, num_slots=4)
    images = delt.recover(task, config).images
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)
    assert torch.equal(images[:, :1].expand_as(images), images) == ("grey" in choices)
