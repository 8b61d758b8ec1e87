"""Stretches: what happens between iterations of one shape and those of the next."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F

from attar.synthesis.canvas import Images
from attar.synthesis.choices import Blocks

Between = Callable[[int, Images, Images, tuple[int, int]], Images]
"""``between(number, pixels, start, size)``: what stretch ``number`` begins with, at its size, from the pixels of the
stretch before it; for the first one, number 0, these are the start, at the stored size."""


@dataclass(frozen=True)
class Residual:
    """Resize the images to the next block's size and put a share of the start back in (FADRM, arXiv 2506.24125)."""

    share: float

    def __call__(self, number: int, pixels: Images, start: Images, size: tuple[int, int]) -> Images:
        """The start alone for the first block; afterwards ``1 - share`` of the pixels and ``share`` of the start."""
        if not number:
            return resized(start, size)
        return (1 - self.share) * resized(pixels, size) + self.share * resized(start, size)


def between_of(config: Blocks) -> Residual:
    """What a configuration of blocks does between them."""
    return Residual(config.residual)


def resized(images: Images, size: tuple[int, int]) -> Images:
    """The images at another size: bilinear, and averaged where they shrink."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
