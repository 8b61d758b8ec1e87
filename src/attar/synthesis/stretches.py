"""Change the pixels between two stretches of iterations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F

from attar.synthesis.canvas import Images
from attar.synthesis.stretch_choices import Blocks

Between = Callable[[int, Images, Images, tuple[int, int]], Images]
"""``between(number, pixels, start, size)`` returns the first pixels of stretch ``number``, at its size, from the last
pixels of the stretch before. For stretch 0, ``pixels`` are the start, at the stored size."""


@dataclass(frozen=True)
class Residual:
    """Resize the images to the next block's size and mix a share of the start back in (FADRM, arXiv 2506.24125)."""

    share: float
    antialias: bool = True
    """Average pixels when images shrink."""

    def __call__(self, number: int, pixels: Images, start: Images, size: tuple[int, int]) -> Images:
        """Return the start for the first block; later ``1 - share`` of the pixels plus ``share`` of the start."""
        if not number:
            return resized(start, size, self.antialias)
        pixels, start = (resized(images, size, self.antialias) for images in (pixels, start))
        return (1 - self.share) * pixels + self.share * start


def between_of(config: Blocks) -> Residual:
    """Return the configured change between blocks."""
    return Residual(config.residual, config.antialias)


def resized(images: Images, size: tuple[int, int], antialias: bool = True) -> Images:
    """Resize images bilinearly, by default with averaging when they shrink."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=antialias)
