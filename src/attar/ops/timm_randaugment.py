"""timm's RandAugment on bytes: the operations that a policy such as 'rand-m6-n2-mstd1.0' draws from.

Each of the fifteen operations is applied with probability 0.5. Sources: RandAugment (Cubuk et al., 2020, arXiv
1909.13719), and timm's ``rand_augment_transform`` without 'inc', whose operations these equal to a level or two.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from attar.ops.choices import RANDAUGMENT_SCALE

STRONGEST = 120
"""Level of the largest magnitude; the lowest is 0."""
FILL = (124, 116, 104)
"""Colour of pixels from outside the image: the mean of ImageNet, as in DELT's script (arXiv 2411.19946)."""
PROBABILITY = 0.5
"""Probability with which a drawn operation is applied."""
_DEGREES, _SHEAR, _TRANSLATION = 30.0, 0.3, 0.45
"""Largest rotation and shear, and largest translation as a fraction of the image's side."""
_ROUNDING = 1e-3
"""Added before fractions are cut off, because float32 leaves whole numbers a little too small."""

Bytes = UInt8[Tensor, "image 3 height width"]
Levels = Int[Tensor, " image"]


def draw(
    count: int, num_steps: int, magnitude: float, std: float, generator: torch.Generator
) -> Int8[Tensor, "image step 2"]:
    """Draw ``num_steps`` operations and levels for each of ``count`` images; operation 0 leaves an image unchanged.

    Magnitudes are normal with mean ``magnitude`` and standard deviation ``std``, within 0 to 10. Rotations, shears and
    translations are interpolated bilinearly or bicubically at random.
    """
    shape = (count, num_steps)
    kind = torch.randint(0, len(KINDS), shape, generator=generator)
    cubic = torch.rand(shape, generator=generator) < 0.5
    operation = 1 + torch.where(cubic & (kind >= len(_ON_BYTES)), kind + len(_MOVES), kind)
    wanted = magnitude + std * torch.randn(shape, generator=generator)
    level = (wanted * (STRONGEST / RANDAUGMENT_SCALE)).round().clamp(0, STRONGEST).long()
    sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1, 1)
    applied = torch.rand(shape, generator=generator) < PROBABILITY
    found = torch.stack([operation, level * sign], dim=2)
    return torch.where(applied[..., None], found, 0).to(torch.int8)


def change(images: Bytes, changes: Int8[Tensor, "image step 2"]) -> Bytes:
    """Apply each image's operations in order, all images with one operation at once."""
    shown = images.clone()
    for step in changes.cpu().long().unbind(1):
        operation, level = step.unbind(1)
        for number in operation.unique().tolist():
            if number:
                same = (operation == number).nonzero()[:, 0]
                there = same.to(images.device)
                shown[there] = _APPLY[OPERATIONS[number]](shown[there], level[same].to(images.device))
    return shown


def _autocontrast(images: Bytes, _: Levels) -> Bytes:
    """Stretch each channel to 0 to 255; leave a channel of one value unchanged."""
    values = images.int()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    return torch.where(high > low, (values - low) * 255 // (high - low).clamp_min(1), values).to(torch.uint8)


def _equalize(images: Bytes, _: Levels) -> Bytes:
    from torchvision.transforms.v2 import functional

    return functional.equalize(images)


def _invert(images: Bytes, _: Levels) -> Bytes:
    return 255 - images


def _posterize(images: Bytes, level: Levels) -> Bytes:
    """Keep the highest 0 to 4 bits: a low magnitude is the strongest."""
    dropped = 8 - 4 * level.abs() // STRONGEST
    return (images.int() >> _wide(dropped) << _wide(dropped)).to(torch.uint8)


def _solarize(images: Bytes, level: Levels) -> Bytes:
    """Invert values from a threshold on: a low magnitude is the strongest."""
    return torch.where(images.int() >= _wide(256 * level.abs() // STRONGEST), 255 - images, images)


def _solarize_add(images: Bytes, level: Levels) -> Bytes:
    """Add up to 110 to the values below 128."""
    added = (images.int() + _wide(110 * level.abs() // STRONGEST)).clamp_max(255)
    return torch.where(images < 128, added.to(torch.uint8), images)


def _colour(images: Bytes, level: Levels) -> Bytes:
    return _blend(_grey(images), images, level)


def _contrast(images: Bytes, level: Levels) -> Bytes:
    grey = _grey(images).flatten(1).long()
    mean = (2 * grey.sum(1) + grey.shape[1]) // (2 * grey.shape[1])
    return _blend(_wide(mean), images, level)


def _brightness(images: Bytes, level: Levels) -> Bytes:
    return _blend(torch.zeros_like(images[:1, :1]), images, level)


def _sharpness(images: Bytes, level: Levels) -> Bytes:
    """Blend with the smoothed image: each pixel five times and its eight neighbours, and the border as it is."""
    values = images.int()
    height, width = images.shape[-2:]
    total = 4 * values[..., 1:-1, 1:-1]
    for down in range(3):
        for right in range(3):
            total = total + values[..., down : max(down, height - 2 + down), right : max(right, width - 2 + right)]
    smooth = values.clone()
    smooth[..., 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, images, level)


def _blend(plain: Tensor, images: Bytes, level: Levels) -> Bytes:
    """Move images away from (above magnitude 5) or towards their plain form, by a factor of 0.1 to 1.9."""
    factor = _wide(level.abs().double() * (1.8 / STRONGEST) + 0.1).float()
    plain = plain.float()
    return (plain + factor * (images.float() - plain)).clamp(0, 255).to(torch.uint8)


def _grey(images: Bytes) -> Int[Tensor, "image 1 height width"]:
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16)[:, None]


def _rotated(part: Float[Tensor, " image"], height: int, width: int) -> tuple[Tensor, ...]:
    angle = torch.deg2rad(part * _DEGREES)
    cos, sin = angle.cos(), angle.sin()
    middle, centre = width / 2, height / 2
    return (
        *(cos, -sin, middle - cos * middle + sin * centre),
        *(sin, cos, centre - sin * middle - cos * centre),
    )


def _sheared_x(part: Float[Tensor, " image"], height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, part * _SHEAR, 0.0, 0.0, 1.0, 0.0


def _sheared_y(part: Float[Tensor, " image"], height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, 0.0, 0.0, part * _SHEAR, 1.0, 0.0


def _translated_x(part: Float[Tensor, " image"], height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, 0.0, part * _TRANSLATION * width, 0.0, 1.0, 0.0


def _translated_y(part: Float[Tensor, " image"], height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, 0.0, 0.0, 0.0, 1.0, part * _TRANSLATION * height


def _warp(images: Bytes, matrix: tuple[Tensor | float, ...], cubic: bool) -> Bytes:
    """Show at each pixel's centre (x, y) the source at (a x + b y + c, d x + e y + f), as Pillow does.

    Neighbours outside the image count as the nearest pixel inside. Places outside the image have the colour FILL.
    """
    count, channels, height, width = images.shape
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    a, b, c, d, e, f = (each[:, None, None] if isinstance(each, Tensor) else each for each in matrix)
    across = (a * x + b * y + c).expand(count, height, width)
    down = (d * x + e * y + f).expand(count, height, width)
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    left, top = (across - 0.5).floor(), (down - 0.5).floor()
    weigh = _cubic if cubic else _linear
    columns, rows = weigh(across - 0.5 - left), weigh(down - 0.5 - top)
    pixels, total = images.flatten(2), torch.zeros(images.shape, device=images.device)
    for row, row_weight in rows.items():
        first = (top.long() + row).clamp(0, height - 1) * width
        for column, weight in columns.items():
            place = (first + (left.long() + column).clamp(0, width - 1)).flatten(1)[:, None]
            seen = pixels.gather(2, place.expand(-1, channels, -1)).view(images.shape)
            total.addcmul_(seen.float(), (row_weight * weight)[:, None])
    fill = torch.tensor(FILL, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    return torch.where(inside[:, None], (total + _ROUNDING).clamp(0, 255).to(torch.uint8), fill)


def _linear(part: Tensor) -> dict[int, Tensor]:
    """Return the weights of the two nearest pixels of an axis, ``part`` of a pixel after the first."""
    return {0: 1 - part, 1: part}


def _cubic(part: Tensor) -> dict[int, Tensor]:
    """Return the weights of the four nearest pixels: cubic convolution with a slope of -1, as in Pillow."""
    square, cube = part**2, part**3
    return {
        -1: -part + 2 * square - cube,
        0: 1 - 2 * square + cube,
        1: part + square - cube,
        2: cube - square,
    }


def _wide(numbers: Int[Tensor, " image"]) -> Tensor:
    """Return one number per image with the dimensions of images."""
    return numbers[:, None, None, None]


def _moved(kind: str, cubic: bool) -> Callable[[Bytes, Levels], Bytes]:
    def apply(images: Bytes, level: Levels) -> Bytes:
        return _warp(images, _MOVES[kind](level / STRONGEST, *images.shape[-2:]), cubic)

    return apply


_ON_BYTES: dict[str, Callable[[Bytes, Levels], Bytes]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
_MOVES: dict[str, Callable[..., tuple[Tensor | float, ...]]] = {
    "rotate": _rotated,
    "shear_x": _sheared_x,
    "shear_y": _sheared_y,
    "translate_x": _translated_x,
    "translate_y": _translated_y,
}
KINDS = (*_ON_BYTES, *_MOVES)
"""The operations that are drawn, each as often as the others."""
_APPLY = _ON_BYTES | {
    f"{kind}_{how}": _moved(kind, how == "bicubic") for how in ("bilinear", "bicubic") for kind in _MOVES
}
OPERATIONS = ("unchanged", *_APPLY)
"""Names of the operations, by their number in a record."""
