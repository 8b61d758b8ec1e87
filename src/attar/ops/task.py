"""What a method is given and what it must offer: the contract between the recover stage and every method."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import pydantic
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from attar.core.compiling import Compiler
from attar.core.config import Config
from attar.ops.pixels import Normalisation, Rounding

SNAPSHOTS = (100, 500, 1000, 2000)


class MethodConfig(Config):
    """What every method can be told; a method's own ``Config`` adds to it."""

    ipc: int = pydantic.Field(default=10, ge=1)
    """Images per class: slots ipc_start to ipc - 1 are made."""
    ipc_start: int = pydantic.Field(default=0, ge=0)
    """First slot to make, to share slots out over machines or add to an earlier set."""
    unit_classes: int = pydantic.Field(default=100, ge=1)
    """Classes in one unit of work: one slot of up to this many different classes is optimised together."""
    unit_slots: int = pydantic.Field(default=1, ge=1)
    """Slots in one unit of work; with few classes, more slots give BatchNorm statistics more images to match."""
    parallel_units: int = pydantic.Field(default=1, ge=1)
    """Units that go through the teacher in one batch, each with statistics of its own; fills the device when units
    are small. Part of what identifies the images, for batches of another size are rounded otherwise."""
    snapshots: tuple[int, ...] = SNAPSHOTS
    """Iterations after which the images are kept for the comparison figure; the last is always kept."""
    image_format: Literal["png", "jpeg"] = "png"
    """How images are stored; 'jpeg' loses quality and is what the published scripts do."""
    jpeg_quality: int = pydantic.Field(default=75, ge=1, le=100)
    """Quality of stored JPEG; the published scripts use Pillow's default, 75."""
    rounding: Rounding = "nearest"
    """From [0, 1] to bytes; 'truncate' is what the published scripts do."""
    verifier: str = ""
    """A second network that rates the images, a metric only: ARCHITECTURE:WEIGHTS or a squeeze folder; '' for none."""
    accept_weak_teacher: bool = False
    """Go on with a teacher that is near chance on real validation images."""
    accept_other_classes: bool = False
    """Go on with a teacher whose class names are not the data's."""

    @pydantic.model_validator(mode="after")
    def _slots(self) -> "MethodConfig":
        if self.ipc_start >= self.ipc:
            raise ValueError(f"ipc_start ({self.ipc_start}) must be below ipc ({self.ipc})")
        return self


@dataclass(frozen=True)
class Needs:
    """What a method needs of the stages before it."""

    batchnorm: bool = False
    """The teacher must have BatchNorm layers."""
    real_images: bool = False
    """Real training images are read through ``Task.real``."""


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
