"""Tasks on real digits for the tests of methods that match stored with real images."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from attar.core.randomness import generator
from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation
from attar.synthesis.task import Checkpoint, Network, NoCheckpoint, Task

SIDE, NUM_CLASSES = 8, 3
NORMALISATION = Normalisation((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


@functools.cache
def digits() -> list[Tensor]:
    """Real digits 0, 1, 2 as bytes: 12, 11 and 10 images."""
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    return [pixels[torch.from_numpy(bunch.target) == label][: 12 - label] for label in range(NUM_CLASSES)]


class Real:
    """The first few digits of three classes."""

    num_classes = NUM_CLASSES

    def count(self, label: int) -> int:
        return len(digits()[label])

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        return digits()[label][list(indices)]

    def class_name(self, label: int) -> str:
        return str(label)


class Curves:
    """A monitor that keeps the metrics."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.metrics: list[dict[str, list[float]]] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        self.metrics.append({name: value.tolist() for name, value in metrics.items()})
        self.losses.append(self.metrics[-1]["loss"])


class Saved(NoCheckpoint):
    """Keeps the state after some iterations."""

    def __init__(self, after: int = 0) -> None:
        self.after, self.kept = after, None

    def load(self) -> Any:
        return self.kept

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        if iterations == self.after:
            self.kept = iterations, state()


def task_of(
    units: Sequence[tuple[Sequence[int], int]], checkpoint: Checkpoint | None = None, **fields: Any
) -> tuple[Task, Curves]:
    """One task of several units, each of some classes and a number of slots."""
    curves = Curves()
    with torch.random.fork_rng(devices=[]):
        teacher = SmallResNet(8, NUM_CLASSES).eval().requires_grad_(False)
    task = Task(
        labels=torch.tensor([label for labels, count in units for _ in range(count) for label in labels]),
        slots=torch.tensor([slot for labels, count in units for slot in range(count) for _ in labels]),
        size=(SIDE, SIDE),
        teachers=(Network(teacher, NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, "recover", str(place), *names) for place in range(len(units))),
        shared_stream=lambda *names: generator(0, "recover", *names),
        monitor=curves,
        unit_sizes=tuple(len(labels) * count for labels, count in units),
        real=Real(),
        checkpoint=checkpoint or NoCheckpoint(),
        **fields,
    )
    return task, curves
