"""Pixels: normalisation, conversion between [0, 1] and bytes, and image grids."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from attar.ops.choices import Rounding


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of a network's input; stored with the network's weights."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def apply(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
        """Normalise images in [0, 1]."""
        mean, std = self._columns(images)
        return (images - mean).div_(std)

    def undo(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
        """Convert normalised images back to [0, 1]."""
        mean, std = self._columns(images)
        return images * std + mean

    def bounds(self, like: Tensor) -> tuple[Float[Tensor, "1 3 1 1"], Float[Tensor, "1 3 1 1"]]:
        """Return the normalised values of black and white."""
        mean, std = self._columns(like)
        return -mean / std, (1 - mean) / std

    def grey(self) -> Self:
        """Return a normalisation for grey images: the mean of the three means and of the three deviations."""
        mean, std = sum(self.mean) / 3, sum(self.std) / 3
        return type(self)((mean, mean, mean), (std, std, std))

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        kind = {"dtype": like.dtype, "device": like.device}
        return torch.tensor(self.mean, **kind).view(1, 3, 1, 1), torch.tensor(self.std, **kind).view(1, 3, 1, 1)


def to_bytes(images: Float[Tensor, "*shape"], rounding: Rounding = "nearest") -> UInt8[Tensor, "*shape"]:
    """Convert images in [0, 1] to bytes; the published CDA and SRe2L scripts use ``truncate``."""
    scaled = images.detach().clamp(0, 1) * 255
    return (scaled.round() if rounding == "nearest" else scaled.floor()).to(torch.uint8)


def from_bytes(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert bytes to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def grid(
    images: UInt8[Tensor, "image 3 height width"], columns: int, gap: int = 2, zoom: int = 1
) -> UInt8[Tensor, "3 grid_height grid_width"]:
    """Arrange images in a grid with white gaps, row by row; ``zoom`` enlarges tiny images by repeating pixels."""
    tiles = images.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    count, _, height, width = tiles.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for place, tile in enumerate(tiles):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = tile
    return canvas
