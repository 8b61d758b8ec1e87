"""What a method is told and what it needs: the settings that methods have in common, without PyTorch."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import pydantic

from attar.core.config import NO_EFFECT, Config
from attar.ops.choices import Rounding

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
    def _slots(self) -> "MethodConfig":
        if self.ipc_start >= self.ipc:
            raise ValueError(f"ipc_start ({self.ipc_start}) must be below ipc ({self.ipc})")
        return self

    def idle(self) -> set[str]:
        """The quality of JPEG files where none are written."""
        return {"jpeg_quality"} if self.image_format == "png" else set()


@dataclass(frozen=True)
class Needs:
    """What a method needs of the stages before it."""

    batchnorm: bool = False
    """The teacher must have BatchNorm layers."""
    real_images: bool = False
    """Real training images are read through ``Task.real``."""


class Inversion(MethodConfig):
    """Optimise pixels until a teacher recognises them and its BatchNorm statistics are met (SRe2L and its line)."""

    iterations: int = pydantic.Field(default=4000, ge=1)
    """Optimisation steps of each unit."""
    learning_rate: float = pydantic.Field(default=0.25, gt=0)
    """Adam's step size at the start, in units of the normalised input; falls to 0 along half a cosine."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's two decay rates."""
    bn_weight: float = pydantic.Field(default=0.01, ge=0)
    """Weight of the BatchNorm statistics against the cross-entropy (r_bn)."""
    first_bn_multiplier: float = pydantic.Field(default=10.0, ge=0)
    """Extra weight of the first BatchNorm layer."""
    crop: Literal["resized", "none"] = "resized"
    """Look at the images through random resized crops, or always at the whole image."""
    min_crop: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a crop, as a fraction of the image."""
    flip: bool = True
    """Mirror half of the views left to right; off where a mirrored object is another one (digits)."""
    jitter: int = pydantic.Field(default=32, ge=0)
    """Largest circular shift of a view, in pixels of the image's full size, along each axis."""
    jitter_both_ways: bool = False
    """Shift by -jitter to jitter, not only 0 to jitter."""
    view_sizes: tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...] = (1.0,)
    """Sizes at which the teacher is shown the views, as fractions of the image's side, each for an equal block of the
    iterations; the pixels that are optimised stay whole. '0.5 1.0' is coarse to fine; with 224 pixels
    '0.893 1.0 0.893 1.0' is 200, 224, 200, 224 as in FADRM (arXiv 2506.24125), which resizes the images themselves."""
    grey: bool = False
    """Optimise grey images, for grey data: one value a pixel, shown to the teacher in all three channels."""
    keep: Literal["last", "best"] = "last"
    """Keep the last iterate, as published, or the one of lowest loss among those shown at the size of the last block:
    losses at different sizes do not compare."""

    @pydantic.model_validator(mode="after")
    def _blocks(self) -> Self:
        if not self.view_sizes:
            raise ValueError("view_sizes is empty; give one size at least, 1.0 for the whole")
        if len(self.view_sizes) > self.iterations:
            raise ValueError(
                f"view_sizes has {len(self.view_sizes)} sizes for {self.iterations} iterations; "
                f"each needs an iteration of its own"
            )
        return self


class Coreset(MethodConfig):
    """What methods that choose by features have in common."""

    normalise_features: bool = False
    """Scale every image's features to length one before they are compared."""
