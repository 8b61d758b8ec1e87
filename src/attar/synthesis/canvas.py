"""Canvases: what is optimised in an image's place, how it is shown to teachers, and how it becomes the stored image."""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from attar.ops import mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import Normalisation
from attar.synthesis.choices import Pixels

Images = Float[Tensor, "image channel height width"]


class Canvas(Protocol):
    """How images are represented while they are optimised. A frozen dataclass: it names the compiled function."""

    @property
    def shown(self) -> int:
        """Images that are shown for each stored one, those of an image together."""
        ...

    def units(self, normalisation: Normalisation) -> Normalisation:
        """The units of the pixels that are optimised, for a teacher with this normalisation."""
        ...

    def begin(self, start: Images) -> Images:
        """What is optimised, from a start of three channels in the units."""
        ...

    def show(self, pixels: Images) -> Images:
        """What the views are taken of: a differentiable, pure function. One channel is shown as three equal ones."""
        ...


@dataclass(frozen=True)
class Plain:
    """The pixels are the image."""

    shown = 1

    def units(self, normalisation: Normalisation) -> Normalisation:
        """The teacher's."""
        return normalisation

    def begin(self, start: Images) -> Images:
        """The start itself."""
        return start

    def show(self, pixels: Images) -> Images:
        """The pixels themselves."""
        return pixels


@dataclass(frozen=True)
class Grey(Plain):
    """One value a pixel, which all three channels show."""

    def units(self, normalisation: Normalisation) -> Normalisation:
        """One mean and one deviation for all channels."""
        return normalisation.grey()

    def begin(self, start: Images) -> Images:
        """The first channel of the start."""
        return start[:, :1]


@dataclass(frozen=True)
class Mosaic:
    """The pixels are a stored image, in [0, 1], of which all parts are shown, each enlarged to the full size."""

    storage: Storage
    grey: bool = False
    """One value a pixel, which all three channels show."""

    @property
    def shown(self) -> int:
        """Parts of a stored image."""
        return self.storage.num_parts

    def units(self, normalisation: Normalisation) -> Normalisation:
        """Those in which images are stored."""
        return Normalisation()

    def begin(self, start: Images) -> Images:
        """The start itself, or its first channel."""
        return start[:, :1] if self.grey else start

    def show(self, pixels: Images) -> Images:
        """The parts of all images, those of an image together."""
        return mosaic.unpack(pixels, self.storage).flatten(0, 1)


def canvas_of(config: Pixels) -> Canvas:
    """The canvas that a configuration asks for."""
    return Grey() if config.grey else Plain()
