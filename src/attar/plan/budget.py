"""Choose how many images per class fit into a number of bytes, labels included, before any is made."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pydantic
import torch

from attar.core.config import worded
from attar.core.log import readable_bytes
from attar.core.randomness import generator
from attar.stages import baselines, label_choice
from attar.stages.choices import Relabel
from attar.stages.recover import RealByClass
from attar.stages.unit_groups import planned
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.synthesis.method import MethodConfig

_GROUP = image_files.ROWS_PER_GROUP
_COUNTED_BYTES = 4096
"""Parquet writes the first and last value of a column again, up to this size, so a shorter image can take more."""
_SAMPLED = 8
"""Images of noise that are encoded to find the largest."""
GIVEN_HEADER_BYTES = 400
"""Bytes of the file of learned labels beside the labels, about."""


@dataclass(frozen=True)
class Choice:
    """How many images fit."""

    ipc: int
    """Images per class; 0 if not even one fits."""
    num_images: int
    most_bytes: int
    """Bytes that the images and labels take at most; of one image per class if it does not fit."""
    why: str
    """What keeps the set from being larger."""


class Sizes:
    """Bytes of a method's images and labels, for any number of images per class."""

    def __init__(self, space: Workspace, method: str, config: MethodConfig, labelling: Relabel | None) -> None:
        """``space`` has the real data: their number limits some methods, and ``random`` stores them as they are.

        ``labelling`` is None for hard labels.
        """
        self._space, self._method, self._config, self._labelling = space, method, config, labelling
        self._num_classes = len(space.real.classes)

    def most_bytes(self, ipc: int) -> int:
        """Return the bytes that ``ipc`` images per class and their labels take at most."""
        return self.image_bytes(ipc) + self.label_bytes(ipc)

    def image_bytes(self, ipc: int) -> int:
        """Return the bytes of the image files at most.

        Those of ``random`` are measured on the very images. Other images count as noise, which no encoder shortens.
        """
        if self._method == "random" and self._space.feed == "resident":
            return self._random_bytes(ipc)
        count = ipc * self._num_classes
        return most_file_bytes(count, self._largest, self._space.real.classes)

    def label_bytes(self, ipc: int) -> int:
        """Return the bytes of the labels at most; none for hard labels."""
        config, count = self._labelling, ipc * self._num_classes
        if config is None:
            return 0
        if config.mode == "given":
            return count * self._num_classes * 4 + GIVEN_HEADER_BYTES
        size, storage = self._space.choice.size, self._config.storage()
        return label_choice.planned_bytes(count, self._num_classes, config, size, storage)

    def choose(self, budget: int) -> Choice:
        """Return the most images per class whose files take at most ``budget`` bytes."""
        most, why = self._limit()
        upper = min(most, budget // (self._num_classes * self._least) + 1)
        ipc = last_fitting(lambda ipc: not self._refusal(ipc) and self.most_bytes(ipc) <= budget, upper)
        if refusal := why if ipc == most else self._refusal(ipc + 1):
            return Choice(ipc, ipc * self._num_classes, self.most_bytes(max(ipc, 1)), refusal)
        over = readable_bytes(self.most_bytes(ipc + 1))
        why = f"{ipc + 1} per class would take up to {over}" if ipc else f"one image per class takes up to {over}"
        return Choice(ipc, ipc * self._num_classes, self.most_bytes(max(ipc, 1)), why)

    def _limit(self) -> tuple[int, str]:
        """Return the most images per class that the real data allow, and what limits them."""
        taken = self._config.real_per_image()
        if not taken:
            return 10**9, ""
        name, count = baselines.fewest(self._space)
        return count // taken, f"the class '{name}' has {count} real images"

    def _refusal(self, ipc: int) -> str:
        """Return why the method's settings do not allow as many images per class; '' if they do."""
        try:
            self._config.changed(ipc=ipc, ipc_start=0)
        except pydantic.ValidationError as error:
            return worded(error.errors()[0], "")
        return ""

    @property
    def _least(self) -> int:
        """Bytes of the smallest image that counts in the search's upper end."""
        return 1 if self._method == "random" else min(self._largest, _COUNTED_BYTES)

    @cached_property
    def _largest(self) -> int:
        return noise_bytes(self._config, self._space.choice.size)

    def _random_bytes(self, ipc: int) -> int:
        config = self._config.changed(ipc=ipc)
        units = [unit for group in planned(self._num_classes, config) for unit in group]
        rows = ((label, slot) for unit in units for label, slot in zip(unit.labels, unit.slots, strict=True))
        return _written(((self._real(label, slot), label, slot) for label, slot in rows), self._space.real.classes)

    def _real(self, label: int, slot: int) -> bytes:
        if (label, slot) not in self._encoded:
            config, real = self._config, self._real_by_class
            if label not in self._orders:
                stream = generator(self._space.seed, "recover", "order", real.class_name(label))
                self._orders[label] = torch.randperm(real.count(label), generator=stream).tolist()
            image = real.take(label, [self._orders[label][slot]])[0]
            self._encoded[label, slot] = image_files.encode(image, config.image_format, config.image_quality)
        return self._encoded[label, slot]

    @cached_property
    def _real_by_class(self) -> RealByClass:
        return RealByClass(self._space)

    @cached_property
    def _encoded(self) -> dict[tuple[int, int], bytes]:
        return {}

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        return {}


def noise_bytes(config: MethodConfig, side: int) -> int:
    """Return the bytes of an encoded image of noise, which no encoder shortens."""
    stream = generator(0, "budget", side)
    drawn = torch.randint(0, 256, (_SAMPLED, 3, side, side), generator=stream, dtype=torch.uint8)
    return max(len(image_files.encode(image, config.image_format, config.image_quality)) for image in drawn)


def most_file_bytes(count: int, largest: int, classes: tuple[str, ...]) -> int:
    """Return the bytes of the files of ``count`` images of at most ``largest`` bytes each."""
    return max(_file_bytes(count, size, classes) for size in {largest, min(largest, _COUNTED_BYTES)})


@cache
def _file_bytes(count: int, size: int, classes: tuple[str, ...]) -> int:
    """Return the bytes of the files of ``count`` images of ``size`` bytes each; exact up to two groups of rows."""
    if count > 2 * _GROUP:  # whole groups take as much each
        more = _file_bytes(2 * _GROUP, size, classes) - _file_bytes(_GROUP, size, classes)
        return _file_bytes(_GROUP + count % _GROUP, size, classes) + (count // _GROUP - 1) * more
    numbers = ((place, place % len(classes), place // len(classes)) for place in range(count))
    rows = ((place.to_bytes(8, "big") + bytes(size - 8), label, slot) for place, label, slot in numbers)
    return _written(rows, classes)


def last_fitting(fits: Callable[[int], bool], upper: int) -> int:
    """Return the largest number up to ``upper`` that fits, 0 if 1 does not; what fits has no gaps.

    Steps double from 1, so nothing much larger than the answer is looked at.
    """
    least, step = 0, 1
    while least < upper and fits(min(least + step, upper)):
        least, step = min(least + step, upper), 2 * step
    beyond = min(least + step, upper + 1)
    while beyond - least > 1:
        middle = (least + beyond) // 2
        least, beyond = (middle, beyond) if fits(middle) else (least, middle)
    return least


def _written(rows: Any, classes: tuple[str, ...]) -> int:
    """Return the bytes of these rows on disk, by writing them to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        return image_files.write(Path(folder), rows, classes)
