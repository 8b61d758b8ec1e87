"""What a method is given and what it must offer: the contract between the recover stage and every method."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from attar.core.compiling import Compiler
from attar.ops.pixels import Normalisation
from attar.synthesis.method import MethodConfig, Needs

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

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Float[Tensor, " unit"]) -> None:
        """Called after each iteration (0-based); ``images`` yields the images in [0, 1] when they are wanted."""
        ...


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


C = TypeVar("C", bound=MethodConfig, contravariant=True)


class Method(Protocol[C]):
    """A module in ``attar.methods``, or elsewhere by dotted path."""

    Config: type[Any]
    """The method's choices, a subclass of MethodConfig."""
    needs: Needs

    def recover(self, task: Task, config: C) -> Float[Tensor, "image 3 height width"]:
        """Make the task's images, in [0, 1], in the order of ``task.labels``."""
        ...
