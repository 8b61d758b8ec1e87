"""Views: crop, resize, flip and circular shift. Drawing and applying are separate, so that views can be replayed.

A view is two small matrices. Bilinear interpolation, mirroring and rolling of an axis are linear in the pixels of that
axis, so a view of an image is ``rows @ image @ columns.T``. Views may differ per image and have any output size. The
gradient is two matrix products, too, and so deterministic. Shrinking averages pixels, so that every pixel contributes
to the result and to the gradient.

If no gradient is needed and nothing is shrunk, a row has only two weights that are not zero. ``apply_to_bytes`` then
reads those two pixels instead of multiplying matrices.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from attar.ops.choices import ViewChoice
from attar.ops.pixels import from_bytes

RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10
CACHED_VALUES = 2**19
"""Pixel values that a CPU processes at a time: about the size of its cache."""


@dataclass(frozen=True)
class View:
    """Views of n images, or one view (n = 1) for a whole batch."""

    box: Int[Tensor, "view 4"]
    """Top, left, height, width in source pixels; may extend beyond the image, where pixels are black."""
    flip: Bool[Tensor, " view"]
    """Whether to mirror left to right, after cropping."""
    shift: Int[Tensor, "view 2"]
    """Circular shift down and right in output pixels, after flipping."""

    def __len__(self) -> int:
        return len(self.box)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.box.to(device), self.flip.to(device), self.shift.to(device))

    def parts(self) -> tuple[Int[Tensor, "view 4"], Bool[Tensor, " view"], Int[Tensor, "view 2"]]:
        """Return box, flip and shift."""
        return self.box, self.flip, self.shift

    def take(self, index: Tensor | slice) -> Self:
        """Return the views at these indices."""
        return type(self)(self.box[index], self.flip[index], self.shift[index])

    def scaled(self, planned: tuple[int, int], size: tuple[int, int]) -> Self:
        """Return the same views for another output size than planned: the shift scales with the size.

        It is rounded to whole pixels, because a fractional roll would blend opposite edges of the image.
        """
        ratio = torch.tensor(size, dtype=torch.float64) / torch.tensor(planned)
        return type(self)(self.box, self.flip, (self.shift * ratio.to(self.shift.device)).round().to(torch.int64))


def whole(height: int, width: int) -> View:
    """Return the unchanged view of images of this size, one for a whole batch."""
    return View(
        torch.tensor([[0, 0, height, width]]), torch.zeros(1, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.int64)
    )


def draw(choice: ViewChoice, count: int, height: int, width: int, *streams: torch.Generator) -> View:
    """Draw ``count`` independent views of images of this size from each stream, one stream after the other."""
    total = count * len(streams)
    if choice.crop == "resized":
        box = resized_boxes(count, height, width, (choice.min_scale, 1.0), *streams)
    elif choice.crop == "padded":
        reach = (-choice.padding, choice.padding + 1)
        corner = torch.cat([torch.randint(*reach, (count, 2), generator=stream) for stream in streams])
        box = torch.cat([corner, torch.tensor([[height, width]]).expand(total, 2)], dim=1)
    else:
        box = torch.tensor([[0, 0, height, width]]).repeat(total, 1)
    if choice.flip:
        flip = torch.cat([torch.rand(count, generator=stream) for stream in streams]) < 0.5
    else:
        flip = torch.zeros(total, dtype=torch.bool)
    return View(box, flip, torch.zeros(total, 2, dtype=torch.int64))


def resized_boxes(
    count: int, height: int, width: int, scale: tuple[float, float], *streams: torch.Generator
) -> Int[Tensor, "view 4"]:
    """Draw boxes as torchvision's RandomResizedCrop does: area uniform in ``scale``, ratio log-uniform in 3/4 to 4/3.

    It takes the first of ten attempts that fits into the image, else the largest central box with such a ratio.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.cat([torch.rand(count, *shape, generator=stream, dtype=torch.float64) for stream in streams])

    draws, place = uniform(ATTEMPTS, 2), uniform(2)
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
    images: Float[Tensor, "image channel height width"],
    view: View,
    size: tuple[int, int] | None = None,
    view_of: Int[Tensor, " image"] | None = None,
) -> Float[Tensor, "image channel out_height out_width"]:
    """Return views of images: one view per image, one view for all, or the view number ``view_of[i]`` for image i.

    ``size`` is the output's height and width, by default the input's. Equal to torchvision's ``resized_crop`` with
    ``antialias=True``: bilinear, with a weighted average along an axis that shrinks. Without shrinking, antialiasing
    has no effect.
    """
    height, width = images.shape[-2:]
    out_height, out_width = size or (height, width)
    rows, columns = matrices(view.to(images.device), (height, width), (out_height, out_width))
    if view_of is not None:
        rows, columns = rows[view_of], columns[view_of]
    return rows.to(images.dtype)[:, None] @ images @ columns.to(images.dtype)[:, None].mT


def apply_to_bytes(
    images: UInt8[Tensor, "all channel height width"],
    index: Int[Tensor, " image"],
    view: View,
    out: Float[Tensor, "image channel height width"] | None = None,
) -> Float[Tensor, "image channel height width"]:
    """Apply views to the images at ``index`` much faster than ``apply``, without a gradient; values in [0, 1].

    ``view`` has one record per entry of ``index``; keep it on the CPU, otherwise this waits for the GPU. Equal to
    ``apply(from_bytes(images[index]), view)`` except for rounding of the last bit, and exact if a view only copies
    pixels. ``out`` is memory for the result.
    """
    height, width = images.shape[-2:]
    if bool((view.box[:, 2:] > view.box.new_tensor([height, width])).any()):  # some view shrinks
        seen = apply(from_bytes(images[index.to(images.device)]), view)
        return seen if out is None else out.copy_(seen)
    index, (box, flip, shift) = index.to(images.device), view.to(images.device).parts()
    shown = torch.empty(len(index), *images.shape[1:], device=images.device) if out is None else out
    if not len(shown):
        return shown
    rows = _neighbours(box[:, 0], box[:, 2], shift[:, 0], torch.zeros_like(flip), height)
    columns = _neighbours(box[:, 1], box[:, 3], shift[:, 1], flip, width)
    at_once = max(1, CACHED_VALUES // shown[0].numel()) if shown.device.type == "cpu" else len(shown)
    for start in range(0, len(shown), at_once):
        part = slice(start, start + at_once)
        _interpolate(images, index[part], [near[:, part] for near in (*rows, *columns)], shown[part])
    return shown


def _interpolate(images: Tensor, index: Tensor, neighbours: list[Tensor], shown: Tensor) -> None:
    """Write the views into ``shown``: interpolate between two rows of the source, then between two columns."""
    rows, row_weights, columns, column_weights = neighbours
    channels, height, width = images.shape[1:]
    every_row = images.reshape(-1, width)
    first_row = (index[:, None] * channels + torch.arange(channels, device=index.device))[..., None] * height

    def fetched(side: int) -> Tensor:
        places = (first_row + rows[side][:, None]).view(-1)
        return every_row.index_select(0, places).view(shown.shape).to(torch.float32)

    stretched = fetched(0).mul_(row_weights[0][:, None, :, None])
    stretched.addcmul_(fetched(1), row_weights[1][:, None, :, None])
    torch.gather(stretched, 3, columns[0][:, None, None].expand_as(shown), out=shown)
    shown.mul_(column_weights[0][:, None, None])
    neighbour = stretched.gather(3, columns[1][:, None, None].expand_as(shown))
    shown.addcmul_(neighbour, column_weights[1][:, None, None]).div_(255)


def _neighbours(start: Tensor, extent: Tensor, shift: Tensor, mirror: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the two source pixels around each output pixel of one axis and their weights, both (2, view, side).

    The weights equal the non-zero weights of ``_axis_weights``, except for rounding.
    """
    position = _positions(extent, shift, mirror, side)
    left = position.floor()
    to_left = position - left
    pixel = torch.stack([left, left + 1]).to(torch.int64)
    source_pixel = pixel + start[:, None]
    seen = (pixel < extent[:, None]) & (source_pixel >= 0) & (source_pixel < side)
    return source_pixel.clamp(0, side - 1), torch.where(seen, torch.stack([1 - to_left, to_left]), 0.0)


def matrices(
    view: View, source: tuple[int, int], target: tuple[int, int]
) -> tuple[Float[Tensor, "view out_height height"], Float[Tensor, "view out_width width"]]:
    """Return the two weight matrices of each view, for rows and columns."""
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
    """Return the bilinear weights of one axis: a tent function around each output pixel's position in the source.

    Its half-width is one source pixel, or the number of source pixels per output pixel if the crop shrinks.
    """
    device = start.device
    length = extent[:, None].to(torch.float32)
    position = _positions(extent, shift, mirror, target)
    # Exactly 1 without shrinking, because stored labels are replayed bit for bit; the tent's sum is then 1, too.
    reach = torch.where((extent > target)[:, None], length / target, 1.0)
    peak = 1 / _tent_sum(position, length, reach)
    source_pixel = torch.arange(source, device=device)
    away = ((position + start[:, None])[..., None] - source_pixel).abs()
    weights = (peak[..., None] - away * (peak / reach)[..., None]).clamp_min(0)
    past_start = source_pixel - start[:, None]
    cropped = (past_start >= 0) & (past_start < extent[:, None])  # a wide kernel must not use pixels outside the crop
    return torch.where(cropped[:, None], weights, 0.0)


def _positions(
    extent: Int[Tensor, " view"], shift: Int[Tensor, " view"], mirror: Bool[Tensor, " view"], target: int
) -> Float[Tensor, "view target"]:
    """Return the position of each output pixel of one axis in the crop, in source pixels."""
    place = (torch.arange(target, device=extent.device) - shift[:, None]) % target  # undo the roll
    place = torch.where(mirror[:, None], target - 1 - place, place)
    length = extent[:, None].to(torch.float32)
    return ((place + 0.5) * length / target - 0.5).clamp_min(0).minimum(length - 1)


def _tent_sum(
    position: Float[Tensor, "view target"], length: Float[Tensor, "view 1"], reach: Float[Tensor, "view 1"]
) -> Float[Tensor, "view target"]:
    """Return the sum of a tent of height one over all pixels of the crop.

    Pixels outside the image count, too: they are black, and leaving them out would brighten the image's edge.
    """
    left = position.floor()  # the left one of the two nearest pixels; weights decrease linearly from there
    to_left = position - left
    return _ramp_sum(to_left, left + 1, reach) + _ramp_sum(1 - to_left, length - 1 - left, reach)


def _ramp_sum(nearest: Tensor, available: Tensor, reach: Tensor) -> Tensor:
    """Return the sum of ``1 - distance / reach`` over pixels at distances ``nearest``, ``nearest + 1``, ...

    It ends at ``reach`` or after the ``available`` pixels.
    """
    count = (reach - nearest).ceil().minimum(available)
    return count * (1 - (nearest + (count - 1) / 2) / reach)


def _central_box(height: int, width: int) -> tuple[float, float]:
    if width / height < RATIO[0]:
        return float(round(width / RATIO[0])), float(width)
    if width / height > RATIO[1]:
        return float(height), float(round(height * RATIO[1]))
    return float(height), float(width)
