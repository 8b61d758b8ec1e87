"""Which blocks of remote data an epoch fetches next, and which it has finished, so that a small cache serves it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class Fetched:
    """The blocks of an epoch that are in use, from being fetched until they are finished.

    A block is fetched a window before its first image is shown, if it fits into the cache beside those in use: a block
    fetched too early would push out one that is needed earlier. It is finished after its last image, or some batches
    later where other processes, which share the batches, may be behind.
    """

    def __init__(
        self, batches: Sequence[Tensor], blocks: Int[np.ndarray, " image"], sizes: Int[np.ndarray, " block"],
        limit: int, window: int, behind: int,
    ) -> None:  # fmt: skip
        """``batches`` hold images' places in ``blocks``; ``sizes`` are the blocks' bytes, ``limit`` the cache's.

        ``behind`` is the number of batches that another process may be behind.
        """
        self._ends = np.cumsum([len(batch) for batch in batches])
        shown = blocks[torch.cat(list(batches)).numpy()]
        places = np.arange(len(shown))
        first, last = np.full(len(sizes), -1), np.full(len(sizes), -1)
        first[shown[::-1]], last[shown] = places[::-1], places  # of equal indices the last one counts
        used = np.flatnonzero(last >= 0)
        self._waiting = sorted(zip(first[used].tolist(), used.tolist(), strict=True), reverse=True)
        self._leaving = sorted(zip(last[used].tolist(), used.tolist(), strict=True), reverse=True)
        self._sizes, self._limit, self._window, self._in_use = sizes, limit, window, 0
        self._behind = behind

    def finished(self, number: int) -> Iterator[int]:
        """Yield the blocks that are finished after batch ``number``, in order."""
        shown = self._ends[number - self._behind] if number >= self._behind else 0
        while self._leaving and self._leaving[-1][0] < shown:
            block = self._leaving.pop()[1]
            self._in_use -= int(self._sizes[block])
            yield block

    def wanted(self, number: int) -> Iterator[int]:
        """Yield the blocks to fetch after batch ``number``, in order; -1 is before the first batch."""
        shown = self._ends[number] if number >= 0 else 0
        soon = self._ends[min(number + 1, len(self._ends) - 1)]
        while self._waiting and self._waiting[-1][0] < max(soon, shown + self._window):
            first, block = self._waiting[-1]
            size = int(self._sizes[block])
            if first >= soon and self._in_use + size > self._limit:
                return
            self._waiting.pop()
            self._in_use += size
            yield block
