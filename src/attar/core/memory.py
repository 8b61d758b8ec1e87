"""The C library's memory, kept from one optimisation step to the next."""

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST_DYNAMIC = 32 * 2**20  # where glibc's own, moving threshold ends
_DEFAULT_MMAPS = 65536


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within, memory that tensors on the CPU give back stays with the process, ready for the next step.

    glibc maps every block beyond 32 MiB afresh and hands it back when it is freed, so a loop over large batches
    spends its time on page faults. Elsewhere than on glibc this does nothing. Afterwards the memory is given back.
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
