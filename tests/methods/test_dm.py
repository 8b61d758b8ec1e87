"""methods/dm.py against the published loop, written out class by class and image by image."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.core.randomness import generator
from attar.methods import dm
from attar.ops import dsa
from attar.ops.pixels import from_bytes
from attar.stages.unit_groups import planned
from attar.synthesis import matching
from attar.synthesis.method import UnitShape
from matched_digits import NORMALISATION, NUM_CLASSES, SIDE, Real, Saved, digits, task_of

FEW: dict[str, Any] = {
    "ipc": 2,
    "iterations": 6,
    "real_batch": 5,
    "network_width": 8,
    "network_depth": 3,
    "image_learning_rate": 20.0,
}


def embedded(weights: Tensor, width: int, images: Tensor) -> Tensor:
    """Features of a ConvNet of three blocks, by its layers one after the other."""
    channels = 3
    for _ in range(3):
        kernel, weights = weights[: width * channels * 9].view(width, channels, 3, 3), weights[width * channels * 9 :]
        bias, scale, shift, weights = (
            weights[:width],
            weights[width : 2 * width],
            weights[2 * width : 3 * width],
            weights[3 * width :],
        )
        images = F.instance_norm(F.conv2d(images, kernel, bias, padding=1), weight=scale, bias=shift)
        images = F.avg_pool2d(F.relu(images), 2)
        channels = width
    assert not len(weights)
    return images.flatten(1)


def drawn_weights(iteration: int, width: int) -> Tensor:
    """As PyTorch draws layers: uniform up to 1 / sqrt(fan in); neutral normalisation."""
    numbers, parts, channels = generator(0, "recover", "network", iteration), [], 3
    count = sum(width * c * 9 + 3 * width for c in (3, width, width))
    uniform = 2 * torch.rand(count, generator=numbers) - 1
    for _ in range(3):
        size, bound = width * channels * 9 + width, (channels * 9) ** -0.5
        parts += [uniform[:size] * bound, torch.ones(width), torch.zeros(width)]
        uniform, channels = uniform[size + 2 * width :], width
    return torch.cat(parts)


def published(config: dm.Config) -> tuple[Tensor, list[float]]:
    """Images (class, slot) and mean losses by the published loop: SGD on each class, one class after the other."""
    starts, real = [], Real()
    for label in range(NUM_CLASSES):
        order = torch.randperm(real.count(label), generator=generator(0, "recover", "start", str(label)))
        starts.append(NORMALISATION.apply(from_bytes(real.take(label, order[: config.ipc].tolist()))))
    pixels = torch.stack(starts).requires_grad_()
    optimiser = torch.optim.SGD([pixels], lr=config.image_learning_rate, momentum=0.5)
    low, high = NORMALISATION.bounds(pixels)
    losses = []
    for iteration in range(config.iterations):
        weights = drawn_weights(iteration, config.network_width)
        levels = dsa.sample(config.kinds(), "one", NUM_CLASSES, generator(0, "recover", "siamese", iteration))
        order = torch.rand(NUM_CLASSES, 12, generator=generator(0, "recover", "real", iteration))
        loss = torch.zeros(())
        for label in range(NUM_CLASSES):
            chosen = order[label, : real.count(label)].argsort(descending=True)[: config.real_batch]
            batch = NORMALISATION.apply(from_bytes(digits()[label][chosen]))
            means = []
            for images in (batch, pixels[label]):
                views = [dsa.apply(image[None], levels[label, None], config.kinds()) for image in images]
                means.append(torch.cat([embedded(weights, config.network_width, view) for view in views]).mean(0))
            loss = loss + ((means[0] - means[1]) ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pixels.data.clamp_(low, high)
        losses.append(float(loss.detach()) / NUM_CLASSES)
    return NORMALISATION.undo(pixels.detach().flatten(0, 1)).view_as(pixels), losses


@pytest.mark.parametrize("real_batch", [5, 11, 256])
def test_the_loop_is_the_published_one(real_batch: int, monkeypatch: pytest.MonkeyPatch):
    """With a batch smaller than every class, smaller than some, and larger than all; in one part and in several."""
    monkeypatch.setitem(matching._CHUNK_PIXELS, "cpu", 2 * NUM_CLASSES * SIDE**2 if real_batch == 256 else 2**20)
    config = dm.Config(**FEW | {"real_batch": real_batch})
    task, curves = task_of([(range(NUM_CLASSES), 2)])
    images = dm.recover(task, config).images
    expected, losses = published(config)
    assert [loss for (loss,) in curves.losses] == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(images, expected.transpose(0, 1).flatten(0, 1), atol=1e-4, rtol=0)
    start = published(dm.Config(**FEW | {"iterations": 1, "image_learning_rate": 1e-9}))[0]
    assert (expected - start).abs().max() > 0.01


def test_units_make_the_same_whichever_are_made_together():
    config = dm.Config(**FEW)
    whole = dm.recover(task_of([(range(NUM_CLASSES), 2)])[0], config).images.view(2, NUM_CLASSES, 3, SIDE, SIDE)
    task, curves = task_of([([0], 2), ([1, 2], 2)])
    first, rest = dm.recover(task, config).images.split([2, 4])
    torch.testing.assert_close(first, whole[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(rest.view(2, 2, 3, SIDE, SIDE), whole[:, 1:], atol=1e-5, rtol=0)
    alone, single = task_of([([0], 2)])
    torch.testing.assert_close(dm.recover(alone, config).images, first, atol=1e-5, rtol=0)
    assert [loss[0] for loss in curves.losses] == pytest.approx([loss for (loss,) in single.losses], rel=1e-4)


def test_a_checkpoint_continues_bit_by_bit():
    config, saved = dm.Config(**FEW), Saved(after=3)
    images = dm.recover(task_of([([0, 2], 2)], saved)[0], config).images
    task, curves = task_of([([0, 2], 2)], saved)
    assert torch.equal(dm.recover(task, config).images, images)
    assert len(curves.losses) == 3


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [0.0039108, 0.0028723, 0.001481, 0.0029809, 0.0026884, 0.0020195]),
        ({"grey": True, "flip": False, "network_depth": 2}, [0.33667, 0.9473, 0.85371, 1.1761, 0.63772, 0.74725]),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    task, curves = task_of([(range(NUM_CLASSES), 2)])
    images = dm.recover(task, dm.Config(**FEW | choices)).images
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)
    assert torch.equal(images[:, :1].expand_as(images), images) == ("grey" in choices)


def test_all_slots_of_a_class_are_in_one_unit():
    config = dm.Config(ipc=5, unit_classes=2)
    assert [(unit.classes, unit.num_slots) for (unit,) in planned(3, config)] == [((0, 1), 5), ((2,), 5)]
    assert config.needs().teachers == "none"
    assert config.needs().stores_real_pixels
    (stretch,) = config.cost(UnitShape(2, 5, 8, num_teachers=2))
    assert (stretch.iterations, stretch.teachers) == (20_000, (0.0, 0.0))


def test_depth_follows_the_size_of_the_images():
    assert [dm.Config().depth(size) for size in (8, 16, 28, 32, 64, 128, 224)] == [2, 2, 3, 3, 4, 5, 6]
    assert dm.Config(network_depth=5).depth(64) == 5
