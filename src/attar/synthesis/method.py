"""Base classes of a method's configuration: settings, needs, cost, and how images are stored.

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

from attar.core.config import BY_CONTENT, NO_EFFECT, Config
from attar.ops.choices import PLAIN, ImageFormat, Rounding, Storage

SNAPSHOTS = (100, 500, 1000, 2000)
STUDENT_RATE = "student_learning_rate"
"""Name of a learned number: the learning rate for students that train on the set."""
SOFT_LABELS = "soft_labels"
"""Name of the class probabilities that a method learns with the images."""
TeacherNeed = Literal["none", "one", "several"]
SnapshotNeed = Literal["none", "ends", "epochs"]
UnitNeed = Literal["any", "slots", "class", "set"]
_LADDERS: dict[str, tuple[str, ...]] = {
    "teachers": ("none", "one", "several"),
    "snapshots": ("none", "ends", "epochs"),
    "unit": ("any", "slots", "class", "set"),
}


@dataclass(frozen=True)
class Needs:
    """Requirements of a method on earlier stages. ``a | b`` combines the requirements of both."""

    teachers: TeacherNeed = "one"
    """Whether the method uses no teacher, one, or several."""
    batchnorm: bool = False
    """Every teacher must have BatchNorm layers."""
    real_images: bool = False
    """The method reads real training images through ``Task.real``."""
    stores_real_pixels: bool = False
    """The images are, or start as, parts of real photographs; the dataset card says so."""
    snapshots: SnapshotNeed = "none"
    """Weights to keep while experts train: none, the first and last, or those after every epoch."""
    expert_epochs: int = 0
    """Epochs that experts must train for, at least."""
    unit: UnitNeed = "any"
    """What one unit of work must hold: any images, all slots of its classes, images of one class, or the whole set."""
    side_by_side: bool = True
    """Whether several units may share a batch of the teacher."""

    def __or__(self, other: Needs) -> Needs:
        found: dict[str, Any] = {}
        for name, ladder in _LADDERS.items():
            found[name] = max(getattr(self, name), getattr(other, name), key=ladder.index)
        for name in ("batchnorm", "real_images", "stores_real_pixels"):
            found[name] = getattr(self, name) or getattr(other, name)
        found["expert_epochs"] = max(self.expert_epochs, other.expert_epochs)
        return Needs(**found, side_by_side=self.side_by_side and other.side_by_side)


@dataclass(frozen=True)
class UnitShape:
    """The properties of a unit of work that its cost depends on."""

    num_classes: int
    num_slots: int
    size: int
    """Side of the stored images in pixels."""
    num_teachers: int = 1
    """Teachers that the method uses."""


@dataclass(frozen=True)
class Stretch:
    """A run of iterations with the same tensor shapes. The loop, the forecast and the compiler read the same list."""

    iterations: int
    side: float = 1.0
    """Side of the views that teachers see, as a fraction of the stored image's side."""
    slots: int | None = None
    """Only the first ``slots`` slots of a unit take part; None: all."""
    shown: int = 1
    """Images that teachers see per stored image; 4 for a mosaic of two by two."""
    teachers: tuple[float, ...] = (1.0,)
    """Passes through each teacher in one iteration; round robin of four: (0.25, 0.25, 0.25, 0.25)."""

    def showing(self, shown: int) -> Stretch:
        """Return the same stretch with ``shown`` images per stored image."""
        return replace(self, shown=shown)

    def shape(self) -> Stretch:
        """Return the same stretch with one iteration, to find stretches that differ in length only."""
        return replace(self, iterations=1)


@dataclass(frozen=True)
class Preparation:
    """A named step that runs once before the first unit; its rows are divided among processes and stored."""

    name: str
    """Name of the step. Its tables are called ``name.key``, for each key that ``make`` returns."""
    make: Callable[[Any, Any], Mapping[str, Any]]
    """Function of a Context (``synthesis/task.py``) and a configuration; returns tensors with one entry per row of
    ``context.rows`` along the first axis. The configuration has only the fields in ``reads``."""
    reads: tuple[str, ...] = ()
    """Configuration fields and earlier steps that the result depends on. With data, seed and weights they identify the
    tables. ``make`` can read the tables of these steps only."""
    rows: Literal["class", "slot"] = "class"
    """Whether a row belongs to a class or to a slot."""
    per_teacher: bool = True
    """True: make the tables once per teacher; False: once in all."""
    rows_per_job: int = 0
    """Rows that one process makes and stores together, for steps whose rows take long; 0: attar chooses."""
    applies: Callable[[Any, Any], bool] = lambda config, network: True
    """Function of the configuration and a teacher's network: whether this teacher needs the tables."""
    num_shown: Callable[[Any, int], int] = lambda config, count: count
    """Function of the configuration and a class's number of images: how many real images its row reads."""


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
    """Settings that every method has; a method's own ``Config`` adds more."""

    ipc: int = pydantic.Field(default=10, ge=1)
    """Images per class. The run makes slots ipc_start to ipc - 1 of each class. Raise it to add images to a finished
    run, which keeps its images."""
    ipc_start: int = pydantic.Field(default=0, ge=0)
    """First slot to make. Use it to divide slots among machines. (To add images to a finished set, raise ipc.)"""
    keep_from: Annotated[str, BY_CONTENT] = ""
    """Folder of a finished run with fewer classes: its images are kept bit for bit, and only images of the other
    classes are made. Everything else is made anew in this run's folder."""
    unit_classes: int = pydantic.Field(default=100, ge=1)
    """Classes per unit of work, which are optimised together."""
    unit_slots: int = pydantic.Field(default=1, ge=1)
    """Slots of each class per unit of work. With few classes, use more slots: BatchNorm statistics need many images."""
    parallel_units: int = pydantic.Field(default=1, ge=1)
    """Units that share a batch of the teacher, each with separate statistics; raise it to fill the device when units
    are small. Changing it changes the images slightly, because the batch size affects rounding."""
    snapshots: Annotated[tuple[int, ...], NO_EFFECT] = SNAPSHOTS
    """Iterations after which snapshots are kept for the figures; the last iteration is always kept. With the default,
    short runs keep them after a tenth, a quarter and half of their iterations instead."""
    image_format: ImageFormat = "png"
    """File format of the images. 'jpeg' and 'webp' are lossy; the published scripts use 'jpeg', and 'webp' takes the
    fewest bytes."""
    jpeg_quality: int = pydantic.Field(default=75, ge=1, le=100)
    """JPEG quality; the published scripts use Pillow's default, 75."""
    webp_quality: int = pydantic.Field(default=90, ge=1, le=100)
    """WebP quality."""
    rounding: Rounding = "nearest"
    """How pixels in [0, 1] become bytes; the published scripts use 'truncate'."""
    verifier: Annotated[str, NO_EFFECT] = ""
    """Another network whose accuracy on the images is reported: ARCHITECTURE:WEIGHTS or a squeeze folder; empty:
    none."""
    accept_weak_teacher: Annotated[bool, NO_EFFECT] = False
    """Continue with a teacher whose accuracy on real validation images is near chance."""
    accept_other_classes: Annotated[bool, NO_EFFECT] = False
    """Continue with a teacher whose class names differ from the data's."""

    @pydantic.model_validator(mode="after")
    def _slots(self) -> MethodConfig:
        if self.ipc_start >= self.ipc:
            raise ValueError(f"ipc_start ({self.ipc_start}) must be below ipc ({self.ipc})")
        return self

    def needs(self) -> Needs:
        """Return what the method requires. A part adds its own requirements: ``super().needs() | Needs(...)``."""
        return Needs()

    def idle(self) -> dict[str, str]:
        """Settings without effect: the qualities of file formats that are not written."""
        others = (kind for kind in ("jpeg", "webp") if kind != self.image_format)
        return {f"{kind}_quality": f"--image-format {kind}" for kind in others}

    @property
    def image_quality(self) -> int:
        """Quality of the image files; 0 for a lossless format."""
        return {"png": 0, "jpeg": self.jpeg_quality, "webp": self.webp_quality}[self.image_format]

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """The iterations of a unit of this shape, in order; empty for a method without iterations."""
        return ()

    def snapshots_within(self, iterations: int) -> tuple[int, ...]:
        """Return after which of this many iterations snapshots are kept, besides the last."""
        kept = {done for done in self.snapshots if 0 < done < iterations}
        if self.snapshots == SNAPSHOTS and len(kept) < 2:
            kept = {iterations // part for part in (10, 4, 2)} - {0}
        return tuple(sorted(kept))

    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the method reports after each iteration."""
        return ()

    def storage(self) -> Storage:
        """How to decode the stored images."""
        return PLAIN

    def real_per_image(self) -> int:
        """Number of different real images of its class that each stored image takes; 0: no class is too small."""
        return int(self.uses_groups())

    def uses_groups(self) -> bool:
        """Whether real images are cut into difficulty groups, one for each image per class."""
        return False

    def grows(self) -> bool:
        """Whether images can be added to a finished set: no image depends on how many a class gets.

        If a unit holds all slots of its classes, the new slots are a unit of their own, made without the earlier ones.
        A method of your own that reads ``ipc`` in another way returns False.
        """
        together = self.needs().unit == "set" or self.storage().factor > 1
        return not (together or self.uses_groups() or self.learns())

    def learns(self) -> frozenset[str]:
        """What the method returns beside images: SOFT_LABELS, STUDENT_RATE, both or nothing."""
        return frozenset()

    def passes(self, num_teachers: int) -> tuple[float, ...]:
        """Passes through each used teacher in one iteration."""
        return (1.0, *(0.0,) * (num_teachers - 1))

    def members_of(self, num_teachers: int) -> tuple[int, ...]:
        """Indices of the teachers that the method uses, out of ``num_teachers``."""
        return (0,)


def num_iterations(stretches: tuple[Stretch, ...]) -> int:
    """Iterations of all stretches together."""
    return sum(stretch.iterations for stretch in stretches)
