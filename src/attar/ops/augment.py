"""Patch shuffling (RDED) and RandAugment. Drawing and applying are separate functions, so that draws can be stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Int8, Num, UInt8
from torch import Tensor

from attar.ops import timm_randaugment
from attar.ops.choices import RANDAUGMENT_SCALE, LookChoice, RandAugmentPlace, RandAugmentSet
from attar.ops.pixels import from_bytes, to_bytes

STRONGEST = 30
"""Highest level of strength of torchvision's operations; the lowest is 0."""
_TRANSLATION = 150 / 331
"""Largest translation as a fraction of the image's side. This and the other maxima are AutoAugment's."""
_DEGREES, _SHEAR, _FACTOR = 30.0, 0.3, 0.9

Patches = UInt8[Tensor, "image patch"]
"""Which patch is shown at each position, row by row."""
Changes = Int8[Tensor, "image step 2"]
"""Operation and strength of each step; the sign of the strength is the direction, if the operation has two."""


@dataclass(frozen=True)
class RandAugment:
    """Drawn operations, whose operations they are, and when they are applied."""

    changes: Changes
    operations: RandAugmentSet = "torchvision"
    place: RandAugmentPlace = "after-crop"

    def take(self, index: Tensor | slice) -> Self:
        """Return the operations at these indices."""
        return type(self)(self.changes[index], self.operations, self.place)


def limits(operations: RandAugmentSet) -> tuple[int, int]:
    """Return the largest number of an operation in ``Changes``, and the largest strength."""
    if operations == "timm":
        return len(timm_randaugment.OPERATIONS) - 1, timm_randaugment.STRONGEST
    return len(OPERATIONS) - 1, STRONGEST


def draw_patches(count: int, factor: int, generator: torch.Generator) -> Patches:
    """Draw a random order of ``factor`` x ``factor`` patches for each of ``count`` images."""
    return torch.rand(count, factor**2, generator=generator).argsort(1).to(torch.uint8)


def shuffle(images: Num[Tensor, "image 3 height width"], patches: Patches) -> Num[Tensor, "image 3 height width"]:
    """Cut each image (floats or bytes) into a square grid of equal patches and arrange them in the image's order.

    Source: RDED (Sun et al., 2024, arXiv 2312.03526). Raises ValueError if the sides are not multiples of the grid.
    """
    count, channels, height, width = images.shape
    factor = round(patches.shape[1] ** 0.5)
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} pixels do not divide into {factor} x {factor} patches")
    cut = images.reshape(count, channels, factor, height // factor, factor, width // factor)
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = patches.to(images.device, torch.int64)
    shown = cut[torch.arange(count, device=images.device)[:, None], order].unflatten(1, (factor, factor))
    return shown.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def draw_changes(count: int, looks: LookChoice, generator: torch.Generator) -> RandAugment:
    """Draw the configured number of random operations for each of ``count`` images.

    Strengths are normal with the configured mean and standard deviation, within 0 to 10.
    """
    strength = (looks.randaugment_ops, looks.randaugment_magnitude, looks.randaugment_std)
    draw = timm_randaugment.draw if looks.randaugment_set == "timm" else _draw
    return RandAugment(draw(count, *strength, generator), looks.randaugment_set, looks.randaugment_place)


def _draw(count: int, num_steps: int, magnitude: float, std: float, generator: torch.Generator) -> Changes:
    operation = torch.randint(0, len(OPERATIONS), (count, num_steps), generator=generator)
    wanted = magnitude + std * torch.randn(count, num_steps, generator=generator)
    level = (wanted * (STRONGEST / RANDAUGMENT_SCALE)).round().clamp(0, STRONGEST).long()
    sign = torch.where(torch.rand(count, num_steps, generator=generator) < 0.5, -1, 1)
    return torch.stack([operation, level * sign], dim=2).to(torch.int8)


def change(images: Num[Tensor, "image 3 height width"], drawn: RandAugment) -> Num[Tensor, "image 3 height width"]:
    """Apply each image's operations in order to images in [0, 1] or bytes, and return the same type.

    timm's operations are defined on bytes, so images in [0, 1] are rounded to bytes for them. With torchvision's,
    images of the same operation and strength are processed in one torchvision call. Source: RandAugment (Cubuk et al.,
    2020, arXiv 1909.13719), with torchvision's operations and maxima, or timm's (``ops/timm_randaugment.py``).
    """
    if drawn.operations == "timm":
        if images.dtype == torch.uint8:
            return timm_randaugment.change(images, drawn.changes)
        return from_bytes(timm_randaugment.change(to_bytes(images), drawn.changes))
    shown, highest = images.clone(), 255 if images.dtype == torch.uint8 else 1
    for step in drawn.changes.cpu().unbind(1):
        for pair in step.unique(dim=0):
            same = (step == pair).all(1).nonzero()[:, 0].to(images.device)
            operation, level = pair.tolist()
            changed = _OPERATIONS[OPERATIONS[operation]](shown[same], level / STRONGEST)
            shown[same] = changed.clamp(0, highest)
    return shown


def _affine(images: Tensor, across: float = 0.0, down: float = 0.0, x: float = 0, y: float = 0):
    from torchvision.transforms.v2 import functional

    shear = [float(torch.atan(torch.tensor(part)) * (180 / torch.pi)) for part in (x, y)]
    moved = [float(int(across * images.shape[-1])), float(int(down * images.shape[-2]))]
    corner = [0.0, 0.0] if x or y else None
    return functional.affine(images, 0.0, moved, 1.0, shear, center=corner)


def _apply(name: str, images: Tensor, value: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return getattr(functional, name)(images, value)


def _plain(name: str, images: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    return getattr(functional, name)(images)


def _solarize(images: Tensor, threshold: float) -> Tensor:
    return _apply("solarize", images, threshold if images.is_floating_point() else 255 * threshold)


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda images, _: images,
    "shear_x": lambda images, signed: _affine(images, x=signed * _SHEAR),
    "shear_y": lambda images, signed: _affine(images, y=signed * _SHEAR),
    "translate_x": lambda images, signed: _affine(images, across=signed * _TRANSLATION),
    "translate_y": lambda images, signed: _affine(images, down=signed * _TRANSLATION),
    "rotate": lambda images, signed: _apply("rotate", images, signed * _DEGREES),
    "brightness": lambda images, signed: _apply("adjust_brightness", images, 1 + signed * _FACTOR),
    "colour": lambda images, signed: _apply("adjust_saturation", images, 1 + signed * _FACTOR),
    "contrast": lambda images, signed: _apply("adjust_contrast", images, 1 + signed * _FACTOR),
    "sharpness": lambda images, signed: _apply("adjust_sharpness", images, 1 + signed * _FACTOR),
    "posterize": lambda images, signed: _apply("posterize", images, 8 - round(abs(signed) * 4)),
    "solarize": lambda images, signed: _solarize(images, 1 - abs(signed)),
    "autocontrast": lambda images, _: _plain("autocontrast", images),
    "equalize": lambda images, _: _plain("equalize", images),
}
OPERATIONS = tuple(_OPERATIONS)
"""Names of the operations, by their number in ``Changes``."""
