"""Arithmetic and bytes of the networks that a chosen recipe uses, from their shapes. Nothing here imports PyTorch."""

from dataclasses import dataclass
from typing import Literal

_RECORD_BYTES = 4096
"""Bytes at most of a stored teacher's header and description."""
_RESNET18 = (11_300_000, 1_820_000_000)
"""Parameters of ResNet-18 without its last layer, and its multiplications for an image of 224 pixels."""
_RESNET18_ROWS = 5 * 4_800 + 20
"""Its numbers that stay in float32: five for each output channel of a convolution, and BatchNorm's counters."""
QUALITY = 90
"""Quality of WebP files."""
MARGIN = 1.1
"""Real pictures are reckoned as so much larger than the mean of some, where they have to fit a budget."""
_WEBP_BYTES, _WEBP_SHARE = 520, 0.283
"""Bytes of a WebP file of noise at quality 90 at most: a constant, and bytes per byte of pixels; measured from 17 to 224
pixels."""
_PICTURE, _PICTURE_SIDE, _PICTURE_POWER = 631, 32, 1.55
"""Mean bytes of a photograph of 32 pixels at that quality, and how they grow with the side; measured to 224 pixels."""
_PNG_SHARE = 0.8
"""Bytes of a tiny picture as PNG, as a share of those of noise, about."""
_FILE_BYTES, _ROW_BYTES, _GROUP_ROWS = 4000, 40, 256
"""Parquet at most: a file without rows, a row without image and class name, and rows of a group."""
_REPEATED, _TIMES = 4096, 4
"""The first and last images of a group are written again, twice each, if they have at most so many bytes."""


@dataclass(frozen=True)
class Network:
    """A network for images of one size."""

    name: str
    size: int
    """Side of the images in pixels."""
    depth: int
    """Blocks of a ConvNet; 0 for a ResNet."""
    width: int = 64

    def multiplications(self) -> float:
        """Multiplications of one image's forward pass, without the last layer."""
        if not self.depth:
            return _RESNET18[1] * (self.size / 224) ** 2
        sides = [max(1, self.size // 2**block) for block in range(self.depth)]
        channels = [3, *[self.width] * (self.depth - 1)]
        return sum(9 * self.width * inner * side**2 for inner, side in zip(channels, sides, strict=True))

    def stored_bytes(self, num_classes: int) -> int:
        """Bytes of the weights in 'int8' (see ``models.compact``) with their description, at most."""
        if not self.depth:
            return _RESNET18[0] + 513 * num_classes + 4 * (_RESNET18_ROWS + 2 * num_classes) + 5 * _RECORD_BYTES
        convolutions = 9 * 3 * self.width + (self.depth - 1) * 9 * self.width**2
        norms = self.depth * (6 * self.width + 2)  # with the convolutions' biases and scales, and BatchNorm's counters
        last = self.width * max(1, self.size // 2**self.depth) ** 2 * num_classes
        return convolutions + last + 4 * (norms + 2 * num_classes) + _RECORD_BYTES


def network_for(size: int) -> Network:
    """The network for images of this side: a ConvNet whose last map has 4 to 7 pixels a side, or ResNet-18."""
    if size > 160:
        return Network("resnet18", size, depth=0)
    depth = 3 if size <= 48 else 4 if size <= 96 else 5
    return Network(f"convnet{depth}_w64", size, depth)


def format_for(size: int) -> Literal["png", "webp"]:
    """File format of stored images: PNG up to 16 pixels, WebP above."""
    return "png" if size <= 16 else "webp"


def image_bytes(size: int) -> int:
    """Bytes of one stored image at most: those of noise, which no encoder shortens."""
    raw = 3 * size**2
    if format_for(size) == "png":
        return raw + size + 96
    return round(_WEBP_BYTES + _WEBP_SHARE * raw)


def picture_bytes(size: int) -> int:
    """Bytes of one real picture of this size, about."""
    if format_for(size) == "png":
        return round(_PNG_SHARE * image_bytes(size))
    return round(_PICTURE * (size / _PICTURE_SIDE) ** _PICTURE_POWER)


def row_bytes(picture: float) -> int:
    """Bytes of a picture of so many bytes with its row of a Parquet file, about."""
    return round(picture + _ROW_BYTES)


def with_margin(row: int) -> int:
    """Bytes of a picture without its row, where pictures and their rows have so many in the mean, and a margin."""
    return round(MARGIN * row) - _ROW_BYTES


def set_bytes(num_images: int, largest: int, classes: tuple[str, ...]) -> int:
    """Bytes of a set's image files at most, where an image takes at most ``largest``."""
    names = [len(name.encode()) for name in classes]
    rows = num_images * (largest + _ROW_BYTES + max(names))
    groups = 1 + num_images // _GROUP_ROWS
    return _FILE_BYTES + 4 * sum(names) + 16 * len(names) + rows + groups * _TIMES * min(largest, _REPEATED)
