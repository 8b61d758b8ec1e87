"""Differentiable Siamese augmentation (DSA; Zhao & Bilen, 2021, arXiv 2102.08259). Drawing and applying are separate.

A draw is eleven small integers. It can be stored with a label, passed to a compiled function as a tensor, and applied
to real and synthetic images alike. An augmentation that is not in a draw has a neutral value, so one compiled graph
without branches serves every draw. All gradients are deterministic, on GPUs too.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from attar.ops.choices import AUGMENTATIONS, Augmentation, Combination

BRIGHTNESS, CONTRAST, CROP, CUTOUT, SCALE, DEGREES = 0.5, 0.5, 0.125, 0.5, 1.2, 15.0
"""The published maximum strengths: change of brightness (in the images' units) and of contrast (factor), shift and side
of the cut-out square (fractions of the image's side), scale, rotation."""
NUM_LEVELS = 11
"""Length of a draw: brightness, saturation, contrast, shift down and right, row and column of the cut-out square's
centre, mirrored or not, scale down and across, rotation. 0 is neutral; for the square -128 is."""
GREATEST, UNCUT = 127, -128

Levels = Int8[Tensor, "draw 11"]

_COLUMNS: dict[Augmentation, slice] = {
    "colour": slice(0, 3),
    "crop": slice(3, 5),
    "cutout": slice(5, 7),
    "flip": slice(7, 8),
    "scale": slice(8, 10),
    "rotate": slice(10, 11),
}
_WARPS: tuple[Augmentation, ...] = ("crop", "scale", "rotate")


@dataclass(frozen=True)
class Drawn:
    """Draws, and the kinds of augmentation that they may contain."""

    levels: Levels
    kinds: tuple[Augmentation, ...]

    def take(self, index: Tensor | slice) -> Self:
        """Return the draws at these indices."""
        return type(self)(self.levels[index], self.kinds)


def sample(kinds: Collection[Augmentation], combine: Combination, count: int, *streams: torch.Generator) -> Levels:
    """Make ``count`` independent draws from each stream, one stream after the other.

    ``combine`` says which of the ``kinds`` a draw contains: 'all'; 'one' at random, as in DSA; or 'warp', which is
    colour, cutout and flip, and one of crop, scale and rotate, as in IDC (arXiv 2205.14959) and CIM. The amount of
    random numbers does not depend on the kinds.
    """
    found = torch.cat([_draws(count, stream) for stream in streams])
    levels, picks = found[:, :NUM_LEVELS], found[:, NUM_LEVELS]
    chosen = [kind for kind in AUGMENTATIONS if kind in kinds]
    rivals = {"all": [], "one": chosen, "warp": [kind for kind in _WARPS if kind in kinds]}[combine]
    for kind, columns in _COLUMNS.items():
        if kind not in chosen:
            levels[:, columns] = _neutral(kind)
        elif kind in rivals:
            picked = (picks * len(rivals)).floor() == rivals.index(kind)
            levels[:, columns] = torch.where(picked[:, None], levels[:, columns], _neutral(kind))
    return levels.to(torch.int8)


def _draws(count: int, stream: torch.Generator) -> Float[Tensor, "draw 12"]:
    """Draw levels for every augmentation, and a number in [0, 1) that selects among them."""
    uniform = torch.rand(count, NUM_LEVELS + 1, generator=stream, dtype=torch.float64)
    levels = (uniform * (2 * GREATEST + 1)).floor() - GREATEST
    levels[:, 7] = uniform[:, 7] < 0.5
    scale = 1 / SCALE + uniform[:, 8:10] * (SCALE - 1 / SCALE)
    levels[:, 8:10] = (GREATEST * scale.log() / math.log(SCALE)).round()
    levels[:, NUM_LEVELS] = uniform[:, NUM_LEVELS]
    return levels


def _neutral(kind: Augmentation) -> float:
    return UNCUT if kind == "cutout" else 0


def apply(
    images: Float[Tensor, "image channel height width"], levels: Levels, kinds: Collection[Augmentation]
) -> Float[Tensor, "image channel height width"]:
    """Augment images, with one draw per image or one draw for all; differentiable.

    ``kinds`` must be the kinds passed to ``sample``. Pixels outside an image are 0 and brightness is added, so images
    should be in normalised units. Order: flip, colour, crop, scale, rotate, cutout.
    """
    level = levels.to(images.device).to(images.dtype)
    size = images.shape[-2:]
    if "flip" in kinds:
        images = torch.where(level[:, 7].bool()[:, None, None, None], images.flip(3), images)
    if "colour" in kinds:
        images = _coloured(images, *(level[:, :3] / GREATEST)[..., None, None, None].unbind(1))
    if "crop" in kinds or "scale" in kinds:
        shift, stretch = level[:, 3:5] * ("crop" in kinds), SCALE ** (level[:, 8:10] * ("scale" in kinds) / GREATEST)
        rows, columns = (_axis(shift[:, axis], stretch[:, axis], size[axis]) for axis in range(2))
        images = rows[:, None] @ images @ columns[:, None].mT
    if "rotate" in kinds:
        images = rotate(images, level[:, 10] * (math.radians(DEGREES) / GREATEST))
    if "cutout" in kinds:
        images = images * _uncut(level[:, 5:7], size)
    return images


def _coloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + brightness * BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (1 + saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (1 + contrast * CONTRAST) + mean


def _axis(shift: Float[Tensor, " draw"], stretch: Float[Tensor, " draw"], side: int) -> Float[Tensor, "draw out side"]:
    """Return the weights of one axis: shift by whole pixels, then stretch about the centre; edges are filled with 0."""
    most = int(side * CROP + 0.5)
    pixel = torch.arange(side, device=shift.device, dtype=shift.dtype)
    moved = pixel + _step(shift, 2 * most + 1)[:, None] - most
    centre = (side - 1) / 2
    place = (pixel - centre) * stretch[:, None] + centre
    shifted = (moved[..., None] == pixel).to(shift.dtype)
    return _tent(place[..., None] - pixel) @ shifted


def _uncut(centre: Float[Tensor, "draw 2"], size: torch.Size) -> Float[Tensor, "draw 1 height width"]:
    """Return 0 in the cut-out square, which may extend beyond the image, and 1 elsewhere."""
    inside = []
    for axis, side in enumerate(size):
        length = int(side * CUTOUT + 0.5)
        first = _step(centre[:, axis], side + 1 - length % 2) - length // 2
        pixel = torch.arange(side, device=centre.device)
        inside.append((pixel >= first[:, None]) & (pixel < first[:, None] + length))
    cut = inside[0][:, :, None] & inside[1][:, None] & (centre[:, 0] != UNCUT)[:, None, None]
    return (~cut)[:, None].to(centre.dtype)


def _step(level: Tensor, count: int) -> Tensor:
    """Map a level to one of ``count`` equally likely integers, starting at 0; level 0 maps to the middle."""
    return ((level + (GREATEST + 0.5)) * (count / (2 * GREATEST + 1))).floor().clamp(0, count - 1)


def _tent(away: Tensor) -> Tensor:
    return (1 - away.abs()).clamp_min(0)


def rotate(
    images: Float[Tensor, "image channel height width"], angle: Float[Tensor, " draw"]
) -> Float[Tensor, "image channel height width"]:
    """Rotate images by angles in radians, one per image or one for all; bilinear, filled with 0.

    Equal to ``torch.nn.functional.grid_sample``, whose gradient is not deterministic on a GPU. The gradient here is: it
    collects for every input pixel the (at most nine) output pixels that it contributes to.
    """
    return _Rotate.apply(images, angle.cos(), angle.sin(), False)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    """Rotation and its transpose; each is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, cosine: Tensor, sine: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.transposed = transposed
        return (_gathered if transposed else _sampled)(images, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cosine, sine = ctx.saved_tensors
        return _Rotate.apply(gradients[0], cosine, sine, not ctx.transposed), None, None, None


def _from_centre(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of every pixel relative to the image's centre; both shaped (height, width)."""
    rows, columns = (
        torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in images.shape[-2:]
    )
    return rows[:, None].expand(images.shape[-2:]), columns.expand(images.shape[-2:])


def _turned(rows: Tensor, columns: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Return the source position of each pixel of the rotated image."""
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    return sine * columns + cosine * rows, cosine * columns - sine * rows


def _sampled(images: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    rows, columns = _turned(*_from_centre(images), cosine, sine)
    grid = torch.stack([columns * (2 / width), rows * (2 / height)], dim=-1)
    grid = grid.expand(len(images), height, width, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gathered(slopes: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Transpose of ``_sampled``: a pixel contributes to output pixels whose source is less than one pixel away."""
    count, channels, height, width = slopes.shape
    rows, columns = _from_centre(slopes)
    at_row, at_column = _turned(rows, columns, cosine, -sine)  # where the pixel moved to
    first_row = (at_row + (height - 1) / 2 - math.sqrt(2)).ceil()
    first_column = (at_column + (width - 1) / 2 - math.sqrt(2)).ceil()
    flat, total = slopes.reshape(count, channels, height * width), torch.zeros_like(slopes)
    for place in range(9):
        row, column = first_row + place // 3, first_column + place % 3
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        from_row, from_column = _turned(row - (height - 1) / 2, column - (width - 1) / 2, cosine, sine)
        weight = _tent(from_row - rows) * _tent(from_column - columns) * there
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        index = index.to(torch.int64).flatten(1)[:, None].expand(count, channels, height * width)
        total = total + weight[:, None] * flat.gather(2, index).view(slopes.shape)
    return total
