"""What files hold, for the identity of a dataset: read whole where that is cheap, else in pieces.

Names and sizes alone do not tell that pictures were made anew: BMP files of one size keep their number of bytes. Times
of change do not tell either, because a copied or moved dataset has new ones and is the same data. So contents are read:
all of them up to WHOLE_BYTES and WHOLE_FILES (a few seconds), and of larger datasets NUM_PIECES pieces at evenly spaced
places, which costs the same for any size. A single picture that was replaced in a large dataset by one of the same name
and size can pass unnoticed; a dataset that was made anew cannot.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

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

    chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(read, chunks):
            total.update(part)
    return total.digest()


def of_items(read: Callable[[int], bytes], sizes: np.ndarray) -> bytes:
    """A SHA-256 of many items with these numbers of bytes, which ``read`` returns by their places."""
    chosen, whole = sampled(sizes)

    def digests(chunk: Sequence[int]) -> bytes:
        return b"".join(hashlib.sha256(data if whole else middle(data)).digest() for data in map(read, chunk))

    chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(digests, chunks):
            total.update(part)
    return total.digest()


def of_few(paths: Sequence[Path]) -> bytes:
    """A SHA-256 of a few large files; raises OSError when one cannot be read."""
    total, sizes = hashlib.sha256(), [path.stat().st_size for path in paths]
    if sum(sizes) <= WHOLE_BYTES:
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    total.update(block)
        return total.digest()
    places = np.linspace(0, sum(sizes) - PIECE_BYTES, NUM_PIECES).round().astype(np.int64)
    for path, (start, end) in zip(paths, pairwise(np.cumsum([0, *sizes]).tolist()), strict=True):
        with path.open("rb") as file:
            for place in places[(places >= start) & (places < end)].tolist():
                file.seek(place - start)
                total.update(file.read(PIECE_BYTES))
    return total.digest()


def _digest_of(path: Path, size: int, whole: bool) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            if not whole and size > PIECE_BYTES:
                file.seek((size - PIECE_BYTES) // 2)
                return hashlib.sha256(file.read(PIECE_BYTES)).digest()
            return hashlib.sha256(file.read()).digest()
    except OSError:  # found out when it is decoded
        return bytes(32)
