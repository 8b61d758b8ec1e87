"""A whole split decoded at once: square images as bytes in memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.picture import Unreadable, prepare
from attar.data.source import Split

CHUNK = 64

RealBatch = tuple[Float[Tensor, "image 3 height width"], Int[Tensor, "image"]]  # noqa: F821
"""Images in [0, 1] and their labels."""


@dataclass(frozen=True)
class Pixels:
    """Prepared images with their labels."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, "image"]  # noqa: F821

    def __len__(self) -> int:
        return len(self.labels)


def pixels(split: Split, choice: DataChoice, log: Log, what: str = "reading") -> Pixels:
    """Decode and prepare every image of a split; ``what`` names the progress bar.

    Raises AttarError, after all have been tried, when images are unreadable: how many and which is the first. With
    ``on_corrupt='skip'`` they are left out with a warning instead, unless a class would lose all of its images.
    """
    images = torch.empty(len(split), 3, choice.size, choice.size, dtype=torch.uint8)
    rows = images.numpy()
    chunks = [range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK)]

    def read(chunk: range) -> list[tuple[int, Unreadable]]:
        failed = []
        for index in chunk:
            try:
                rows[index] = prepare(split.image(index), choice.size, choice.resize).transpose(2, 0, 1)
            except Unreadable as error:
                failed.append((index, error))
        return failed

    failed: list[tuple[int, Unreadable]] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with log.progress(what, len(split), unit="images") as advance:
            for chunk, faults in zip(chunks, pool.map(read, chunks), strict=True):
                failed += faults
                advance(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)
    labels = torch.from_numpy(split.labels.copy())
    if failed:
        if choice.on_corrupt == "stop":
            raise AttarError(_stopped(failed, len(split)))
        tell_skipped([error for _, error in failed], len(split), log)
        kept = np.setdiff1d(np.arange(len(split)), [index for index, _ in failed])
        _refuse_lost_class(split.labels, kept, failed)
        images, labels = images[kept], labels[kept]
    return Pixels(images, labels)


def tell_skipped(faults: Sequence[Unreadable], total: int, log: Log) -> None:
    """Warn of images that were left out, and record each."""
    for error in faults:
        log.event("unreadable", where=error.where, reason=error.reason)
    log.warn(f"skipped {len(faults)} of {total} images, which cannot be read; the first is {faults[0].where}")


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
