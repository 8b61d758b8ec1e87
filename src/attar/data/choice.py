"""Settings of the real data: which dataset, and how its images are prepared."""

from typing import Annotated, Literal, Self

import pydantic

from attar.core.config import NO_EFFECT, Config

Positive = pydantic.PositiveFloat
IN_MEMORY = "python:"
"""How the source of a dataset begins that a program has handed over."""

WINDOW = 16_384
"""Images that are shuffled together where shards are read in parts."""


class DataChoice(Config):
    """Choose a real dataset by name, folder or Hub id, and prepare square images from it."""

    source: Annotated[str, NO_EFFECT] = "digits"
    """A name from 'attar list datasets', the path of a folder, tar or Parquet files as 'shards/train-{000..146}.tar',
    or hf:ORG/NAME for a dataset of the Hugging Face Hub (hf:ORG/NAME:CONFIGURATION if it has several)."""
    root: Annotated[str, NO_EFFECT] = ""
    """Folder that contains the named dataset; empty: search $ATTAR_DATA, then ./data."""
    size: int = pydantic.Field(default=32, ge=4)
    """Side of the square images in pixels."""
    resize: int | None = None
    """Shorter side before the central crop; default: size. ImageNet recipes use 256 for 224."""
    classes: tuple[str, ...] = ()
    """Keep only these classes, in the dataset's order; empty: all."""
    num_classes: int | None = pydantic.Field(default=None, ge=2)
    """Keep only this many classes, the first ones in the dataset's order."""
    holdout: float = pydantic.Field(default=0.1, gt=0, lt=1)
    """Fraction of each class to hold out for validation if the dataset has no validation split."""
    validate_on: Literal["val", "train"] = "val"
    """'val': measure on the validation split; 'train': measure on training images that are held out for it, to choose
    settings without the validation split."""
    mean: tuple[float, float, float] | None = None
    """Mean of each channel of images in [0, 1]; default: measured on the training images."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation of each channel; default: measured on the training images."""
    on_corrupt: Annotated[Literal["stop", "skip"], NO_EFFECT] = "stop"
    """'stop': an unreadable image stops the run; 'skip': leave it out with a warning."""
    resident: Annotated[Literal["auto", "on", "off"], NO_EFFECT] = "auto"
    """Keep all images in memory, as bytes on the device; auto: if they take 4 GiB or less."""

    keep_decoded: Annotated[bool, NO_EFFECT] = False
    """Keep the prepared images of resident splits in a file on this machine, which later runs map into memory."""
    cache_bytes: Annotated[pydantic.ByteSize | None, NO_EFFECT] = pydantic.Field(default=None, gt=0)
    """Read the shards of an object store or of the Hub in parts, and keep at most so much of them on this disk, as in
    200GB; default: fetch everything once."""
    window_images: Annotated[int | None, NO_EFFECT] = pydantic.Field(default=None, ge=0)
    """Shuffle the shards (row groups of Parquet files), then the images inside windows of about so many images; 0:
    shuffle all images. Default: 0, or 16,384 with cache_bytes."""

    @property
    def window(self) -> int:
        """How many images are shuffled together; 0: all."""
        return self.window_images if self.window_images is not None else WINDOW if self.cache_bytes else 0

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) is less than size ({self.size}); make it {self.size} or more")
        if self.classes and self.num_classes is not None:
            raise ValueError("classes and num_classes cannot be combined; set only one of them")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a class twice; name each once")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be set together; set both or neither")
        return self


def num_held(count: int, fraction: float) -> int:
    """Return how many of a class's pictures are held out for validation: at least one, and never the last."""
    return min(max(1, round(fraction * count)), count - 1)
