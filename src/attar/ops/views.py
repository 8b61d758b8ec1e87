"""Views: crop, resize, flip and circular jitter, drawn apart from being applied so that a stored view can be replayed.

A view is two small matrices: bilinear interpolation, mirroring and rolling of an axis are linear in the pixels of that
axis, so a view of an image is ``rows @ image @ columns.T``. Views may differ per image, the gradient is again two
matrix products and therefore deterministic, and another output size is only another shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.core.config import Config

RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class View:
    """Views of n images, or one view (n = 1) that a whole batch shares."""

    box: Int[Tensor, "view 4"]
    """Top, left, height, width in source pixels; may reach outside the image, where there is black."""
    flip: Bool[Tensor, " view"]
    """Mirrored left to right, after cropping."""
    shift: Int[Tensor, "view 2"]
    """Circular shift down and right in output pixels, after flipping."""

    def __len__(self) -> int:
        return len(self.box)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.box.to(device), self.flip.to(device), self.shift.to(device))

    def parts(self) -> tuple[Int[Tensor, "view 4"], Bool[Tensor, " view"], Int[Tensor, "view 2"]]:
        """Box, flip and shift."""
        return self.box, self.flip, self.shift

    def take(self, index: Tensor | slice) -> Self:
        """The views at these places."""
        return type(self)(self.box[index], self.flip[index], self.shift[index])


def cat(views: Sequence[View]) -> View:
    """The views one after the other."""
    box, flip, shift = (torch.cat(parts) for parts in zip(*(view.parts() for view in views), strict=True))
    return View(box, flip, shift)


class ViewChoice(Config):
    """How views of training images are drawn. Part of a recipe: a mirrored digit is another sign."""

    crop: Literal["none", "resized", "padded"] = "resized"
    """'resized': RandomResizedCrop; 'padded': black border, then a crop of the original size; 'none': whole image."""
    min_scale: float = 0.08
    """Smallest area of a resized crop, as a fraction of the image."""
    padding: int = 4
    """Width in pixels of the border of a padded crop."""
    flip: bool = True
    """Mirror half of the views left to right."""

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> View:
        """``count`` independent views of images of this size."""
        if self.crop == "resized":
            box = resized_boxes(count, height, width, (self.min_scale, 1.0), generator)
        elif self.crop == "padded":
            corner = torch.randint(-self.padding, self.padding + 1, (count, 2), generator=generator)
            box = torch.cat([corner, torch.tensor([[height, width]]).expand(count, 2)], dim=1)
        else:
            box = torch.tensor([[0, 0, height, width]]).repeat(count, 1)
        flip = torch.rand(count, generator=generator) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool)
        return View(box, flip, torch.zeros(count, 2, dtype=torch.int64))


def resized_boxes(
    count: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> Int[Tensor, "view 4"]:
    """Boxes distributed as torchvision's RandomResizedCrop draws them: area uniform in ``scale``, log-uniform ratio.

    Of ten attempts the first that fits is taken, else the largest central box whose ratio is within 3/4 to 4/3.
    """
    draws = torch.rand(count, ATTEMPTS, 2, generator=generator, dtype=torch.float64)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    low, high = torch.log(torch.tensor(RATIO, dtype=torch.float64))
    ratio = torch.exp(low + (high - low) * draws[..., 1])
    widths, heights = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    central_height, central_width = _central_box(height, width)
    box_height = torch.where(found, heights.gather(1, first)[:, 0], central_height)
    box_width = torch.where(found, widths.gather(1, first)[:, 0], central_width)
    top = torch.where(found, (place[:, 0] * (height - box_height + 1)).floor(), (height - box_height) // 2)
    left = torch.where(found, (place[:, 1] * (width - box_width + 1)).floor(), (width - box_width) // 2)
    return torch.stack([top, left, box_height, box_width], dim=1).to(torch.int64)


def apply(
    images: Float[Tensor, "image channel height width"], view: View, size: tuple[int, int] | None = None
) -> Float[Tensor, "image channel out_height out_width"]:
    """The views of images: ``len(view)`` equals the number of images, or is 1 and shared.

    ``size`` is the output's height and width, by default the input's. Bilinear, equal to torchvision's
    ``resized_crop`` wherever the crop is not larger than the output.
    """
    height, width = images.shape[-2:]
    out_height, out_width = size or (height, width)
    rows, columns = matrices(view.to(images.device), (height, width), (out_height, out_width))
    return rows.to(images.dtype)[:, None] @ images @ columns.to(images.dtype)[:, None].mT


def matrices(
    view: View, source: tuple[int, int], target: tuple[int, int]
) -> tuple[Float[Tensor, "view out_height height"], Float[Tensor, "view out_width width"]]:
    """The two weight matrices of each view, for the rows and for the columns."""
    top, left, height, width = view.box.unbind(1)
    down, right = view.shift.unbind(1)
    never = torch.zeros_like(view.flip)
    return (
        _axis_weights(top, height, down, never, source[0], target[0]),
        _axis_weights(left, width, right, view.flip, source[1], target[1]),
    )


def _axis_weights(
    start: Int[Tensor, " view"],
    extent: Int[Tensor, " view"],
    shift: Int[Tensor, " view"],
    mirror: Bool[Tensor, " view"],
    source: int,
    target: int,
) -> Float[Tensor, "view target source"]:
    """Bilinear weights of one axis: a tent of width one around each output pixel's position in the source."""
    device = start.device
    place = (torch.arange(target, device=device) - shift[:, None]) % target  # undo the roll
    place = torch.where(mirror[:, None], target - 1 - place, place)
    length = extent[:, None].to(torch.float32)
    position = ((place + 0.5) * length / target - 0.5).clamp_min(0).minimum(length - 1) + start[:, None]
    return (1 - (position[..., None] - torch.arange(source, device=device)).abs()).clamp_min(0)


def _central_box(height: int, width: int) -> tuple[float, float]:
    if width / height < RATIO[0]:
        return float(round(width / RATIO[0])), float(width)
    if width / height > RATIO[1]:
        return float(height), float(round(height * RATIO[1]))
    return float(height), float(width)
