"""A short look at a dataset before a recipe is chosen: how many pictures, of which sizes, grey or in colour."""

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import damage
from attar.data.choice import DataChoice, num_held
from attar.data.damage import Damage
from attar.data.picture import MOST_PIXELS, Unreadable, prepare
from attar.data.source import Split

SAMPLED = 256
"""Pictures whose sizes are read; they are spread evenly over the dataset."""
DECODED = 32
"""Of these, pictures that are decoded to see whether they are grey."""
STORED = 96
"""Of these, pictures that are stored at the chosen size to see how many bytes they take."""
ImageFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Survey:
    """What a look at a dataset found."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    """Training pictures of each class, without those that cannot be read. Without a validation split they include those
    that are held out."""
    num_val: int | None
    """Pictures of the validation split that can be read; None if there is none."""
    sizes: tuple[tuple[int, int], ...]
    """Width and height in pixels of the sampled pictures."""
    grey: bool
    """Whether every decoded picture is grey."""
    damage: Damage | None = None
    """Which pictures cannot be read; None if that was not looked for."""
    ranks: tuple[tuple[int, ...], ...] = ()
    """For each class the places of its unreadable training pictures in the order in which pictures are held out."""
    stored_bytes: Callable[[int, ImageFormat, int], float] | None = field(default=None, compare=False, repr=False)
    """Returns the mean bytes of a picture at this side in pixels, in this format and quality, from some pictures. None
    if the pictures are not at hand."""

    def training(self, holdout: float) -> tuple[int, ...]:
        """Training pictures of each class after a fraction of all is held out, without those that cannot be read."""
        if self.num_val is not None:
            return self.counts
        found, ranks = [], self.ranks or ((),) * len(self.counts)
        for count, lost in zip(self.counts, ranks, strict=True):
            whole = count + len(lost)
            held = num_held(whole, holdout)
            found.append(whole - held - sum(rank >= held for rank in lost))
        return tuple(found)


def survey(choice: DataChoice, log: Log, seed: int = 0) -> Survey:
    """Look at the dataset that ``choice`` names, at its chosen classes: reads all file names, and some of the pictures.

    All files are opened, or a part if they are many, to find those that cannot be read; ``seed`` decides which of them
    are held out. Pictures in a store are not looked for, because each would be fetched. Raises AttarError when there is
    no such dataset, or no picture of it can be read.
    """
    from attar.data.load import find, kept, of_classes  # imports PyTorch, which the choice of a recipe does not need
    from attar.data.order import spread

    found = find(choice, log)
    labels = kept(choice, found.classes)
    classes, split = tuple(found.classes[label] for label in labels), of_classes(found.train, labels)
    if not len(split):
        raise AttarError(f"'{choice.source}' has no training pictures of these classes; add some, or choose others.")
    splits = [split] if found.val is None else [split, of_classes(found.val, labels)]
    damaged = None if choice.cache_bytes is not None else damage.look(splits)
    usable = splits if damaged is None else damage.readable(splits, damaged)
    whole = usable[0]
    places = spread(len(whole), None if choice.cache_bytes is None else whole.blocks(), SAMPLED) if len(whole) else []
    sizes = [size for size in (_size(whole, place) for place in places) if size is not None]
    if not sizes:
        raise AttarError(f"None of the pictures of '{choice.source}' can be read; the first is {split.where(0)}.")
    return Survey(
        classes=classes,
        counts=tuple(np.bincount(whole.labels, minlength=len(classes)).tolist()),
        num_val=None if found.val is None else len(usable[1]),
        sizes=tuple(sizes),
        grey=all(_is_grey(np.asarray(picture)) for picture in _decoded(whole, _some(places, DECODED))),
        damage=damaged,
        ranks=_ranks(split, classes, damaged.places[0], seed) if damaged is not None and damaged.faults else (),
        stored_bytes=functools.cache(functools.partial(stored_bytes, whole, _some(places, STORED), choice.resize)),
    )


def _ranks(split: Split, classes: tuple[str, ...], gone: tuple[int, ...], seed: int) -> tuple[tuple[int, ...], ...]:
    """For each class the places of these pictures of the split in the order in which pictures are held out."""
    from attar.data.load import draw_of

    found = []
    for label, name in enumerate(classes):
        rows = np.flatnonzero(split.labels == label)
        drawn = rows[draw_of(name, len(rows), seed)]
        found.append(tuple(np.flatnonzero(np.isin(drawn, gone)).tolist()))
    return tuple(found)


def _size(split: Split, place: int) -> tuple[int, int] | None:
    """Width and height of a picture from the beginning of its file; None if it cannot be read."""
    try:
        encoded = split.encoded(place)
        if encoded is None:
            return split.image(place).size
        with Image.open(io.BytesIO(encoded)) as picture:
            return picture.size if picture.width * picture.height <= MOST_PIXELS else None
    except Exception:  # damaged pictures raise errors of every kind; the run counts and names them
        return None


def _some(places: list[int], count: int) -> list[int]:
    """Return about ``count`` of the places, spread evenly."""
    return places[:: max(1, len(places) // count)]


def _decoded(split: Split, places: list[int]) -> Iterator[Image.Image]:
    for place in places:
        try:
            yield split.image(place)
        except Unreadable:
            continue


def stored_bytes(
    split: Split, places: list[int], resize: int | None, size: int, image_format: ImageFormat, quality: int
) -> float:
    """Return the mean bytes of these pictures as a distilled set stores them; raises AttarError if none can be read."""
    import torch

    from attar.store.images import encode

    squares = (prepare(picture, size, resize) for picture in _decoded(split, places))
    found = [len(encode(torch.from_numpy(one).permute(2, 0, 1), image_format, quality)) for one in squares]
    if not found:
        raise AttarError(f"None of {len(places)} pictures can be read; the first is {split.where(places[0])}.")
    return sum(found) / len(found)


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels[..., :1] == pixels).all())
