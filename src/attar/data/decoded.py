"""A whole split decoded at once: square images as bytes in memory."""

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import decoded_file
from attar.data.choice import DataChoice
from attar.data.picture import Unreadable, prepare
from attar.data.source import Split

CHUNK = 64
FORKED_FROM = 8192
"""Images from which processes decode, not threads: small pictures keep Python's lock most of the time."""
MOST_PROCESSES, MOST_THREADS = 32, 4
_PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when the one that started it ends."""

RealBatch = tuple[Float[Tensor, "image 3 height width"], Int[Tensor, "image"]]  # noqa: F821
"""Images in [0, 1] and their labels."""


@dataclass(frozen=True)
class Pixels:
    """Prepared images with their labels."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, "image"]  # noqa: F821

    def __len__(self) -> int:
        return len(self.labels)


def pixels(split: Split, choice: DataChoice, log: Log, what: str = "reading", *, all_classes: bool = True) -> Pixels:
    """Decode and prepare every image of a split; ``what`` names the progress bar.

    Raises AttarError, after all have been tried, when images are unreadable: how many and which is the first. With
    ``on_corrupt='skip'`` they are left out with a warning instead, unless a class would lose all of its images. Without
    ``all_classes`` it may, and only a split that would lose every image is refused.
    """
    failed: list[tuple[int, str, str]] = []
    with_gaps: list[Tensor] = []

    def decode(rows: np.ndarray) -> bool:
        failed.extend(_decode_all(split, choice, rows, log, what))
        if failed:
            with_gaps.append(torch.from_numpy(np.array(rows)))
        return not failed

    images = decoded_file.kept(split, choice, decode, log) if choice.keep_decoded and len(split) else None
    if images is None and with_gaps:
        images = with_gaps[0]
    elif images is None:
        shape = (len(split), 3, choice.size, choice.size)
        images = _shared(shape) if num_processes(len(split)) > 1 else torch.empty(shape, dtype=torch.uint8)
        failed = _decode_all(split, choice, images.numpy(), log, what)
    labels = torch.from_numpy(split.labels.copy())
    if failed:
        unreadable = [(index, Unreadable(where, reason)) for index, where, reason in failed]
        if choice.on_corrupt == "stop":
            raise AttarError(_stopped(unreadable, len(split)))
        tell_skipped([error for _, error in unreadable], len(split), log)
        kept = np.setdiff1d(np.arange(len(split)), [index for index, _ in unreadable])
        if all_classes or not len(kept):
            _refuse_lost_class(split.labels, kept, unreadable)
        images, labels = images[kept], labels[kept]
    return Pixels(images, labels)


def _decode_all(split: Split, choice: DataChoice, rows: np.ndarray, log: Log, what: str) -> list[tuple[int, str, str]]:
    """Decode all images into the rows; returns the place, name and fault of unreadable ones."""
    chunks = [range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK)]
    failed: list[tuple[int, str, str]] = []
    with log.progress(what, len(split), unit="images") as advance:
        each = _each(_Decode(split, choice, rows), chunks, num_processes(len(split)))
        for chunk, faults in zip(chunks, each, strict=True):
            failed += faults
            advance(len(chunk))
    return failed


def num_processes(num_images: int) -> int:
    """How many processes decode so many images: one for each core of this process's share, where that pays."""
    if sys.platform != "linux" or num_images < FORKED_FROM:
        return 1
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(cores, MOST_PROCESSES))


class _Decode:
    """Decodes chunks of a split into rows of one array; returns the place, name and fault of unreadable images."""

    def __init__(self, split: Split, choice: DataChoice, rows: np.ndarray) -> None:
        self._split, self._choice, self._rows = split.swept(), choice, rows

    def __call__(self, chunk: range) -> list[tuple[int, str, str]]:
        failed = []
        for index in chunk:
            try:
                picture = prepare(self._split.image(index), self._choice.size, self._choice.resize)
                self._rows[index] = picture.transpose(2, 0, 1)
            except Unreadable as error:
                failed.append((index, error.where, error.reason))
        return failed


def _each(decode: _Decode, chunks: Sequence[range], num_processes: int) -> Iterator[list[tuple[int, str, str]]]:
    """What ``decode`` returns for each chunk, in order; by processes, or by threads where these are few images."""
    if num_processes == 1:
        threads = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
        try:
            yield from threads.map(decode, chunks)
        finally:
            threads.shutdown(cancel_futures=True)
        return
    # A fork hands the split and the shared pixels over as they are; the children neither compute nor touch a GPU.
    pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("fork"), _take_over, (decode,))
    try:
        yield from pool.map(_decoded, chunks)
    except BrokenProcessPool:
        raise AttarError(
            "A process that decodes images was killed, probably because memory ran out; free memory, "
            "or read images as they are needed with --data.resident off."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_taken: list[_Decode] = []
"""In a decoding process, its work; empty elsewhere."""


def _take_over(decode: _Decode) -> None:
    """Ctrl-C is the first process's to answer, and none of the others outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _taken.append(decode)


def _decoded(chunk: range) -> list[tuple[int, str, str]]:
    return _taken[-1](chunk)


def _shared(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Memory that forked processes write into together; unlike /dev/shm, it is limited by the machine's memory only."""
    rows = np.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=np.uint8)
    return torch.from_numpy(rows.reshape(shape))


def tell_skipped(faults: Sequence[Unreadable], total: int, log: Log, num_skipped: int | None = None) -> None:
    """Warn of images that were left out, and record each; ``num_skipped`` counts those of other processes, too."""
    for error in faults:
        log.event("unreadable", where=error.where, reason=error.reason)
    count = len(faults) if num_skipped is None else num_skipped
    log.warn(f"skipped {count} of {total} images, which cannot be read; the first is {faults[0].where}")


def _stopped(failed: list[tuple[int, Unreadable]], total: int) -> str:
    first = failed[0][1]
    return (
        f"{len(failed)} of {total} images cannot be read, the first is {first.where} ({first.reason}); "
        f"repair or delete them, or skip them with --data.on-corrupt skip."
    )


def _refuse_lost_class(labels: np.ndarray, kept: np.ndarray, failed: list[tuple[int, Unreadable]]) -> None:
    """A class without images can be neither learnt nor distilled; better said now."""
    left = set(np.unique(labels[kept]).tolist())
    for index, error in failed:
        if int(labels[index]) not in left:
            raise AttarError(
                f"No image of a class can be read, the first of them is {error.where} ({error.reason}); "
                f"repair them, or choose other classes with --data.classes."
            )
