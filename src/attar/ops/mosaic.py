"""Mosaics: one stored image holds several smaller ones, which are enlarged when they are shown.

From IDC (Kim et al., 2022, arXiv 2205.14959); CIM and NCFM store images this way.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor

from attar.ops import views
from attar.ops.choices import Storage
from attar.ops.pixels import from_bytes
from attar.ops.views import View

WHOLE = 0
"""Number of the whole stored image; its parts are 1, 2, ... row by row."""


@dataclass(frozen=True)
class Part:
    """Which part of each stored image is shown, and how images are stored."""

    number: UInt8[Tensor, " image"]
    """0 for the whole image, else the number of the part, counted from 1 row by row."""
    storage: Storage

    def take(self, index: Tensor | slice) -> Self:
        """Return the records at these indices."""
        return type(self)(self.number[index], self.storage)


def draw(storage: Storage, probability: float, count: int, generator: torch.Generator) -> Part:
    """Draw for each of ``count`` images a random part with this probability, otherwise the whole image."""
    part = torch.randint(1, storage.num_parts + 1, (count,), generator=generator)
    shown = torch.rand(count, generator=generator) < probability
    return Part(torch.where(shown, part, WHOLE).to(torch.uint8), storage)


def in_turn(storage: Storage, count: int, epoch: int) -> Part:
    """Return for each of ``count`` images the part that is its turn in this epoch; neighbours show different ones."""
    return Part(((torch.arange(count) + epoch) % storage.num_parts + 1).to(torch.uint8), storage)


def boxes(number: UInt8[Tensor, " image"], factor: int, height: int, width: int) -> Int[Tensor, "image 4"]:
    """Return top, left, height and width of these parts in a stored image of this size."""
    place = number.to(torch.int64) - 1
    row, column = place.div(factor, rounding_mode="floor"), place % factor
    part = torch.stack(
        [
            row * (height // factor),
            column * (width // factor),
            torch.full_like(place, height // factor),
            torch.full_like(place, width // factor),
        ],
        dim=1,
    )
    return torch.where((number == WHOLE)[:, None], part.new_tensor([0, 0, height, width]), part)


def pack(
    images: Num[Tensor, "image part channel height width"], factor: int
) -> Num[Tensor, "image channel height width"]:
    """Shrink ``factor`` x ``factor`` images by nearest-pixel sampling and arrange them row by row in one image.

    Raises ValueError if the sides are not multiples of ``factor``.
    """
    count, _, channels, height, width = images.shape
    _refuse_remainder(factor, height, width)
    small = images[..., ::factor, ::factor].unflatten(1, (factor, factor))
    return small.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


def unpack(
    images: Float[Tensor, "image channel height width"], storage: Storage
) -> Float[Tensor, "image part channel height width"]:
    """Return all parts of stored images, enlarged to the size of the whole; differentiable and deterministic.

    Raises ValueError if the sides are not multiples of the factor.
    """
    (count, channels, height, width), factor = images.shape, storage.factor
    if factor == 1:
        return images[:, None]
    _refuse_remainder(factor, height, width)
    small = images.reshape(count, channels, factor, height // factor, factor, width // factor)
    small = small.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // factor, width // factor)
    if storage.enlarge == "nearest":
        large = small[:, :, :, None, :, None].expand(-1, -1, -1, factor, -1, factor)
        large = large.reshape(-1, channels, height, width)
    else:
        large = views.apply(small, views.whole(*small.shape[-2:]), (height, width))
    return large.unflatten(0, (count, storage.num_parts))


def decoded(images: UInt8[Tensor, "image 3 height width"], storage: Storage) -> Float[Tensor, "shown 3 height width"]:
    """Return all images of a set in [0, 1]: the parts of its stored images, one stored image after the other."""
    return unpack(from_bytes(images), storage).flatten(0, 1)


def show(
    images: UInt8[Tensor, "all 3 height width"], index: Int[Tensor, " image"], part: Part
) -> Float[Tensor, "image 3 height width"]:
    """Show the whole or an enlarged part of each image at ``index``, in [0, 1]; much faster than ``unpack``.

    ``part`` has one record per entry of ``index``, on the CPU.
    """
    height, width = images.shape[-2:]
    factor, number = part.storage.factor, part.number
    if part.storage.enlarge == "bilinear":
        count = len(number)
        view = View(
            boxes(number, factor, height, width),
            torch.zeros(count, dtype=torch.bool),
            torch.zeros(count, 2, dtype=torch.int64),
        )
        return views.apply_to_bytes(images, index, view)
    top, left, *_ = boxes(number, factor, height, width).to(images.device).unbind(1)
    step = torch.where(number == WHOLE, 1, factor).to(images.device)[:, None]
    rows = top[:, None] + torch.arange(height, device=images.device) // step
    columns = left[:, None] + torch.arange(width, device=images.device) // step
    taken = images[index.to(images.device)]
    taken = taken.gather(2, rows[:, None, :, None].expand_as(taken))
    return from_bytes(taken.gather(3, columns[:, None, None].expand_as(taken)))


def _refuse_remainder(factor: int, height: int, width: int) -> None:
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} pixels do not divide into {factor} x {factor} parts")
