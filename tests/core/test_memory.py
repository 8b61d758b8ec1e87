"""core/memory.py: freed memory stays within the context and is given back after it; results are what they were."""

import ctypes
import json
import os
import subprocess
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
    libc = memory._glibc()
    assert libc is not None
    libc.malloc_trim(0)  # else the tensor may lie in memory that other tests have freed
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


FRESH = """
import ctypes, json
from attar.core import memory

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
libc.mallinfo2.restype, libc.mallinfo2.argtypes = Mallinfo2, ()
with memory.kept():
    pass
found = {}
for megabytes in (1, 30, 40):
    before = libc.mallinfo2().hblkhd
    block = libc.malloc(megabytes * 2**20)
    found[megabytes] = libc.mallinfo2().hblkhd > before
    libc.free(block)
for block in [libc.malloc(30 * 2**20) for _ in range(5)]:
    libc.free(block)
found["left"] = libc.mallinfo2().arena // 2**20
print(json.dumps(found))
"""
"""A process that has used little memory: which blocks are mapped by themselves, and MiB left of 150 freed ones."""


@pytest.mark.skipif(memory._glibc() is None or not hasattr(memory._glibc(), "mallinfo2"), reason="no glibc 2.33 here")
def test_afterwards_only_blocks_beyond_32_mib_are_mapped_afresh():
    """That is where glibc's own threshold ends as it learns, so what follows is no slower than it was."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("left") <= 64
    assert found == {"1": False, "30": False, "40": True}


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
