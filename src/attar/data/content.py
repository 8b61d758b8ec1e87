"""What files hold, for the identity of a dataset: read whole where that is cheap, else in pieces.

Names and sizes alone do not tell that pictures were made anew: BMP files of one size keep their number of bytes. Times
of change do not tell either, because a copied or moved dataset has new ones and is the same data. So contents are read:
all of them up to WHOLE_BYTES and WHOLE_FILES (a few seconds), and of larger datasets NUM_PIECES pieces at evenly spaced
places, which costs the same for any size. A single picture that was replaced in a large dataset by one of the same name
and size can pass unnoticed; a dataset that was made anew cannot.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from attar.core.errors import AttarError
from attar.store import sealed

WHOLE_BYTES, WHOLE_FILES = 256 * 1024**2, 200_000
NUM_PIECES, PIECE_BYTES = 4096, 4096
_THREADS, _CHUNK, _BLOCK = 8, 256, 1024**2


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


def of_many(path: Callable[[int], Path], sizes: np.ndarray) -> bytes:
    """A SHA-256 of many small files; ``path`` gives each by its place in ``sizes``. Unreadable ones count as zeros."""
    chosen, whole = sampled(sizes)

    def read(chunk: Sequence[int]) -> bytes:
        return b"".join(_digest_of(path(index), int(sizes[index]), whole) for index in chunk)

    return _hash_of(read, chosen)


def of_items(read: Callable[[int, int, int], bytes], sizes: np.ndarray) -> bytes:
    """A SHA-256 of many items with these numbers of bytes.

    ``read`` returns bytes of an item, from its place, where they start and how many they are.
    """
    chosen, whole = sampled(sizes)

    def piece(index: int) -> bytes:
        size = int(sizes[index])
        if whole or size <= PIECE_BYTES:
            return read(index, 0, size)
        return read(index, (size - PIECE_BYTES) // 2, PIECE_BYTES)

    def digests(chunk: Sequence[int]) -> bytes:
        return b"".join(hashlib.sha256(data).digest() for data in map(piece, chunk))

    return _hash_of(digests, chosen)


def _hash_of(digests: Callable[[Sequence[int]], bytes], chosen: Sequence[int]) -> bytes:
    """The SHA-256 of the ``digests`` of these items, which are read chunk by chunk in threads."""
    chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(digests, chunks):
            total.update(part)
    return total.digest()


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


def remembered(listing: Sequence[str], make: Callable[[], bytes]) -> bytes:
    """Return what ``make`` returned for the same listing before, on this machine; else call it.

    A listing names files with what changes with their content. What is kept has a seal; where it cannot be kept,
    ``make`` is called each time.
    """
    key = hashlib.sha256("\n".join(listing).encode(errors="surrogateescape")).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "attar" / "contents" / f"{key[:40]}.json"
    with contextlib.suppress(OSError, AttarError, KeyError, TypeError, ValueError):
        known = sealed.read_json(place, "")
        if known["listing"] == key:
            return bytes.fromhex(known["content"])
    found = make()
    with contextlib.suppress(OSError, AttarError):
        sealed.write_json(place, {"listing": key, "content": found.hex()})
    return found


def _digest_of(path: Path, size: int, whole: bool) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            if not whole and size > PIECE_BYTES:
                file.seek((size - PIECE_BYTES) // 2)
                return hashlib.sha256(file.read(PIECE_BYTES)).digest()
            return hashlib.sha256(file.read()).digest()
    except OSError:  # found out when it is decoded
        return bytes(32)
