"""One picture: from encoded bytes of any kind to square RGB pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from attar.core.errors import AttarError

LONGEST = 16
"""Of pictures more elongated than this only the middle is scaled, to bound memory."""


class Unreadable(AttarError):  # noqa: N818
    """A picture that cannot be decoded."""

    def __init__(self, where: str, reason: str) -> None:
        """``where`` is the file, or the file and the row in it."""
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.where} cannot be read as an image ({self.reason}); repair or delete it, "
            f"or skip such images with --data.on-corrupt skip."
        )


def decode(encoded: bytes | Path, where: str) -> Image.Image:
    """An encoded picture as RGB. The camera's rotation tag is not obeyed, as in torchvision.

    Raises Unreadable when it is damaged, cut short, or not a picture.
    """
    try:
        with Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as picture:
            picture.load()
            return rgb(picture)
    except Exception as error:  # decoders raise errors of every kind on damaged data
        raise Unreadable(where, _reason(error)) from None


def rgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB: transparency lies on white, 16 bits become 8, CMYK is converted.

    Raises ValueError for pixels that have no known range.
    """
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if picture.mode.startswith("I"):  # 16 bits, also where Pillow widens them to 32
        values = np.asarray(picture).astype(np.float64).clip(0, 65535)
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        if picture.mode == "La":  # Pillow converts it to LA only
            picture = picture.convert("LA")
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def prepare(picture: Image.Image, size: int, resize: int | None = None) -> UInt8[np.ndarray, "size size 3"]:
    """The square that networks see: shorter side to ``resize`` (default ``size``) pixels, then the centre.

    Bilinear with antialiasing, equal to torchvision's Resize and CenterCrop on PIL images. A picture that is
    ``size`` x ``size`` already keeps its pixels.
    """
    if picture.size == (size, size):
        return np.array(picture)
    width, height = picture.size
    longest = LONGEST * min(width, height)
    if max(width, height) > longest:
        left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
        picture = picture.crop((left, top, left + min(width, longest), top + min(height, longest)))
        width, height = picture.size
    side, short = resize or size, min(width, height)
    width, height = side * width // short, side * height // short
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
