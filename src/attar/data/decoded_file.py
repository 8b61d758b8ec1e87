"""Decoded images in a file of this machine: decoded once, then mapped into memory by every run and process.

The file lies in attar's cache, under ``decoded``, beside a sealed note. It is named by the images' identity, by the
sizes, inodes and times of their files, and by how they are prepared, so it is not used for other or changed data.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.config import digest
from attar.core.errors import AttarError, disk_full
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.source import Split
from attar.store import atomic, sealed
from attar.store.cache import cache_folder, usable

VERSION = 1
"""Raise it when images are prepared differently."""
_ZEROS = 2**24


def kept(
    split: Split, choice: DataChoice, decode: Callable[[np.ndarray], bool], log: Log
) -> UInt8[Tensor, "image 3 height width"] | None:
    """Return all images of a split, mapped into memory; ``decode`` fills an array with them if they are not kept yet.

    ``decode`` returns whether all images could be read; if not, nothing is kept and the result is None, as where the
    disk has no room, or where nothing would tell that the images have changed. Other processes of this machine wait
    while one decodes. Raises AttarError when the cache cannot be written.
    """
    shape, stamp = (len(split), 3, choice.size, choice.size), split.stamp()
    if stamp is None:
        log.warn("decoded images are not kept, because nothing would tell that the images of this dataset have changed")
        return None
    how = [VERSION, PIL.__version__, split.identity(), stamp, len(split), choice.size, choice.resize]
    place = cache_folder() / "decoded" / f"{digest(how)[:40]}.uint8"
    with usable(place.parent), atomic.locked(_lock(place)):
        if (found := _mapped(place, shape)) is not None:
            return found
        _sweep(place)
        try:
            with atomic.replace(place) as unfinished:
                rows = _room(unfinished, shape)
                if not decode(rows):
                    raise _NotKept
                rows.flush()
                is_checked = rows.nbytes <= sealed.READ_BYTES
                note = {"bytes": rows.nbytes, "content": atomic.sha256_of(unfinished) if is_checked else ""}
        except _NoRoom:
            log.warn(f"{place.parent} has no room for {math.prod(shape) / 1e9:.3g} GB of decoded images")
            return None
        except _NotKept:
            return None
        sealed.write_json(_note(place), note)
        return _mapped(place, shape)


class _NotKept(Exception):  # noqa: N818
    """Some images cannot be read."""


class _NoRoom(_NotKept):
    """The disk has no room."""


def _room(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return an array in a new file; raises _NoRoom when the disk has no room for all of it.

    A write into a mapped hole of a file would kill the process on a full disk.
    """
    size = math.prod(shape)
    try:
        if size > shutil.disk_usage(path.parent).free:
            raise _NoRoom
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, _ZEROS):
                    file.write(bytes(min(_ZEROS, size - start)))
    except OSError as error:
        if not disk_full(error):
            raise
        raise _NoRoom from None
    return np.memmap(path, np.uint8, "r+", shape=shape)


def _sweep(place: Path) -> None:
    """Remove unfinished files whose process was killed: nobody holds their lock, or this process does."""
    for path in place.parent.glob(".*.uint8.*.tmp"):
        other = place.with_name(path.name[1:].partition(".")[0] + place.suffix)
        with contextlib.suppress(FileNotFoundError):
            if other == place or not atomic.is_locked(_lock(other)):
                path.unlink()


def _mapped(place: Path, shape: tuple[int, ...]) -> UInt8[Tensor, "image 3 height width"] | None:
    """Return the images in a file; None if it is missing or damaged; of large ones only the size is checked."""
    try:
        note = sealed.read_json(_note(place), "")
        if place.stat().st_size != math.prod(shape) or note["bytes"] != math.prod(shape):
            return None
        if note["bytes"] <= sealed.READ_BYTES and sealed.sha256_of(place) != note["content"]:
            return None
    except (AttarError, FileNotFoundError, KeyError):
        return None
    return torch.from_numpy(np.memmap(place, np.uint8, "c", shape=shape))  # a change would stay in this process


def _note(place: Path) -> Path:
    return place.with_suffix(".json")


def _lock(place: Path) -> Path:
    return place.with_suffix(".lock")
