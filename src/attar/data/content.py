"""What files hold, for the identity of a dataset: read whole where that is cheap, else in pieces.

Names and sizes alone do not tell that pictures were made anew: BMP files of one size keep their number of bytes. Times
of change do not tell either, because a copied or moved dataset has new ones and is the same data. So contents are read:
all of them up to WHOLE_BYTES and WHOLE_FILES (a few seconds), and of larger datasets NUM_PIECES pieces at evenly spaced
places, which costs the same for any size. A single picture that was replaced in a large dataset by one of the same name
and size can pass unnoticed; a dataset that was made anew cannot.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attar.core.errors import AttarError
from attar.store import sealed
from attar.store.cache import cache_folder

WHOLE_BYTES, WHOLE_FILES = 256 * 1024**2, 200_000
NUM_PIECES, PIECE_BYTES = 4096, 4096
_THREADS, _CHUNK, _BLOCK = 8, 256, 1024**2
VERSION = 1
"""Raise it when the same files get another hash."""


@dataclass(frozen=True)
class Content:
    """What files hold."""

    sha256: bytes
    is_whole: bool
    """Whether everything that should be hashed could be read; it is not remembered otherwise."""


def sampled(sizes: np.ndarray) -> tuple[list[int], bool]:
    """Which of the items with these numbers of bytes are read, and whether they are read whole."""
    count = len(sizes)
    if int(sizes.sum()) <= WHOLE_BYTES and count <= WHOLE_FILES:
        return list(range(count)), True
    return np.unique(np.linspace(0, count - 1, min(count, NUM_PIECES)).round().astype(np.int64)).tolist(), False


def middle(data: bytes) -> bytes:
    """The piece in the middle of an item that is not read whole."""
    start = max(0, (len(data) - PIECE_BYTES) // 2)
    return data[start : start + PIECE_BYTES]


def of_many(path: Callable[[int], Path], sizes: np.ndarray) -> Content:
    """Hash many small files; ``path`` gives each by its place in ``sizes``. Unreadable ones count as zeros."""
    chosen, whole = sampled(sizes)

    def digest(index: int) -> Content:
        return _of_file(path(index), int(sizes[index]), whole)

    return _of_each(digest, chosen)


def of_items(read: Callable[[int, int, int], bytes], sizes: np.ndarray) -> Content:
    """Hash many items with these numbers of bytes.

    ``read`` returns bytes of an item, from its place, where they start and how many they are; fewer if it is damaged.
    """
    chosen, whole = sampled(sizes)

    def digest(index: int) -> Content:
        size = int(sizes[index])
        wanted = size if whole else min(size, PIECE_BYTES)
        data = read(index, (size - wanted) // 2, wanted)
        return Content(hashlib.sha256(data).digest(), len(data) == wanted)

    return _of_each(digest, chosen)


def _of_each(digest: Callable[[int], Content], chosen: Sequence[int]) -> Content:
    """Hash what ``digest`` returns for each item; chunks of them are read in threads."""
    chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
    total, is_whole = hashlib.sha256(), True
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(lambda chunk: [digest(index) for index in chunk], chunks):
            is_whole &= all(one.is_whole for one in part)
            total.update(b"".join(one.sha256 for one in part))
    return Content(total.digest(), is_whole)


def of_few(paths: Sequence[Path]) -> bytes:
    """A SHA-256 of a few large files; raises OSError when one cannot be read."""

    def read(index: int, start: int, size: int) -> bytes:
        with paths[index].open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)

    return of_ranges(read, [path.stat().st_size for path in paths])


def of_ranges(read: Callable[[int, int, int], bytes], sizes: Sequence[int]) -> bytes:
    """As ``of_few``, of files with these numbers of bytes; ``read`` is as in ``of_items``."""
    ends = np.cumsum([0, *sizes])
    if ends[-1] <= WHOLE_BYTES:
        pieces = [(file, start, min(_BLOCK, size - start)) for file, size in enumerate(sizes) for start in
                  range(0, size, _BLOCK)]  # fmt: skip
    else:
        places = np.linspace(0, ends[-1] - PIECE_BYTES, NUM_PIECES).round().astype(np.int64)
        files = np.searchsorted(ends, places, side="right") - 1
        pieces = [(int(file), int(place - ends[file]), PIECE_BYTES) for file, place in zip(files, places, strict=True)]
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for data in pool.map(lambda piece: read(*piece), pieces):
            total.update(data)
    return total.digest()


def remembered(listing: Sequence[str], make: Callable[[], Content]) -> bytes:
    """Return the SHA-256 that ``make`` returned for the same listing before, on this machine; else call it.

    A listing names files with what changes with their content. What is kept has a seal. What is not whole is not kept,
    because the files may be readable again the next time; where nothing can be kept, ``make`` is called each time.
    """
    scheme = f"{VERSION} {WHOLE_BYTES} {WHOLE_FILES} {NUM_PIECES} {PIECE_BYTES}"
    key = hashlib.sha256("\n".join([scheme, *listing]).encode(errors="surrogateescape")).hexdigest()
    place = cache_folder() / "contents" / f"{key[:40]}.json"
    with contextlib.suppress(OSError, AttarError, KeyError, TypeError, ValueError):
        known = sealed.read_json(place, "")
        if known["listing"] == key:
            return bytes.fromhex(known["content"])
    found = make()
    if found.is_whole:
        with contextlib.suppress(OSError, AttarError):
            sealed.write_json(place, {"listing": key, "content": found.sha256.hex()})
    return found.sha256


def stamp(path: Path) -> str:
    """Return a text that changes with a file's content: size, inode and times; raises OSError when it is missing."""
    state = path.stat()
    sealed.settle(state)
    return f"{state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"


def stamps(paths: Iterable[Path]) -> str | None:
    """Return a text that changes with the content of any of these files; None when one cannot be looked at."""
    try:
        return "\n".join(map(stamp, paths))
    except OSError:
        return None


def _of_file(path: Path, size: int, whole: bool) -> Content:
    try:
        with path.open("rb", buffering=0) as file:
            if not whole and size > PIECE_BYTES:
                file.seek((size - PIECE_BYTES) // 2)
                return Content(hashlib.sha256(file.read(PIECE_BYTES)).digest(), True)
            return Content(hashlib.sha256(file.read()).digest(), True)
    except OSError:  # found out when it is decoded
        return Content(bytes(32), False)
