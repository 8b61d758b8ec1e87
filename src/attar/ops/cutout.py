"""Cutout and RandAugment of real training images. Drawing and applying are separate functions."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Int, Num, UInt8
from torch import Tensor

from attar.ops import augment
from attar.ops.augment import RandAugment
from attar.ops.choices import LookChoice, RealAugmentation


@dataclass(frozen=True)
class Drawn:
    """What hides and changes each of n images."""

    box: Int[Tensor, "image 4"]
    """Top, left, bottom and right of the hidden part; empty where these are equal."""
    colour: UInt8[Tensor, "image 3"]
    """Colour of the hidden part."""
    changes: RandAugment | None
    """Operations that are applied afterwards."""

    def take(self, index: Tensor | slice) -> Self:
        """Return what was drawn for the images at these indices."""
        changes = self.changes and self.changes.take(index)
        return type(self)(self.box[index], self.colour[index], changes)


def draw(choice: RealAugmentation, count: int, height: int, width: int, generator: torch.Generator) -> Drawn | None:
    """Draw a square and operations for each of ``count`` images; returns None, and draws nothing, if there are none.

    The square's centre is anywhere in the image, so a part of the square may lie outside. Source: Cutout (DeVries &
    Taylor, 2017, arXiv 1708.04552) in the form of ImageNet-21K-P (Ridnik et al., 2021, arXiv 2104.10972): every square
    has a random colour.
    """
    if not choice.cutout and not choice.randaugment_ops:
        return None
    box, colour = torch.zeros(count, 4, dtype=torch.int64), torch.zeros(count, 3, dtype=torch.uint8)
    if choice.cutout:
        size = torch.tensor([height, width])
        half = (choice.cutout * size + 0.5).long() // 2
        centre = (torch.rand(count, 2, generator=generator) * size).long()
        box = torch.cat([(centre - half).clamp_min(0), (centre + half).minimum(size)], dim=1)
        colour = torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8)
    changes = augment.draw_changes(count, _looks(choice), generator) if choice.randaugment_ops else None
    return Drawn(box, colour, changes)


def apply(images: Num[Tensor, "image 3 height width"], drawn: Drawn) -> Num[Tensor, "image 3 height width"]:
    """Hide each image's square and then apply its operations, in images in [0, 1] or bytes; returns the same type."""
    top, left, bottom, right = drawn.box.to(images.device)[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    hidden = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
    colour = drawn.colour.to(images.device)[:, :, None, None]
    shown = torch.where(hidden[:, None], colour / 255 if images.is_floating_point() else colour, images).to(
        images.dtype
    )
    return shown if drawn.changes is None else augment.change(shown, drawn.changes)


def _looks(choice: RealAugmentation) -> LookChoice:
    return LookChoice(
        randaugment_ops=choice.randaugment_ops,
        randaugment_magnitude=choice.randaugment_magnitude,
        randaugment_std=choice.randaugment_std,
        randaugment_set="timm",
    )
