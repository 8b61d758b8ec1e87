"""Views: crop, resize, flip and circular jitter, drawn apart from being applied so that a stored view can be replayed.

A view is two small matrices: bilinear interpolation, mirroring and rolling of an axis are linear in the pixels of that
axis, so a view of an image is ``rows @ image @ columns.T``. Views may differ per image, the gradient is again two
matrix products and therefore deterministic, and another output size is only another shape: what is shown smaller is
averaged, so that every pixel has its part in it and in the gradient.

Where no gradient is wanted and nothing is shrunk, all but two weights of a row are zero: ``apply_to_bytes`` fetches
those two pixels instead of multiplying by zeros.
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
"""Pixel values that a CPU works on at a time: about what its cache holds."""


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

    def scaled(self, planned: tuple[int, int], size: tuple[int, int]) -> Self:
        """The same views for an output of another height and width than planned: the shift is the same part of it.

        To the nearest whole pixel, for a roll by less would blend opposite edges of the image.
        """
        ratio = torch.tensor(size, dtype=torch.float64) / torch.tensor(planned)
        return type(self)(self.box, self.flip, (self.shift * ratio.to(self.shift.device)).round().to(torch.int64))


def whole(height: int, width: int) -> View:
    """All of an image of this size, as it is: one view for a whole batch."""
    return View(
        torch.tensor([[0, 0, height, width]]), torch.zeros(1, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.int64)
    )


def draw(choice: ViewChoice, count: int, height: int, width: int, *streams: torch.Generator) -> View:
    """``count`` independent views of images of this size from each stream, those of a stream together."""
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
    """Boxes distributed as torchvision's RandomResizedCrop draws them: area uniform in ``scale``, log-uniform ratio.

    Of ten attempts the first that fits is taken, else the largest central box whose ratio is within 3/4 to 4/3.
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
    """The views of images: ``len(view)`` equals the number of images, or is 1 and shared, or ``view_of`` names each's.

    ``size`` is the output's height and width, by default the input's. Equal to torchvision's ``resized_crop`` with
    ``antialias=True``: bilinear, and along an axis where the crop is larger than the output, a weighted average. Where
    it is not larger, antialiasing changes nothing.
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
    """``apply`` to the images at ``index``, without a gradient, many times as fast; values in [0, 1].

    ``view`` has a record for each of ``index``. Equal to ``apply(from_bytes(images[index]), view)`` but for the last
    bit, and exact where a view is a copy of pixels. Keep ``view`` on the CPU, or a GPU is waited for. ``out`` is
    memory for the result.
    """
    height, width = images.shape[-2:]
    if bool((view.box[:, 2:] > view.box.new_tensor([height, width])).any()):  # it shrinks something
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
    """Write the views into ``shown``: between two rows of the source first, then between two columns of that."""
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
    beside = stretched.gather(3, columns[1][:, None, None].expand_as(shown))
    shown.addcmul_(beside, column_weights[1][:, None, None]).div_(255)


def _neighbours(start: Tensor, extent: Tensor, shift: Tensor, mirror: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The two source pixels around each output pixel of one axis and their weights, both shaped (2, view, side).

    The weights are those of ``_axis_weights`` that are not zero, to rounding.
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
    """Bilinear weights of one axis: a tent around each output pixel's position in the source.

    It reaches one source pixel to either side, or as many as an output pixel covers, where the crop is shrunk.
    """
    device = start.device
    length = extent[:, None].to(torch.float32)
    position = _positions(extent, shift, mirror, target)
    # Exactly 1 where nothing shrinks, for stored labels are replayed bit by bit; the tent's sum is then 1 as well.
    reach = torch.where((extent > target)[:, None], length / target, 1.0)
    peak = 1 / _tent_sum(position, length, reach)
    source_pixel = torch.arange(source, device=device)
    away = ((position + start[:, None])[..., None] - source_pixel).abs()
    weights = (peak[..., None] - away * (peak / reach)[..., None]).clamp_min(0)
    past_start = source_pixel - start[:, None]
    cropped = (past_start >= 0) & (past_start < extent[:, None])  # a wide kernel must not reach outside the crop
    return torch.where(cropped[:, None], weights, 0.0)


def _positions(
    extent: Int[Tensor, " view"], shift: Int[Tensor, " view"], mirror: Bool[Tensor, " view"], target: int
) -> Float[Tensor, "view target"]:
    """Where in the crop each output pixel of one axis lies, in source pixels."""
    place = (torch.arange(target, device=extent.device) - shift[:, None]) % target  # undo the roll
    place = torch.where(mirror[:, None], target - 1 - place, place)
    length = extent[:, None].to(torch.float32)
    return ((place + 0.5) * length / target - 0.5).clamp_min(0).minimum(length - 1)


def _tent_sum(
    position: Float[Tensor, "view target"], length: Float[Tensor, "view 1"], reach: Float[Tensor, "view 1"]
) -> Float[Tensor, "view target"]:
    """Sum of a tent of height one over all pixels of the crop, those outside the image too: they are black, and an
    average over the others alone would brighten the image's edge.
    """
    left = position.floor()  # of the two pixels around the position; weights fall linearly from there
    to_left = position - left
    return _ramp_sum(to_left, left + 1, reach) + _ramp_sum(1 - to_left, length - 1 - left, reach)


def _ramp_sum(nearest: Tensor, available: Tensor, reach: Tensor) -> Tensor:
    """Sum of ``1 - distance / reach`` over pixels one apart from the nearest on, as far as they reach or there are."""
    count = (reach - nearest).ceil().minimum(available)
    return count * (1 - (nearest + (count - 1) / 2) / reach)


def _central_box(height: int, width: int) -> tuple[float, float]:
    if width / height < RATIO[0]:
        return float(round(width / RATIO[0])), float(width)
    if width / height > RATIO[1]:
        return float(height), float(round(height * RATIO[1]))
    return float(height), float(width)
