"""What a method receives and what it returns: the contract between the recover stage and every method."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from attar.core.compiling import Compiler
from attar.ops.pixels import Normalisation
from attar.synthesis.method import MethodConfig, Preparation

K = TypeVar("K")


@dataclass(frozen=True)
class Network:
    """A frozen teacher in evaluation mode, the units of its input, and how it is to be computed."""

    module: nn.Module
    normalisation: Normalisation
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; losses, statistics and pixels stay float32."""
    compiler: Compiler = field(default_factory=Compiler)
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def kept(self, key: Hashable, make: Callable[[], K]) -> K:
        """What a method made of the network once for all tasks, such as a compiled function."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


class RealImages(Protocol):
    """Real training images, by class."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        ...

    def count(self, label: int) -> int:
        """How many images the class has."""
        ...

    def take(self, label: int, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """These images of the class, at the task's size."""
        ...

    def class_name(self, label: int) -> str:
        """The class's name, for messages."""
        ...


class Watch(Protocol):
    """Follows an optimisation without disturbing it."""

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Float[Tensor, " unit"]) -> bool | None:
        """Called after each iteration (0-based); ``images`` yields the images in [0, 1], at the stored size.

        Returns True to leave this stretch and go on with the next one, which only forecasts do.
        """
        ...


class Checkpoint(Protocol):
    """Keeps the state of a long unit, so that a killed run continues within it. When it saves alters no result."""

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The number of finished iterations and the state after them, if an earlier process left one."""
        ...

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Say that so many iterations are finished; ``state`` makes the state, on the CPU, if it is time to save."""
        ...


class NoCheckpoint:
    """Saves nothing, for units that are short."""

    def load(self) -> None:
        """Nothing was saved."""

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Nothing is saved."""


class Experts(Protocol):
    """Networks trained on the real data, weights kept along the way, for methods that match trajectories."""

    @property
    def num_experts(self) -> int:
        """How many were trained."""
        ...

    @property
    def num_snapshots(self) -> int:
        """Weights kept of each one, the initial ones first."""
        ...

    def weights(self, expert: int, snapshot: int) -> Float[Tensor, " weight"]:
        """An expert's weights in one row, on the device."""
        ...

    def call(
        self, weights: Float[Tensor, " weight"], images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image class"]:
        """Logits of the experts' network with these weights, differentiable in weights and images."""
        ...


def no_tables(name: str, teacher: int = 0) -> Tensor:
    """Stands for the prepared tables of a task that has none."""
    raise KeyError(name)


@dataclass(frozen=True)
class Task:
    """One unit of work, or several side by side: make an image of each of these classes.

    The images of a unit lie together, and units never influence one another.
    """

    labels: Int[Tensor, " image"]
    """Class index of each image, on the device."""
    slots: Int[Tensor, " image"]
    """Which of its class's images each one is, on the CPU."""
    size: tuple[int, int]
    """Height and width in pixels."""
    teachers: tuple[Network, ...]
    device: torch.device
    streams: Callable[..., tuple[torch.Generator, ...]]
    """A random stream of every unit: ``task.streams("views")``."""
    shared_stream: Callable[..., torch.Generator]
    """A random stream that all units of the run have in common."""
    watch: Watch
    unit_sizes: tuple[int, ...]
    """Images of each unit."""
    num_alike: int = 1
    """How many tasks of this shape the run has: what it pays to prepare."""
    real: RealImages | None = None
    table: Callable[..., Tensor] = no_tables
    """A table that the method's preparations made: ``task.table("statistics.mean", teacher=2)``, a row for each class
    or slot, on the CPU. Raises KeyError where there is none."""
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    earlier: Callable[[], Sequence["Task"]] = tuple
    """The tasks before this one in its slots, for methods that repeat what those began with (DWA)."""
    experts: Experts | None = None

    @property
    def unit_of(self) -> Int[Tensor, " image"]:
        """The unit of each image, on the device."""
        sizes = torch.tensor(self.unit_sizes, device=self.device)
        return torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)


@dataclass(frozen=True)
class Recovered:
    """What a method makes of a task."""

    images: Float[Tensor, "image 3 height width"]
    """In [0, 1], in the order of ``task.labels``."""
    soft_labels: Float[Tensor, "image class"] | None = None
    """Probabilities that were learnt with the images."""
    learned: Mapping[str, float] | None = None
    """Numbers that were learnt for the whole set, as {"student_learning_rate": 0.013}; for methods whose unit is the
    set."""


@dataclass(frozen=True)
class Context:
    """What a preparation receives: some of its rows, and what it may look at."""

    rows: range
    """Classes, or slots."""
    teacher: Network
    number: int
    """The teacher's place in ``Task.teachers``."""
    real: RealImages
    size: tuple[int, int]
    device: torch.device
    stream: Callable[..., torch.Generator]
    """A named random stream of the run, the same whatever rows are made together."""
    table: Callable[..., Tensor] = no_tables
    """A table of an earlier preparation."""
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)


C = TypeVar("C", bound=MethodConfig, contravariant=True)


class Method(Protocol[C]):
    """A module in ``attar.methods``, or elsewhere by dotted path."""

    Config: type[Any]
    """The method's choices, a subclass of MethodConfig."""

    def recover(self, task: Task, config: C) -> Recovered:
        """Make the task's images."""
        ...


class Prepared(Method[C], Protocol[C]):
    """A method with steps before its units: a module that has ``prepare``, too."""

    def prepare(self, config: C) -> Sequence[Preparation]:
        """The steps, in the order in which they are made; a later one may read the tables of those before it."""
        ...
