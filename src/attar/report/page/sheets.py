"""Sheets: many small pictures in one file, which a page decodes when it shows them."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from attar.report.page.block import Block

MOST_PIXELS = 20 * 10**6
"""Pixels of all pictures of a page's gallery, together."""
MOST_PER_CLASS = 8
_SHEET_PIXELS = 2**18
_SMALLEST = 32


@dataclass(frozen=True)
class Frame:
    """The form of a gallery."""

    own: int
    """Pictures of each class; as many real ones may stand beside them."""
    columns: int
    """Pictures of each class, with the real ones."""
    side: int
    """Height and width of a picture in pixels."""
    rows: int
    """Classes in a sheet."""


def frame(num_classes: int, per_class: int, beside: bool, size: int) -> Frame:
    """Choose a form that keeps a gallery below ``MOST_PIXELS``: first fewer pictures of each class, then smaller.

    ``per_class`` is how many images the largest class has; ``beside`` says whether real images stand beside them.
    """
    own = min(per_class, max(1, min(MOST_PER_CLASS, 3000 // num_classes)))
    columns = 2 * own if beside else own
    side = min(size, max(_SMALLEST, math.isqrt(MOST_PIXELS // (num_classes * columns))))
    rows = max(1, min(num_classes, _SHEET_PIXELS // (columns * side * side)))
    return Frame(own, columns, side, rows)


def block(name: str, images: UInt8[Tensor, "image 3 height width"], columns: int, side: int = 0) -> Block:
    """Return pictures as one sheet, row by row; ``side`` makes larger ones smaller."""
    side = min(side or images.shape[-1], images.shape[-1])
    smaller, count = side < images.shape[-1], len(images)
    rows = max(1, -(-count // columns))
    pixels = np.zeros((rows, columns, side, side, 3), dtype=np.uint8)
    for place, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        cell = Image.fromarray(image).resize((side, side), Image.Resampling.BOX) if smaller else image
        pixels[place // columns, place % columns] = np.asarray(cell)
    pixels = pixels.swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    buffer, picture = io.BytesIO(), Image.fromarray(pixels)
    lossless = pixels.shape[0] * pixels.shape[1] <= 4 * _SHEET_PIXELS and side <= 64 and not smaller
    if lossless:
        picture.save(buffer, format="PNG")
    else:
        picture.save(buffer, format="JPEG", quality=75)
    kind = "image/png" if lossless else "image/jpeg"
    return Block(name, base64.b64encode(buffer.getvalue()).decode("ascii"), kind)
