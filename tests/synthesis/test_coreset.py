"""Choosing by features: what is looked at, how often, and what is refused."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.methods.herding import herd
from attar.methods.kcentre import centres
from attar.models.build import build, seeded
from attar.ops.features import penultimate
from attar.ops.pixels import Normalisation, from_bytes
from attar.synthesis import coreset as coresets
from attar.synthesis.coreset import Choose, Coreset, class_features, coreset, gather
from attar.synthesis.task import Network, Task

COUNTS = (5, 3, 4)
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Real:
    """Images of one colour, another for each; remembers what was taken."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[int]]] = []

    @property
    def num_classes(self) -> int:
        return len(COUNTS)

    def count(self, label: int) -> int:
        return COUNTS[label]

    def take(self, label: int, indices: Any) -> Tensor:
        self.taken.append((label, list(indices)))
        colours = torch.tensor([[10 * label, index, 7] for index in indices], dtype=torch.uint8)
        return colours[:, :, None, None].repeat(1, 1, 2, 2)

    def class_name(self, label: int) -> str:
        return ("ant", "bee", "cat")[label]


class Noise:
    """Random images of a few classes."""

    def __init__(self, counts: list[int], size: int = 8) -> None:
        draws = torch.Generator().manual_seed(0)
        shapes = [(count, 3, size, size) for count in counts]
        self.images = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws) for shape in shapes]
        self.num_classes = len(counts)

    def count(self, label: int) -> int:
        return len(self.images[label])

    def take(self, label: int, indices: Any) -> Tensor:
        return self.images[label][list(indices)]

    def class_name(self, label: int) -> str:
        return str(label)


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
        monitor=None,  # type: ignore[arg-type]
        unit_sizes=(len(labels),),
        real=Real(),
    )


def last_first(features: Tensor, count: int) -> list[int]:
    return list(range(len(features)))[::-1][:count]


def test_features_are_of_normalised_whole_images_in_order(monkeypatch):
    monkeypatch.setattr(coresets, "_BATCH_PIXELS", 8)  # two images of four pixels
    task = task_of([0], [0])
    colours = torch.tensor([[0.0, index, 7] for index in range(5)])[:, :, None, None] / 255
    found = class_features(task, 0)[0]
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
    assert looks == [5, 3, 4]
    assert (255 * together[:, 1, 0, 0]).round().tolist() == [4, 2, 3, 1, 2, 0]


@pytest.mark.parametrize("choose", [centres, herd])
def test_many_small_classes_are_chosen_from_as_by_the_plain_formula(choose: Choose):
    """One class at a time through the whole network, whatever classes are looked at together."""
    module = build("convnet3", 23, 8, seed=0).eval()
    real, network = Noise([7 + label % 5 for label in range(23)]), Network(module, NORMALISATION)
    for labels in ([3, 17], [22, 4, 9], list(range(23))):
        task = dataclasses.replace(task_of(labels * 2, [0] * len(labels) + [1] * len(labels), network), real=real)
        found = coreset(dataclasses.replace(task, size=(8, 8)), Coreset(ipc=2), choose)
        for place, label in enumerate(labels * 2):
            images = from_bytes(real.images[label])
            with torch.no_grad():
                features = penultimate(module, NORMALISATION.apply(images)).values.double()
            assert torch.equal(found[place], images[choose(features, 2)[place // len(labels)]])


def test_what_is_looked_at_together_does_not_depend_on_who_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coresets, "_BATCH_PIXELS", 4 * 10)  # ten images of four pixels
    monkeypatch.setattr(coresets, "_CLASSES_TOGETHER", 4)
    real = Noise([4, 5, 3, 12, 1, 1], size=2)
    task = dataclasses.replace(task_of([0], [0]), real=real)
    found = {label: list(class_features(task, label)) for label in range(6)}
    assert found == {0: [0, 1], 1: [0, 1], 2: [2], 3: [3], 4: [4, 5], 5: [4, 5]}
    assert [len(features) for features in class_features(task, 0).values()] == [4, 5]


def test_a_class_with_too_few_images_does_not_keep_its_neighbours_from_being_chosen():
    assert len(coreset(task_of([0, 2], [3, 3]), Coreset(ipc=4), last_first)) == 2  # the bee has three


def test_normalised_features_have_length_one():
    seen: list[Tensor] = []

    def choose(features: Tensor, count: int) -> list[int]:
        seen.append(features)
        return last_first(features, count)

    for normalise in (False, True):
        coreset(task_of([0], [0]), Coreset(ipc=1, normalise_features=normalise), choose)
    seen = [features for features in seen if len(features) == 5]
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
