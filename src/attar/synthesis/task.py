"""What a method receives and what it returns: the contract between the recover stage and every method."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from attar.core.compiling import Compiler
from attar.ops.pixels import Normalisation
from attar.synthesis.method import MethodConfig, Preparation

K = TypeVar("K")


@runtime_checkable
class Refreshable(Protocol):
    """Something made from a network that can take over its present weights."""

    def refresh(self, network: nn.Module) -> None:
        """Copy the weights of a network of the same structure, in place."""
        ...


@dataclass(frozen=True)
class Network:
    """A frozen teacher in evaluation mode, with its input normalisation and precision."""

    module: nn.Module
    normalisation: Normalisation
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network; losses, statistics and pixels are always float32."""
    compiler: Compiler = field(default_factory=Compiler)
    accuracy: float | None = None
    """Top-1 on real validation images, as a fraction, if it is known."""
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def kept(self, key: Hashable, make: Callable[[], K]) -> K:
        """Return a cached object, such as a compiled function; calls ``make`` once for all tasks."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def weights_changed(self) -> None:
        """Bring everything that is kept up to date with weights that were changed in place."""
        for kept in self._kept.values():
            if isinstance(kept, Refreshable):
                kept.refresh(self.module)


class RealImages(Protocol):
    """Real training images, by class."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    def count(self, label: int) -> int:
        """Return the class's number of images."""
        ...

    def take(self, label: int, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """Return the images at these indices of the class, at the task's size."""
        ...

    def class_name(self, label: int) -> str:
        """Return the class's name, for messages."""
        ...


class Monitor(Protocol):
    """Observes an optimisation without changing it."""

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Float[Tensor, " unit"]) -> bool | None:
        """Receive the metrics of a finished iteration (0-based), one value per unit.

        ``images`` returns the images in [0, 1], at the stored size; it is called when they are needed. Returns True to
        skip the rest of this stretch of iterations, which only forecasts do.
        """
        ...


class Checkpoint(Protocol):
    """Saves the state of a long unit, so that a killed run continues inside it. Saving never changes results."""

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return the number of finished iterations and the state after them; None without a checkpoint."""
        ...

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Report finished iterations; calls ``state``, which returns CPU tensors, if a checkpoint is due."""
        ...


class NoCheckpoint:
    """Saves nothing; for short units."""

    def load(self) -> None:
        """Nothing was saved."""

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Nothing is saved."""


class Experts(Protocol):
    """Networks trained on the real data with snapshots of their weights, for trajectory-matching methods."""

    @property
    def normalisation(self) -> Normalisation:
        """Units of the images that experts take."""
        ...

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        ...

    @property
    def num_snapshots(self) -> int:
        """Snapshots per expert, starting with the initial weights."""
        ...

    def weights(self, expert: int, snapshot: int) -> Float[Tensor, " weight"]:
        """Return an expert's weights as one vector, on the device."""
        ...

    def call(
        self, weights: Float[Tensor, " weight"], images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image class"]:
        """Logits of the experts' network with these weights, differentiable in weights and images."""
        ...


def no_tables(name: str, teacher: int = 0) -> Tensor:
    """Table lookup of a task without tables; raises KeyError."""
    raise KeyError(f"there is no table '{name}'; the method has no preparations")


@dataclass(frozen=True)
class Task:
    """One unit of work, or several in one batch: make one image for each entry of ``labels``.

    The images of a unit are consecutive, and units never influence one another.
    """

    labels: Int[Tensor, " image"]
    """Class index of each image, on the device."""
    slots: Int[Tensor, " image"]
    """Slot of each image within its class, on the CPU."""
    size: tuple[int, int]
    """Height and width in pixels."""
    teachers: tuple[Network, ...]
    device: torch.device
    streams: Callable[..., tuple[torch.Generator, ...]]
    """Returns one random stream per unit: ``task.streams("views")``."""
    shared_stream: Callable[..., torch.Generator]
    """Returns a random stream that all units of the run share."""
    monitor: Monitor
    unit_sizes: tuple[int, ...]
    """Images of each unit."""
    num_alike: int = 1
    """Number of tasks of this shape in the run; compiling pays only for many."""
    real: RealImages | None = None
    table: Callable[..., Tensor] = no_tables
    """Returns a table of the method's preparations, with one row per class or slot, on the CPU:
    ``task.table("statistics.mean", teacher=2)``. Raises KeyError for an unknown table."""
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    earlier: Callable[[], Sequence["Task"]] = tuple
    """Returns the earlier tasks of the same slots, for methods that repeat their starts (DWA)."""
    experts: Experts | None = None
    """Experts, for a method whose needs() ask for snapshots of weights."""

    @property
    def unit_of(self) -> Int[Tensor, " image"]:
        """The unit of each image, on the device."""
        sizes = torch.tensor(self.unit_sizes, device=self.device)
        return torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)


@dataclass(frozen=True)
class Recovered:
    """The result of a method for one task."""

    images: Float[Tensor, "image 3 height width"]
    """Images in [0, 1], in the order of ``task.labels``."""
    soft_labels: Float[Tensor, "image class"] | None = None
    """Class probabilities learned with the images."""
    learned: Mapping[str, float] | None = None
    """Numbers learned for the whole set, such as {"student_learning_rate": 0.013}; only for methods whose unit is the
    set."""


@dataclass(frozen=True)
class Context:
    """Input of a preparation: the rows to make, and everything it may read."""

    rows: range
    """Classes, or slots."""
    teacher: Network
    number: int
    """The teacher's place in ``Task.teachers``."""
    real: RealImages
    size: tuple[int, int]
    device: torch.device
    stream: Callable[..., torch.Generator]
    """Returns a named random stream of the run, independent of which rows are made together."""
    num_teachers: int = 1
    """Teachers that the method uses, for steps that read the tables of all of them."""
    table: Callable[..., Tensor] = no_tables
    """A table of an earlier preparation."""
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    advance: Callable[[float], object] = lambda rows: None
    """Moves the progress bar by so many rows, or parts of a row; need not be called."""


C = TypeVar("C", bound=MethodConfig, contravariant=True)


class Method(Protocol[C]):
    """A module in ``attar.methods``, or elsewhere by dotted path."""

    Config: type[Any]
    """Settings of the method, a subclass of MethodConfig."""

    def recover(self, task: Task, config: C) -> Recovered:
        """Make the task's images."""
        ...


class Prepared(Method[C], Protocol[C]):
    """A method with steps before its units: a module that has ``prepare``, too."""

    def prepare(self, config: C) -> Sequence[Preparation]:
        """Return the steps in order; a step may read the tables of earlier steps."""
        ...
