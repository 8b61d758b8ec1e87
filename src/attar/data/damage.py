"""A quick look for pictures that cannot be read, so that a plan can name them before a run meets them."""

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attar.data.picture import MOST_PIXELS, Unreadable
from attar.data.source import Split

MOST_PICTURES, MOST_BYTES = 2000, 10**8
"""Pictures and bytes of their files that are looked at; of larger sets a part."""
RUNS = 16
"""Runs of neighbouring pictures that the part consists of."""
_NAMED = 3
_known: dict[tuple[bytes, str], Unreadable | None] = {}
"""What was found in this process, by a hash of the files' stamps and the picture: the choice of a recipe and the plan
look at the same pictures."""


@dataclass(frozen=True)
class Damage:
    """What a look at the pictures of some splits found."""

    num_pictures: int
    num_opened: int
    faults: tuple[Unreadable, ...]
    places: tuple[tuple[int, ...], ...] = ()
    """For each of the splits the places of its unreadable pictures."""

    def stopped(self) -> str:
        """Say why a run stops that does not skip unreadable pictures; '' if none was found."""
        if not self.faults:
            return ""
        first, part = self.faults[0], "" if self.num_opened == self.num_pictures else " opened"
        return (
            f"{len(self.faults)} of {self.num_opened:,}{part} images cannot be read, the first is {first.where} "
            f"({first.reason}); repair or delete them, or skip them with --data.on-corrupt skip."
        )

    def sentences(self, skips: bool) -> list[str]:
        """Say how many pictures cannot be read, and what a run does with them: it stops, or ``skips`` them.

        Returns nothing for pictures that are held in memory, where there is no file to open.
        """
        if not self.num_opened:
            return []
        whole = self.num_opened == self.num_pictures
        looked = "every file was opened" if whole else f"a sample of {self.num_pictures:,}"
        if not self.faults:
            return [f"Unreadable pictures: none of {self.num_opened:,} ({looked})"]
        named = ", ".join(f"{fault.where} ({fault.reason})" for fault in self.faults[:_NAMED])
        more = f" and {len(self.faults) - _NAMED:,} more" if len(self.faults) > _NAMED else ""
        does = (
            "The run leaves them out."
            if skips
            else "The run stops: repair or delete them, or add --data.on-corrupt skip."
        )
        return [f"Unreadable pictures: {len(self.faults):,} of {self.num_opened:,} ({looked}): {named}{more}. {does}"]


def look(splits: Sequence[Split]) -> Damage:
    """Open the files of all pictures of the splits, or of a part if they are many.

    JPEG files are decoded at an eighth of their size, which also finds those that were cut short.
    """
    files = [split for split in splits if len(split) and not _is_in_memory(split)]
    total = sum(map(len, files))
    mean = sum(split.num_bytes() for split in files) / max(1, total)
    count = min(total, MOST_PICTURES, max(1, int(MOST_BYTES // max(1.0, mean))))
    places = _places(total, count)
    found, start = list[dict[int, Unreadable]](), 0
    for split in splits:
        size = len(split) if split in files else 0
        own = places[(places >= start) & (places < start + size)] - start
        stamp = split.stamp() if 0 < size <= MOST_PICTURES else None  # of many files it takes as long as the look
        mark = None if stamp is None else hashlib.sha256(stamp.encode()).digest()
        found.append({place: fault for place in own.tolist() if (fault := _looked_at(split, place, mark)) is not None})
        start += size
    faults = tuple(fault for own in found for fault in own.values())
    return Damage(total, len(places), faults, tuple(map(tuple, found)))


def readable(splits: Sequence[Split], found: Damage) -> list[Split]:
    """Return the splits without the pictures that cannot be read; ``found`` is what ``look`` found in them."""
    return [
        split.select(np.setdiff1d(np.arange(len(split)), gone)) if gone else split
        for split, gone in zip(splits, found.places, strict=True)
    ]


def _places(total: int, count: int) -> np.ndarray:
    """Return ``count`` of ``total`` places: all, or runs of neighbours, because tables are read by groups of rows."""
    if count == total:
        return np.arange(total)
    length = max(1, count // RUNS)
    starts = np.linspace(0, total - length, count // length).round().astype(np.int64)
    return np.unique(starts[:, None] + np.arange(length))


def _is_in_memory(split: Split) -> bool:
    try:
        return split.encoded(0) is None
    except Unreadable:
        return False


def _looked_at(split: Split, place: int, mark: bytes | None) -> Unreadable | None:
    """Do as ``_fault``; a picture of files with the same ``mark`` is opened once."""
    if mark is None:
        return _fault(split, place)
    key = (mark, split.where(place))
    if key not in _known:
        _known[key] = _fault(split, place)
    return _known[key]


def _fault(split: Split, place: int) -> Unreadable | None:
    """Return why a picture cannot be read; None if it can."""
    with (
        contextlib.suppress(Exception),  # decoders raise errors of every kind; decoding as a run does names them
        Image.open(io.BytesIO(split.encoded(place) or b"")) as picture,
    ):
        if picture.format == "JPEG" and picture.width * picture.height <= MOST_PIXELS:
            picture.draft(None, (1, 1))
            picture.load()
            return None
    try:
        split.image(place)
    except Unreadable as fault:
        return fault
    return None
