"""One picture: from encoded bytes of any kind to square RGB pixels."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from attar.core.errors import AttarError

LONGEST = 16
"""Of pictures more elongated than this only the middle is scaled, to bound memory."""
MOST_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded: half a gigabyte as RGB. It is Pillow's own limit."""
_NOT_PICTURES = {
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the files with 'git lfs pull'",
    b"<!doctype": "it is a web page",
    b"<html": "it is a web page",
    b"%pdf": "it is a PDF",
    b"<svg": "it is a drawing (SVG), not pixels",
    b"ftypheic": "it is HEIC, which attar does not read; convert it to JPEG",
    b"ftypheix": "it is HEIC, which attar does not read; convert it to JPEG",
    b"ftypmif1": "it is HEIF, which attar does not read; convert it to JPEG",
    b"jxl ": "it is JPEG XL, which attar does not read; convert it to JPEG or PNG",
}
"""First bytes, in lower case, of files that are often taken for pictures, whatever their ending says."""


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
            if picture.width * picture.height > MOST_PIXELS:  # Pillow itself may have been set to allow more
                raise ValueError(_too_many(picture.width * picture.height))
            picture.load()
            return rgb(picture)
    except UnidentifiedImageError:
        raise Unreadable(where, _what_it_is(encoded)) from None
    except Exception as error:  # decoders raise errors of every kind on damaged data
        raise Unreadable(where, _reason(error)) from None


def rgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB: transparency lies on white, 16 bits become 8, CMYK is converted.

    Raises ValueError for pixels that have no known range.
    """
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert them to 8 bits")
    if picture.mode.startswith("I"):  # 16 bits, also where Pillow widens them to 32
        values = np.asarray(picture).astype(np.float64)
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            beyond = f"below zero ({low:.0f})" if low < 0 else f"above 65535 ({high:.0f})"
            raise ValueError(f"it has pixels {beyond}, whose range is not known; convert them to 8 bits")
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


def _too_many(pixels: int) -> str:
    return f"it has {pixels:,} pixels, more than the {MOST_PIXELS:,} that attar opens; make it smaller"


def _what_it_is(encoded: bytes | Path) -> str:
    """Why a file is no picture, where its first bytes tell."""
    if isinstance(encoded, bytes):
        first = encoded[:256]
    else:
        try:
            with encoded.open("rb") as file:
                first = file.read(256)
        except OSError as error:
            return _reason(error)
    if not first:
        return "the file is empty"
    start = first.lstrip().lower()
    known = (reason for mark, reason in _NOT_PICTURES.items() if start.startswith(mark) or first[4:12].startswith(mark))
    return next(known, "not an image of a known format")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return _too_many(int(re.findall(r"\d+", str(error))[0]))  # before its size is known to Pillow's caller
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
