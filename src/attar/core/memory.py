"""Keep the C library's freed memory from one optimisation step to the next."""

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST_DYNAMIC = 32 * 2**20  # upper limit of glibc's own dynamic threshold
_DEFAULT_MMAPS = 65536


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep memory freed by CPU tensors in the process during the block; return it to the system afterwards.

    glibc maps every block above 32 MiB anew and unmaps it when it is freed, so a loop over large batches spends its
    time on page faults. Does nothing without glibc.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAPS)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_DYNAMIC)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_DYNAMIC)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None
