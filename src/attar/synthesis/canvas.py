"""Canvases: the optimised tensor of an image, how teachers see it, and how it becomes the stored image."""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from attar.ops import mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import Normalisation
from attar.synthesis.choices import Pixels
from attar.synthesis.matching_choices import Matching

Images = Float[Tensor, "image channel height width"]


class Canvas(Protocol):
    """Representation of images during optimisation. A frozen dataclass, because its hash names the compiled
    function."""

    @property
    def shown(self) -> int:
        """Images that teachers see per stored image; those of one stored image are consecutive."""
        ...

    def units(self, normalisation: Normalisation) -> Normalisation:
        """Return the units of the optimised pixels, for a teacher with this normalisation."""
        ...

    def begin(self, start: Images) -> Images:
        """Return the tensor to optimise, from a start of three channels in the units."""
        ...

    def show(self, pixels: Images) -> Images:
        """Return the images that views are taken of; differentiable and pure. One channel is copied to three."""
        ...


@dataclass(frozen=True)
class Plain:
    """Optimise the pixels of the image itself."""

    shown = 1

    def units(self, normalisation: Normalisation) -> Normalisation:
        """The teacher's units."""
        return normalisation

    def begin(self, start: Images) -> Images:
        """The start, unchanged."""
        return start

    def show(self, pixels: Images) -> Images:
        """The pixels, unchanged."""
        return pixels


@dataclass(frozen=True)
class Grey(Plain):
    """One value per pixel, copied to all three channels."""

    def units(self, normalisation: Normalisation) -> Normalisation:
        """One mean and one standard deviation for all channels."""
        return normalisation.grey()

    def begin(self, start: Images) -> Images:
        """The first channel of the start."""
        return start[:, :1]


@dataclass(frozen=True)
class Mosaic:
    """The pixels are a stored image in [0, 1]; teachers see each of its parts, enlarged to the full size."""

    storage: Storage
    grey: bool = False
    """One value per pixel, copied to all three channels."""

    @property
    def shown(self) -> int:
        """Number of parts of a stored image."""
        return self.storage.num_parts

    def units(self, normalisation: Normalisation) -> Normalisation:
        """The units of stored images."""
        return Normalisation()

    def begin(self, start: Images) -> Images:
        """The start, or its first channel."""
        return start[:, :1] if self.grey else start

    def show(self, pixels: Images) -> Images:
        """The parts of all images; parts of one image are consecutive."""
        return mosaic.unpack(pixels, self.storage).flatten(0, 1)


def canvas_of(config: Pixels | Matching) -> Canvas:
    """Return the configured canvas."""
    return Grey() if config.grey else Plain()
