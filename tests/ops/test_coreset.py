"""Choosing by features: what is looked at, how often, and what is refused."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models.build import seeded
from attar.ops import coreset as coresets
from attar.ops.coreset import Coreset, class_features, coreset, gather
from attar.ops.pixels import Normalisation
from attar.ops.task import Network, Task

COUNTS = (5, 3, 4)
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Real:
    """Images of one colour, another for each; remembers what was taken."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[int]]] = []

    def count(self, label: int) -> int:
        return COUNTS[label]

    def take(self, label: int, indices: Any) -> Tensor:
        self.taken.append((label, list(indices)))
        colours = torch.tensor([[10 * label, index, 7] for index in indices], dtype=torch.uint8)
        return colours[:, :, None, None].repeat(1, 1, 2, 2)

    def class_name(self, label: int) -> str:
        return ("ant", "bee", "cat")[label]


class Mean(nn.Module):
    """Its features are the image's mean colour."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.fc = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((2, 3)))


def task_of(labels: list[int], slots: list[int], network: Network | None = None) -> Task:
    return Task(
        labels=torch.tensor(labels),
        slots=torch.tensor(slots),
        size=(2, 2),
        teachers=(network or Network(Mean().eval(), NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *_: (),
        shared_stream=lambda *_: torch.Generator(),
        watch=None,  # type: ignore[arg-type]
        unit_sizes=(len(labels),),
        real=Real(),
    )


def last_first(features: Tensor, count: int) -> list[int]:
    return list(range(len(features)))[::-1][:count]


def test_features_are_of_normalised_whole_images_in_order(monkeypatch):
    monkeypatch.setattr(coresets, "_BATCH_PIXELS", 8)  # two images of four pixels
    task = task_of([0], [0])
    colours = torch.tensor([[0.0, index, 7] for index in range(5)])[:, :, None, None] / 255
    found = class_features(task, 0)
    assert torch.allclose(found.float(), NORMALISATION.apply(colours)[:, :, 0, 0], atol=1e-6)
    assert task.real.taken == [(0, [0, 1]), (0, [2, 3]), (0, [4])]  # type: ignore[union-attr]


def test_a_class_is_looked_at_once_for_all_its_slots():
    network = Network(Mean().eval(), NORMALISATION)
    looks: list[int] = []

    def choose(features: Tensor, count: int) -> list[int]:
        looks.append(len(features))
        return last_first(features, count)

    slots = [coreset(task_of([0, 1], [slot] * 2, network), Coreset(ipc=3), choose) for slot in range(3)]
    together = coreset(task_of([0, 1] * 3, [0, 0, 1, 1, 2, 2], network), Coreset(ipc=3), choose)
    assert torch.equal(torch.cat(slots), together)
    assert looks == [5, 3]
    assert (255 * together[:, 1, 0, 0]).round().tolist() == [4, 2, 3, 1, 2, 0]


def test_normalised_features_have_length_one():
    seen: list[Tensor] = []

    def choose(features: Tensor, count: int) -> list[int]:
        seen.append(features)
        return last_first(features, count)

    for normalise in (False, True):
        coreset(task_of([0], [0]), Coreset(ipc=1, normalise_features=normalise), choose)
    assert torch.allclose(seen[1].norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(seen[1], seen[0] / seen[0].norm(dim=1, keepdim=True))


def test_images_are_gathered_in_the_order_of_the_labels():
    images = gather(task_of([2, 0, 2, 1], [0] * 4), [3, 4, 1, 0])
    assert (255 * images[:, :2, 0, 0]).round().tolist() == [[20, 3], [0, 4], [20, 1], [10, 0]]


def test_a_class_with_too_few_images_is_refused_before_it_is_looked_at():
    task = task_of([1], [0])
    with pytest.raises(AttarError, match=r"Class 'bee' has 3 training images but 4 .*--recover.ipc 3 or less"):
        coreset(task, Coreset(ipc=4), last_first)
    assert task.real.taken == []  # type: ignore[union-attr]


def test_a_teacher_without_a_classifier_is_told_of():
    class Bare(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    task = dataclasses.replace(task_of([0], [0]), teachers=(Network(Bare(), NORMALISATION),))
    with pytest.warns(UserWarning, match="by the teacher's logits, for no layer with weights"):
        coreset(task, Coreset(ipc=1), last_first)
