"""Image sets of any size: in memory where they fit, else decoded once into a file that is mapped into memory.

The file is a cache: a plain ``.npy`` of uint8, named by the identity of the images, checked against it whenever it is
opened, and made again where it is missing or damaged.
"""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import atomic
from attar.store import images as image_files
from attar.store.images import ImageSet

RESIDENT_BYTES = 4 * 1024**3
"""Decoded images that are held in memory."""


def read(
    folder: Path, images_sha256: str, said_by: str, resident_bytes: int | None = None, cache: Path | None = None
) -> ImageSet:
    """Open the set of this identity, which ``said_by`` names.

    Sets of up to ``resident_bytes`` decoded (4 GiB) are read into memory. Of larger ones ``images`` is a tensor over a
    mapped file in ``cache``, of which the system keeps in memory what there is room for. Raises AttarError when the
    images are others, missing or damaged, or the cache cannot be written.
    """
    labels, slots = image_files.numbers(folder)
    shape = (len(labels), *image_files.first(folder).shape)
    if int(np.prod(shape)) <= (RESIDENT_BYTES if resident_bytes is None else resident_bytes):
        found = image_files.read(folder)
        if found.sha256() != images_sha256:
            raise _others(folder, said_by)
        return found
    path = (cache or cache_folder()) / f"{images_sha256}.npy"
    pixels = _mapped(path, shape)
    if pixels is not None:
        found = ImageSet(pixels, torch.tensor(labels), torch.tensor(slots))
        if found.sha256() == images_sha256:
            return found
    _decode(path, folder, labels, shape, images_sha256, said_by)
    pixels = _mapped(path, shape)
    if pixels is None:
        raise AttarError(f"{path} was written and cannot be read again; check the disk, or set ATTAR_CACHE to another.")
    return ImageSet(pixels, torch.tensor(labels), torch.tensor(slots))


def placed(
    images: UInt8[Tensor, "image 3 height width"], device: torch.device, limit_bytes: int | None = None
) -> UInt8[Tensor, "image 3 height width"]:
    """The images on the device where they take no more than ``limit_bytes`` there, by default half of what is free.

    Else they stay where they are, and batches of them are to be sent over (``replay.show`` does).
    """
    if images.device == device or device.type == "cpu":
        return images.to(device)
    if limit_bytes is None:
        limit_bytes = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
    return images.to(device) if images.numel() <= limit_bytes else images


def cache_folder() -> Path:
    """Where decoded images are kept: $ATTAR_CACHE, or ``attar`` in the user's folder for caches."""
    named = os.environ.get("ATTAR_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attar"


def _decode(
    path: Path, folder: Path, labels: list[int], shape: tuple[int, ...], images_sha256: str, said_by: str
) -> None:
    """Write the cache, image by image; nothing is left of it when it fails or the images are others."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic.replace(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if image_files.stream(folder, labels, file.write) != images_sha256:
            raise _others(folder, said_by)


def _mapped(path: Path, shape: tuple[int, ...]) -> UInt8[Tensor, "image 3 height width"] | None:
    """The pixels of a cache; None when it is missing, damaged or of another shape."""
    try:
        array = np.load(path, mmap_mode="c")  # pages that were written to would be copies; none is
    except (OSError, ValueError, EOFError):
        return None
    whole = array.dtype == np.uint8 and array.shape == shape and array.flags.c_contiguous
    return torch.from_numpy(array) if whole else None


def _others(folder: Path, said_by: str) -> AttarError:
    return AttarError(f"The images in {folder} are not those of {said_by}; take another copy.")
