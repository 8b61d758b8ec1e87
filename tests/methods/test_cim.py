"""methods/cim.py against the published loop written out, and against what its paper says of the images it takes."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import cim
from attar.models.small import SmallResNet
from attar.ops import dsa, mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import Normalisation, from_bytes
from attar.synthesis.method import UnitShape
from attar.synthesis.task import Network, Task

SIDE, NUM_CLASSES, COUNT = 8, 3, 20
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
FEW: dict[str, Any] = {"ipc": 2, "iterations": 6, "pool": 15}


class Real:
    """Random images of medium brightness, so that no pixel comes near black or white in a few steps."""

    num_classes = NUM_CLASSES

    def __init__(self) -> None:
        stream = torch.Generator().manual_seed(3)
        self.images = torch.randint(70, 180, (NUM_CLASSES, COUNT, 3, SIDE, SIDE), generator=stream, dtype=torch.uint8)

    def count(self, label: int) -> int:
        return COUNT

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        return self.images[label, list(indices)]

    def class_name(self, label: int) -> str:
        return f"class{label}"


class Curves:
    def __init__(self) -> None:
        self.metrics: list[dict[str, Tensor]] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        self.metrics.append(metrics)


def network_of() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallResNet(8, NUM_CLASSES).eval().requires_grad_(False)


def task_of(labels: Sequence[int], slots: Sequence[int], sizes: Sequence[int]) -> Task:
    """Units of classes, one after the other, each with random streams of its own."""
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    names = [f"{labels[start]}" for start in starts]
    return Task(
        labels=torch.tensor(labels),
        slots=torch.tensor(slots),
        size=(SIDE, SIDE),
        teachers=(Network(network_of(), NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *more: tuple(generator(0, "recover", name, *more) for name in names),
        shared_stream=lambda *more: generator(0, "recover", *more),
        monitor=Curves(),
        unit_sizes=tuple(sizes),
        real=Real(),
    )


def lowest(label: int, pool: int, count: int) -> Tensor:
    """The images of a class that the teacher is surest of, in [0, 1]."""
    images = from_bytes(Real().images[label, :pool])
    logits = network_of()(NORMALISATION.apply(images))
    return images[F.cross_entropy(logits, torch.full((pool,), label), reduction="none").argsort()[:count]]


def published(label: int, config: cim.Config, layer: str) -> tuple[Tensor, list[float]]:
    """The images of one class and the losses, by the published loop: AdamW on what is added to the mosaics."""
    network, parts, seen = network_of(), config.factor**2, []
    module = network.get_submodule(layer)
    if layer == "fc":
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    else:
        module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    real = lowest(label, config.pool, config.ipc * parts)
    start = torch.zeros(config.ipc, 3, SIDE, SIDE)
    small = SIDE // config.factor
    for part in range(parts):
        top, left = divmod(part, config.factor)
        shrunk = F.interpolate(real[part * config.ipc : (part + 1) * config.ipc], size=(small, small))
        start[..., top * small : (top + 1) * small, left * small : (left + 1) * small] = shrunk
    delta, losses = torch.zeros_like(start, requires_grad=True), []
    optimiser = torch.optim.AdamW([delta], lr=0.01)
    stream = generator(0, "recover", str(label), "siamese")
    for _ in range(config.iterations):
        cut = [
            (start + delta)[..., t : t + small, s : s + small]
            for t in range(0, SIDE, small)
            for s in range(0, SIDE, small)
        ]
        shown = torch.cat([F.interpolate(each, size=(SIDE, SIDE), mode="bilinear") for each in cut])
        both = NORMALISATION.apply(torch.cat([real, shown]))
        levels = dsa.sample(config.dsa, "all", 1, stream)
        network(dsa.apply(both, levels, config.dsa))
        features = seen.pop()
        away = (features[: len(real)] - features[len(real) :]).abs().flatten(1).mean(1)
        losses.append(float(away.detach().mean()))
        (delta.grad,) = torch.autograd.grad(away.sum(), delta)
        optimiser.step()
    return (start + delta).detach(), losses


@pytest.mark.parametrize("layer", ["", "layer2"])
def test_the_loop_is_the_published_one(layer: str):
    config = cim.Config(**FEW, layer=layer)
    task = task_of([1, 1], [0, 1], [2])
    images = cim.recover(task, config).images
    expected, losses = published(1, config, layer or "fc")
    assert isinstance(task.monitor, Curves)
    assert [float(metrics["feature_distance"]) for metrics in task.monitor.metrics] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(images, expected, atol=2e-4, rtol=0)
    assert losses[-1] < losses[0]


def test_units_side_by_side_make_what_each_makes_alone():
    config = cim.Config(**FEW)
    together = cim.recover(task_of([0, 0, 2, 2], [0, 1, 0, 1], [2, 2]), config).images
    alone = [cim.recover(task_of([label] * 2, [0, 1], [2]), config).images for label in (0, 2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_a_slot_holds_the_images_of_its_ranks():
    config = cim.Config(**FEW | {"iterations": 1, "learning_rate": 1e-9, "ipc": 3})
    images = cim.recover(task_of([2], [1], [1]), config).images
    expected = mosaic.pack(lowest(2, 15, 12)[None, 1::3], 2)
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


def test_grey_images_are_grey():
    images = cim.recover(task_of([0, 0], [0, 1], [2]), cim.Config(**FEW, grey=True)).images
    assert torch.equal(images[:, :1].expand_as(images), images)


def test_it_says_how_its_images_are_stored_and_what_it_shows():
    config = cim.Config(factor=3)
    assert config.storage() == Storage(factor=3, enlarge="bilinear")
    (stretch,) = config.cost(UnitShape(1, 10, 9))
    assert (stretch.iterations, stretch.shown) == (200, 9)
    assert config.needs().unit == "class"
    assert config.needs().stores_real_pixels


def test_a_class_with_too_few_images_is_refused():
    with pytest.raises(AttarError, match=r"Class 'class0' has 20 training images .* of 4 take 24; lower --recover.ipc"):
        cim.recover(task_of([0], [0], [1]), cim.Config(**FEW | {"ipc": 6, "pool": 24}))
