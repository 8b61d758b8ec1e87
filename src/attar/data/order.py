"""The order in which an epoch shows the images: any, or by blocks that lie together in a shard."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

SPREAD_BLOCKS = 64
"""Blocks from which a sample of images is taken."""


def shuffled(
    count: int,
    blocks: Int[np.ndarray, " image"] | None,
    window: int,
    generator: torch.Generator,
) -> Int[Tensor, " image"]:
    """Return the images' places in the order of an epoch; a function of the generator alone.

    With a ``window`` the blocks are shuffled, then the images inside windows of consecutive blocks, which have at least
    ``window`` images together. So a reader needs the blocks of one window, and of the next, at a time. Without one, or
    without blocks, all images are shuffled.
    """
    if not window or blocks is None:
        return torch.randperm(count, generator=generator)
    parts = [part[torch.randperm(len(part), generator=generator)] for part in windows(blocks, window, generator)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def windows(
    blocks: Int[np.ndarray, " image"],
    window: int,
    generator: torch.Generator,
) -> Iterator[Int[Tensor, " part"]]:
    """Yield the places of the images of each window, in order of its shuffled blocks."""
    by_block = torch.from_numpy(np.argsort(blocks, kind="stable"))
    sizes = np.bincount(blocks)
    pieces = by_block.split(sizes.tolist())
    held, count = [], 0
    for block in torch.randperm(len(pieces), generator=generator).tolist():
        held.append(pieces[block])
        count += len(pieces[block])
        if count >= window:
            yield torch.cat(held)
            held, count = [], 0
    if held:
        yield torch.cat(held)


def spread(count: int, blocks: Int[np.ndarray, " image"] | None, wanted: int) -> list[int]:
    """Return the places of ``wanted`` of ``count`` images, evenly spaced, ascending; all if they are fewer.

    With ``blocks`` they lie in at most ``SPREAD_BLOCKS`` evenly spaced blocks, so that a reader needs these only.
    """
    places = np.arange(count)
    if blocks is not None:
        known = np.unique(blocks)
        chosen = known[np.linspace(0, len(known) - 1, min(SPREAD_BLOCKS, len(known))).round().astype(np.int64)]
        places = np.flatnonzero(np.isin(blocks, chosen))
    return places[np.linspace(0, len(places) - 1, min(wanted, len(places))).round().astype(np.int64)].tolist()
