"""Which real dataset, and how its images are prepared: one string and a few numbers."""

from typing import Annotated, Literal, Self

import pydantic

from attar.core.config import NO_EFFECT, Config

Positive = pydantic.PositiveFloat


class DataChoice(Config):
    """A real dataset by name, by folder or by Hub id, and the square images that are made of it."""

    source: Annotated[str, NO_EFFECT] = "digits"
    """A name from 'attar list datasets', the path of a folder, or hf:ORG/NAME for a dataset of the Hugging Face Hub."""
    root: Annotated[str, NO_EFFECT] = ""
    """The folder that holds a named dataset; empty: looked for in $ATTAR_DATA, or in ./data."""
    size: int = pydantic.Field(default=32, ge=4)
    """Side of the square images in pixels."""
    resize: int | None = None
    """Shorter side before the central crop; default: size. ImageNet recipes use 256 for 224."""
    classes: tuple[str, ...] = ()
    """Keep only these classes, in the dataset's order; empty: all."""
    num_classes: int | None = pydantic.Field(default=None, ge=2)
    """Keep only this many classes, the first ones in the dataset's order."""
    holdout: float = pydantic.Field(default=0.1, gt=0, lt=1)
    """Fraction of each class held out for validation where the dataset brings no split of its own."""
    validate_on: Literal["val", "train"] = "val"
    """'train' leaves the validation split alone, also one that was held out, and holds out of the training images anew,
    to choose settings on."""
    mean: tuple[float, float, float] | None = None
    """Mean of each channel of images in [0, 1]; default: measured on the training images."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation of each channel; default: measured on the training images."""
    on_corrupt: Annotated[Literal["stop", "skip"], NO_EFFECT] = "stop"
    """What an unreadable image does: stop the run, or be left out with a warning."""
    resident: Annotated[Literal["auto", "on", "off"], NO_EFFECT] = "auto"
    """Hold all images in memory, as bytes on the device; auto: when they take 4 GiB or less."""

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) is less than size ({self.size}); make it {self.size} or more")
        if self.classes and self.num_classes is not None:
            raise ValueError("classes and num_classes exclude each other; give one of them")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a class twice; name each once")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        return self
