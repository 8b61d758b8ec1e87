"""Terms of a loss: pure functions of the teacher's outputs and of tensors passed as arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attar.synthesis.taps import Moments, Tap
from attar.synthesis.task import Task

if TYPE_CHECKING:
    from attar.synthesis.observed import Observed

State = dict[str, Tensor]
PerUnit = Float[Tensor, " unit"]


class Seen(NamedTuple):
    """A teacher's outputs for the views of a task's images."""

    images: Float[Tensor, "image 3 height width"]
    """The views, in the teacher's units."""
    logits: Float[Tensor, "image class"]
    moments: Mapping[Tap, Moments]
    features: Mapping[Tap, Tensor]
    beside: "Seen | None" = None
    """Outputs for a term's other images through the same views, if it has any (see ``Term.constants``)."""


class UnitBatch(NamedTuple):
    """Class and unit of each image that was shown."""

    labels: Int[Tensor, " image"]
    average: Float[Tensor, "unit image"]
    """Averages over each unit's images: ``average @ values``."""


class Term(Protocol):
    """One part of the loss: a frozen dataclass of plain values, whose hash names the compiled function.

    A term keeps no tensor of its own: those come from ``constants`` and ``begin`` and are passed to every call, so that
    one compiled function serves all tasks.
    """

    @property
    def name(self) -> str:
        """Name of the term in the metrics."""
        ...

    @property
    def weight(self) -> float:
        """Weight in the loss."""
        ...

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps that the term needs."""
        ...

    def constants(self, task: Task, teacher: int, observed: "Observed") -> State:
        """Return tensors that stay the same for a task and a teacher, such as targets.

        A tensor named "beside" holds other images, one per image of the task, in pixel units. The teacher sees them
        through the same views; its outputs are in ``Seen.beside``.
        """
        ...

    def begin(self, task: Task, teacher: int, observed: "Observed") -> State:
        """Return the state before the first iteration, with all keys that it will ever have."""
        ...

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """Return each unit's value and the new state, with the same keys."""
        ...


@dataclass(frozen=True)
class Stateless:
    """Base of terms without constants, state or taps; override the parts that a term has."""

    weight: float = 1.0

    @property
    def taps(self) -> tuple[Tap, ...]:
        """No taps: the term needs logits only."""
        return ()

    def constants(self, task: Task, teacher: int, observed: "Observed") -> State:
        """None."""
        return {}

    def begin(self, task: Task, teacher: int, observed: "Observed") -> State:
        """None."""
        return {}


@dataclass(frozen=True)
class CrossEntropy(Stateless):
    """Cross-entropy of the teacher's logits for the views with their classes."""

    name = "cross_entropy"

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """The mean over each unit's images."""
        return batch.average @ F.cross_entropy(seen.logits, batch.labels, reduction="none"), state


def _no_others(task: Task) -> Tensor:
    raise ValueError("The term Features needs images to compare with; pass them as 'others'.")


@dataclass(frozen=True)
class Features(Stateless):
    """Distance between a layer's outputs for the views and for other images through the same views (CIM)."""

    place: str = ""
    """Name of the layer in the network; '': the input of the classifier."""
    others: Callable[[Task], Float[Tensor, "image part 3 height width"]] = _no_others
    """Function that returns the other images, in pixel units: one for each shown part of each image of the task. It
    must be a frozen dataclass, because its hash names the compiled function."""
    name = "feature_distance"

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The compared layer."""
        return (Tap("features", self.place),)

    def constants(self, task: Task, teacher: int, observed: "Observed") -> State:
        """The other images."""
        return {"beside": self.others(task).flatten(0, 1)}

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """The mean absolute difference over features, and over each unit's images."""
        assert seen.beside is not None  # there are constants by that name
        tap = self.taps[0]
        away = (seen.features[tap] - seen.beside.features[tap]).abs().flatten(1).mean(1)
        return batch.average @ away, state
