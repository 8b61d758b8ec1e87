"""core/memory.py: freed memory stays within the context and is given back after it; results are what they were."""

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attar.core import memory

BLOCK_BYTES = 160 * 2**20
"""Far beyond what glibc keeps by itself."""
needs_glibc = pytest.mark.skipif(memory._glibc() is None, reason="there is no glibc here")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kept_after_free() -> float:
    """What is still resident of a large tensor that has been freed, as a fraction of its size."""
    before = resident_bytes()
    block = torch.ones(BLOCK_BYTES // 4)
    assert resident_bytes() - before > 0.9 * BLOCK_BYTES, "the tensor lies in memory that was there already"
    del block
    return (resident_bytes() - before) / BLOCK_BYTES


@needs_glibc
def test_freed_memory_stays_within_and_is_given_back_afterwards():
    before = resident_bytes()
    with memory.kept():
        assert kept_after_free() > 0.9
    assert resident_bytes() - before < 0.2 * BLOCK_BYTES
    assert kept_after_free() < 0.2


@needs_glibc
@pytest.mark.parametrize("what", ["once more", "nested", "left by an error"])
def test_afterwards_all_is_as_before(what: str):
    before = resident_bytes()
    if what == "nested":
        with memory.kept(), memory.kept():
            kept_after_free()
    elif what == "left by an error":
        with pytest.raises(ZeroDivisionError), memory.kept():
            assert kept_after_free() / 0
    else:
        for _ in range(2):
            with memory.kept():
                assert kept_after_free() > 0.9
    assert resident_bytes() - before < 0.2 * BLOCK_BYTES
    assert kept_after_free() < 0.2


def test_tensors_are_what_they_are_without():
    def result() -> torch.Tensor:
        source = torch.Generator().manual_seed(0)
        left, right = (torch.randn(700, 700, generator=source) for _ in range(2))
        return torch.nn.functional.conv2d((left @ right)[None, None], right[None, None, :5, :5])

    expected = result()
    with memory.kept():
        first = result()
        again = result()  # in memory that has been used
    assert torch.equal(first, expected)
    assert torch.equal(again, expected)
    assert torch.equal(result(), expected)


@pytest.mark.parametrize(
    ("platform", "libc"),
    [("darwin", None), ("win32", None), ("linux", SimpleNamespace()), ("linux", SimpleNamespace(malloc_trim=print))],
)
def test_elsewhere_than_on_glibc_nothing_is_done(platform: str, libc: object, monkeypatch: pytest.MonkeyPatch):
    """The C library there may have no such settings, or others under the same numbers."""

    def load(_: object) -> object:
        assert libc is not None, "there is no reason to look for a C library"
        return libc

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", load)
    ran = False
    with memory.kept():
        ran = True
    assert ran
