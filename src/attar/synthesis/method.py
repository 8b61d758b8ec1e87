"""What a method's configuration says: its settings, what it needs, what it costs, how its images are stored.

Nothing here imports PyTorch, so that ``attar list`` and ``attar run --help`` start at once. The settings that several
methods share are in ``synthesis/choices.py``, what tensors go in and out in ``synthesis/task.py``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pydantic

from attar.core.config import NO_EFFECT, Config
from attar.ops.choices import PLAIN, Rounding, Storage

SNAPSHOTS = (100, 500, 1000, 2000)
TeacherNeed = Literal["none", "one", "several"]
SnapshotNeed = Literal["none", "ends", "epochs"]
UnitNeed = Literal["any", "class", "set"]
_LADDERS: dict[str, tuple[str, ...]] = {
    "teachers": ("none", "one", "several"),
    "snapshots": ("none", "ends", "epochs"),
    "unit": ("any", "class", "set"),
}


@dataclass(frozen=True)
class Needs:
    """What a method needs of the stages before it. ``a | b`` needs what either needs."""

    teachers: TeacherNeed = "one"
    """Whether networks are asked at all, and whether several are."""
    batchnorm: bool = False
    """Every teacher must have BatchNorm layers."""
    real_images: bool = False
    """Real training images are read through ``Task.real``."""
    stores_real_pixels: bool = False
    """The images are, or begin as, parts of real photographs, which the data's card says."""
    snapshots: SnapshotNeed = "none"
    """Weights kept while experts are trained: the first and the last, or those after every epoch."""
    unit: UnitNeed = "any"
    """What one unit of work must hold: any images, all of one class, or the whole set."""
    side_by_side: bool = True
    """Whether several units may go through the teacher in one batch."""

    def __or__(self, other: Needs) -> Needs:
        found: dict[str, Any] = {}
        for name, ladder in _LADDERS.items():
            found[name] = max(getattr(self, name), getattr(other, name), key=ladder.index)
        for name in ("batchnorm", "real_images", "stores_real_pixels"):
            found[name] = getattr(self, name) or getattr(other, name)
        return Needs(**found, side_by_side=self.side_by_side and other.side_by_side)


@dataclass(frozen=True)
class UnitShape:
    """One unit of work, as far as its cost depends on it."""

    num_classes: int
    num_slots: int
    size: int
    """Side of the stored images in pixels."""
    num_teachers: int = 1
    """Teachers that the method uses."""


@dataclass(frozen=True)
class Stretch:
    """Iterations of one shape. The loop, the forecast and the compiler read the same list of them."""

    iterations: int
    side: float = 1.0
    """Side of what teachers are shown, as a fraction of the stored image's."""
    slots: int | None = None
    """How many of a unit's slots take part, the first ones; None: all."""
    shown: int = 1
    """Images shown for each stored one that takes part; a mosaic of two by two shows 4."""
    teachers: tuple[float, ...] = (1.0,)
    """Passes through each teacher in one iteration; round robin of four: (0.25, 0.25, 0.25, 0.25)."""

    def showing(self, shown: int) -> Stretch:
        """The same stretch with so many images shown for each stored one."""
        return replace(self, shown=shown)

    def shape(self) -> Stretch:
        """The same stretch whatever its length, to find stretches that are alike."""
        return replace(self, iterations=1)


@dataclass(frozen=True)
class Preparation:
    """One named step before the units: made once per run, row by row, stored, and shared out over processes."""

    name: str
    """Its tables are ``name.key``, for each key that ``make`` returns."""
    make: Callable[[Any, Any], Mapping[str, Any]]
    """From a Context (``synthesis/task.py``) and a configuration to tensors, whose first axis has an entry for each of
    ``context.rows``. The configuration is a namespace that has the fields in ``reads`` and no others."""
    reads: tuple[str, ...] = ()
    """Fields of the configuration, and names of earlier steps, on which the result depends: with data, seed and weights
    they identify it. Only the tables of these steps can be read."""
    rows: Literal["class", "slot"] = "class"
    """Whether a row belongs to a class or to a slot."""
    per_teacher: bool = True
    """Make the tables for every teacher, or once."""
    applies: Callable[[Any, Any], bool] = lambda config, network: True
    """From the configuration and a teacher's network to whether tables are needed of it."""
    num_shown: Callable[[Any, int], int] = lambda config, count: count
    """From the configuration and a class's number of images to how many real images its row looks at."""


class Part(Config):
    """Base of every group of settings that a method's ``Config`` is composed of.

    ``class Config(Pixels, Crops, defaults={"iterations": 2000})`` changes a default and keeps the field's docstring and
    limits. Two parts that define a field of one name are refused when the class is made.
    """

    def __init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner: dict[str, type] = {}
        for part in (each for each in reversed(cls.__mro__) if issubclass(each, Part)):
            for name in inspect.get_annotations(part):
                before = owner.setdefault(name, part)
                if not issubclass(part, before):
                    raise TypeError(
                        f"{cls.__qualname__}: the parts {before.__qualname__} and {part.__qualname__} both define "
                        f"'{name}'; rename one of them, or derive one from the other."
                    )
                owner[name] = part

    @classmethod
    def __pydantic_init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, value in (defaults or {}).items():
            if name not in cls.model_fields:
                raise TypeError(f"{cls.__qualname__} has no field '{name}', for which 'defaults' has a value.")
            field = copy.copy(cls.model_fields[name])
            field.default = value
            cls.__pydantic_fields__[name] = field
        if defaults:
            cls.model_rebuild(force=True)


class MethodConfig(Part):
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
    snapshots: Annotated[tuple[int, ...], NO_EFFECT] = SNAPSHOTS
    """Iterations after which the images are kept for the comparison figure; the last is always kept."""
    image_format: Literal["png", "jpeg"] = "png"
    """How images are stored; 'jpeg' loses quality and is what the published scripts do."""
    jpeg_quality: int = pydantic.Field(default=75, ge=1, le=100)
    """Quality of stored JPEG; the published scripts use Pillow's default, 75."""
    rounding: Rounding = "nearest"
    """From [0, 1] to bytes; 'truncate' is what the published scripts do."""
    verifier: Annotated[str, NO_EFFECT] = ""
    """A second network that rates the images, a metric only: ARCHITECTURE:WEIGHTS or a squeeze folder; '' for none."""
    accept_weak_teacher: Annotated[bool, NO_EFFECT] = False
    """Go on with a teacher that is near chance on real validation images."""
    accept_other_classes: Annotated[bool, NO_EFFECT] = False
    """Go on with a teacher whose class names are not the data's."""

    @pydantic.model_validator(mode="after")
    def _slots(self) -> MethodConfig:
        if self.ipc_start >= self.ipc:
            raise ValueError(f"ipc_start ({self.ipc_start}) must be below ipc ({self.ipc})")
        return self

    def needs(self) -> Needs:
        """What the method needs with these settings. A part adds its own: ``super().needs() | Needs(...)``."""
        return Needs()

    def idle(self) -> set[str]:
        """The quality of JPEG files where none are written."""
        return {"jpeg_quality"} if self.image_format == "png" else set()

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """The iterations of a unit of this shape, in order; empty for a method without iterations."""
        return ()

    def metrics(self) -> tuple[str, ...]:
        """Names of what the method reports of each iteration."""
        return ()

    def storage(self) -> Storage:
        """How the images that it makes are to be decoded."""
        return PLAIN

    def passes(self, num_teachers: int) -> tuple[float, ...]:
        """Passes through each of the teachers that are used in one iteration."""
        return (1.0, *(0.0,) * (num_teachers - 1))

    def members_of(self, num_teachers: int) -> tuple[int, ...]:
        """Which of a committee of so many teachers the method uses, by index."""
        return (0,)


def num_iterations(stretches: tuple[Stretch, ...]) -> int:
    """Iterations of all stretches together."""
    return sum(stretch.iterations for stretch in stretches)
