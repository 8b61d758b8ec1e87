"""Decoded images in a file of this machine: decoded once, then mapped into memory by every run and process.

The file lies in ``XDG_CACHE_HOME`` (``~/.cache``), under ``attar/decoded``, beside a sealed note of its SHA-256. It is
named by the images' identity and by how they are prepared, so other data never meet it.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.source import Split
from attar.store import atomic, sealed

VERSION = 1
"""Raise it when images are prepared differently."""


def kept(
    split: Split, choice: DataChoice, decode: Callable[[np.ndarray], bool], log: Log
) -> UInt8[Tensor, "image 3 height width"] | None:
    """Return all images of a split, mapped into memory; ``decode`` fills an array with them if they are not kept yet.

    ``decode`` returns whether all images could be read; if not, nothing is kept and the result is None, as where the
    disk has no room. Other processes of this machine wait while one decodes.
    """
    shape = (len(split), 3, choice.size, choice.size)
    how = [VERSION, PIL.__version__, split.identity(), len(split), choice.size, choice.resize]
    place = _folder() / f"{digest(how)[:40]}.uint8"
    try:
        with _alone(place):
            if (found := _mapped(place, shape)) is not None:
                return found
            free = shutil.disk_usage(place.parent).free
            if math.prod(shape) > free:
                log.warn(f"{place.parent} has no room for {math.prod(shape) / 1e9:.3g} GB of decoded images")
                return None
            with atomic.replace(place) as unfinished:
                rows = np.memmap(unfinished, np.uint8, "w+", shape=shape)
                if not decode(rows):
                    raise _Unread
                rows.flush()
                note = {"bytes": rows.nbytes, "content": atomic.sha256_of(unfinished)}
            sealed.write_json(_note(place), note)
            return _mapped(place, shape)
    except _Unread:
        return None
    except OSError as error:
        raise AttarError(
            f"{place.parent} cannot be used ({error.strerror}); set XDG_CACHE_HOME to a folder of yours, or leave out "
            f"--data.keep-decoded."
        ) from None


class _Unread(Exception):  # noqa: N818
    """Some images cannot be read."""


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


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "attar" / "decoded"


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    import fcntl

    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
