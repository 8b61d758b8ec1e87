"""Open image sets of any size: small ones in memory, large ones decoded once into a memory-mapped file.

The file is a cache: a ``.npy`` file of uint8, named by the hash of the images. The hash is checked at every opening; a
missing or damaged file is rebuilt.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import atomic
from attar.store import images as image_files
from attar.store.cache import cache_folder, usable
from attar.store.images import ImageSet

RESIDENT_BYTES = 4 * 1024**3
"""Default limit for decoded images in memory."""


def read(
    folder: Path, images_sha256: str, owner: str, resident_bytes: int | None = None, cache: Path | None = None
) -> ImageSet:
    """Open a set with this hash; ``owner`` is the file that recorded the hash, named in errors.

    Sets of up to ``resident_bytes`` decoded (4 GiB) are read into memory. For larger sets ``images`` is a tensor over a
    memory-mapped file in ``cache``. Raises AttarError when the images have another hash, are missing or damaged, or
    when the cache cannot be written.
    """
    labels, slots = image_files.numbers(folder)
    shape = (len(labels), *image_files.first(folder).shape)
    if int(np.prod(shape)) <= (RESIDENT_BYTES if resident_bytes is None else resident_bytes):
        found = image_files.read(folder)
        if found.sha256() != images_sha256:
            raise _wrong_images(folder, owner)
        return found
    path = (cache or cache_folder()) / f"{images_sha256}.npy"
    pixels = _mapped(path, shape)
    if pixels is not None:
        found = ImageSet(pixels, torch.tensor(labels), torch.tensor(slots))
        if found.sha256() == images_sha256:
            return found
    _decode(path, folder, labels, shape, images_sha256, owner)
    pixels = _mapped(path, shape)
    if pixels is None:
        raise AttarError(
            f"{path} was written but cannot be read; check the disk, or set ATTAR_CACHE to another folder."
        )
    return ImageSet(pixels, torch.tensor(labels), torch.tensor(slots))


def placed(
    images: UInt8[Tensor, "image 3 height width"], device: torch.device, limit_bytes: int | None = None
) -> UInt8[Tensor, "image 3 height width"]:
    """Move the images to the device if they take at most ``limit_bytes`` there, by default half of its free memory.

    Otherwise they stay where they are and are moved batch by batch (``replay.show`` does that).
    """
    if images.device == device or device.type == "cpu":
        return images.to(device)
    if limit_bytes is None:
        limit_bytes = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
    return images.to(device) if images.numel() <= limit_bytes else images


def _decode(
    path: Path, folder: Path, labels: list[int], shape: tuple[int, ...], images_sha256: str, owner: str
) -> None:
    """Write the cache image by image; leaves no file if that fails or the images have another hash."""
    atomic.sweep(path.parent, "*.npy")
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with usable(path.parent), atomic.replace(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if image_files.stream(folder, labels, file.write) != images_sha256:
            raise _wrong_images(folder, owner)


def _mapped(path: Path, shape: tuple[int, ...]) -> UInt8[Tensor, "image 3 height width"] | None:
    """Return the pixels of a cache; None if it is missing, damaged or of another shape."""
    try:
        array = np.load(path, mmap_mode="c")  # copy-on-write; nothing is written to it
    except (OSError, ValueError, EOFError):
        return None
    whole = array.dtype == np.uint8 and array.shape == shape and array.flags.c_contiguous
    return torch.from_numpy(array) if whole else None


def _wrong_images(folder: Path, owner: str) -> AttarError:
    return AttarError(f"The images in {folder} are not those of {owner}; use another copy.")
