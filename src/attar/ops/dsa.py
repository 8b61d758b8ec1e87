"""Differentiable Siamese augmentation (DSA; Zhao & Bilen, 2021, arXiv 2102.08259), drawn apart from being applied.

A draw is eleven small whole numbers, so that it can be stored with a label, given to a compiled function as a tensor,
and applied to real and synthetic images alike. An augmentation that was not chosen has its neutral number, which is no
branch: one compiled graph serves every draw. The gradient of every augmentation is deterministic on a GPU too.
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
"""The published strengths: greatest change of brightness in the images' units and of contrast as a factor, greatest
shift and side of the cut-out square as parts of the image's side, greatest scale, greatest rotation."""
NUM_LEVELS = 11
"""Numbers of a draw: brightness, saturation, contrast, shift down and right, row and column of the cut-out square's
centre, mirrored or not, scale down and across, rotation. 0 is neutral, and for the square -128."""
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
    """Draws and the kinds of augmentation that they may hold."""

    levels: Levels
    kinds: tuple[Augmentation, ...]

    def take(self, index: Tensor | slice) -> Self:
        """The draws at these places."""
        return type(self)(self.levels[index], self.kinds)


def sample(kinds: Collection[Augmentation], combine: Combination, count: int, *streams: torch.Generator) -> Levels:
    """``count`` independent draws from each stream, those of a stream together.

    ``combine`` says how many of the ``kinds`` are in a draw: 'all', 'one' of them at random as in DSA, or 'warp', which
    is colour, cutout and flip together with one of crop, scale and rotate, as in IDC (arXiv 2205.14959) and CIM.
    Streams are used alike whatever the kinds are.
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
    """Levels with every augmentation in them, and a number in [0, 1) by which some are chosen."""
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
    """Augment images by a draw for each, or by one draw that all share; differentiable.

    ``kinds`` are those that the draws were made for. What lies outside an image is 0 and brightness is added, so the
    images should be in normalised units. Order: flip, colour, crop, scale, rotate, cutout.
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
    """Weights of one axis: shifted by whole pixels, then stretched about the centre; black comes in at the edges."""
    most = int(side * CROP + 0.5)
    pixel = torch.arange(side, device=shift.device, dtype=shift.dtype)
    moved = pixel + _step(shift, 2 * most + 1)[:, None] - most
    centre = (side - 1) / 2
    place = (pixel - centre) * stretch[:, None] + centre
    shifted = (moved[..., None] == pixel).to(shift.dtype)
    return _tent(place[..., None] - pixel) @ shifted


def _uncut(centre: Float[Tensor, "draw 2"], size: torch.Size) -> Float[Tensor, "draw 1 height width"]:
    """0 in the cut-out square, which may lie across the image's edge, and 1 elsewhere."""
    inside = []
    for axis, side in enumerate(size):
        length = int(side * CUTOUT + 0.5)
        first = _step(centre[:, axis], side + 1 - length % 2) - length // 2
        pixel = torch.arange(side, device=centre.device)
        inside.append((pixel >= first[:, None]) & (pixel < first[:, None] + length))
    cut = inside[0][:, :, None] & inside[1][:, None] & (centre[:, 0] != UNCUT)[:, None, None]
    return (~cut)[:, None].to(centre.dtype)


def _step(level: Tensor, count: int) -> Tensor:
    """A level as one of ``count`` whole numbers from 0 on, each as likely as another; the level 0 is the middle one."""
    return ((level + (GREATEST + 0.5)) * (count / (2 * GREATEST + 1))).floor().clamp(0, count - 1)


def _tent(away: Tensor) -> Tensor:
    return (1 - away.abs()).clamp_min(0)


def rotate(
    images: Float[Tensor, "image channel height width"], angle: Float[Tensor, " draw"]
) -> Float[Tensor, "image channel height width"]:
    """Rotate images by angles in radians, one for each or one for all; bilinear, black where nothing was.

    As ``torch.nn.functional.grid_sample`` rotates, whose own gradient is not deterministic on a GPU. This one gathers
    for every pixel of the image the at most nine pixels of the result that it went into.
    """
    return _Rotate.apply(images, angle.cos(), angle.sin(), False)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    """Rotation and its transpose, each the gradient of the other."""

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
    """Row and column of every pixel, seen from the middle of the image; both shaped (height, width)."""
    rows, columns = (
        torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in images.shape[-2:]
    )
    return rows[:, None].expand(images.shape[-2:]), columns.expand(images.shape[-2:])


def _turned(rows: Tensor, columns: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the image a pixel of the rotated one comes from."""
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    return sine * columns + cosine * rows, cosine * columns - sine * rows


def _sampled(images: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    rows, columns = _turned(*_from_centre(images), cosine, sine)
    grid = torch.stack([columns * (2 / width), rows * (2 / height)], dim=-1)
    grid = grid.expand(len(images), height, width, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gathered(slopes: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The transpose of ``_sampled``: a pixel went into those of the result that come from less than one pixel away."""
    count, channels, height, width = slopes.shape
    rows, columns = _from_centre(slopes)
    at_row, at_column = _turned(rows, columns, cosine, -sine)  # where the pixel itself has come to
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
