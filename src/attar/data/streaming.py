"""Batches decoded while they are needed, for datasets that don't fit in memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.randomness import generator as stream
from attar.core.ranks import WHOLE, Part
from attar.data.choice import DataChoice
from attar.data.decoded import RealBatch, tell_skipped
from attar.data.picture import Unreadable, prepare
from attar.data.source import Split
from attar.ops.pixels import from_bytes, to_bytes
from attar.ops.views import ViewChoice, apply


@dataclass(frozen=True)
class _Read:
    """What a worker makes of one batch's indices; faults travel as values, to be raised in the main process."""

    images: UInt8[Tensor, "read 3 height width"]
    labels: Int[Tensor, "read"]  # noqa: F821
    faults: list[tuple[str, str]]

    def pin_memory(self) -> "_Read":
        return _Read(self.images.pin_memory(), self.labels.pin_memory(), self.faults)


class Streaming:
    """A feed that decodes images in worker processes; its result does not depend on their number."""

    def __init__(self, split: Split, choice: DataChoice, workers: int, log: Log) -> None:
        """``workers`` 0 decodes in this process."""
        self.labels = split.labels
        self._split, self._choice, self._workers, self._log = split, choice, workers, log
        self._told: set[str] = set()

    @property
    def num_images(self) -> int:
        return len(self.labels)

    def epoch(
        self,
        batch_size: int,
        views: ViewChoice,
        generator: torch.Generator,
        device: torch.device | str,
        part: Part = WHOLE,
    ) -> Iterator[RealBatch]:
        """As in Feed; resized crops are cut from the original image. Raises AttarError on an unreadable image.

        Skipped images make their batch smaller, and are reported when the epoch ends. With a ``part`` the processes of
        all parts must read the epoch to its end.
        """
        order = torch.randperm(self.num_images, generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        rows = [batch[part.of(len(batch))] for batch in order.split(batch_size)]
        shared = part.size > 1
        for images, labels in self._batches(rows, _Views(self._split, self._choice, views, seed), device, shared):
            if shared or not len(images) == 1 < min(batch_size, self.num_images):
                yield images, labels

    def plain(self, batch_size: int, device: torch.device | str) -> Iterator[RealBatch]:
        """As in Feed; skipped images make their batch smaller. Raises AttarError on an unreadable image."""
        rows = torch.arange(self.num_images).split(batch_size)
        return self._batches(rows, _Whole(self._split, self._choice), device)

    def take(self, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """As in Feed; where unreadable images are skipped, the next readable one of the class replaces each."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return torch.stack(list(pool.map(self._take, indices)))

    def _take(self, index: int) -> UInt8[Tensor, "3 height width"]:
        whole = _Whole(self._split, self._choice)
        try:
            return whole.picture(index)
        except Unreadable:
            if self._choice.on_corrupt == "stop":
                raise
            alike = np.flatnonzero(self.labels == self.labels[index])
            for other in np.roll(alike, -int(np.searchsorted(alike, index)))[1:]:
                try:
                    return whole.picture(int(other))
                except Unreadable:
                    continue
            raise

    def _batches(
        self, rows: Sequence[Tensor], pictures: "_Whole", device: torch.device | str, shared: bool = False
    ) -> Iterator[RealBatch]:
        """Yield the images of each batch, from ``rows``, their places in the split.

        If batches are ``shared`` with other processes, those without readable images are yielded, too.
        """
        loader = DataLoader(
            pictures,
            batch_size=None,
            sampler=[batch.tolist() for batch in rows],
            num_workers=self._workers,
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # else the loader draws from the global random state
        )
        skipped: list[Unreadable] = []
        for read in loader:
            faults = [Unreadable(where, reason) for where, reason in read.faults]
            if faults and self._choice.on_corrupt == "stop":
                raise faults[0]
            skipped += faults
            if shared or len(read.labels):
                images = read.images.to(device, non_blocking=True)
                yield from_bytes(images), read.labels.to(device, non_blocking=True)
        self._tell(skipped, sum(ranks.counts(len(skipped))) if shared else len(skipped))

    def _tell(self, skipped: list[Unreadable], total: int) -> None:
        """Report this process's unreadable images; ``total`` counts those of all processes that share the epoch."""
        if total >= self.num_images:
            raise AttarError(f"None of the {self.num_images} images can be read, the first is {skipped[0].where}.")
        new = [error for error in skipped if error.where not in self._told]
        if new:
            self._told |= {error.where for error in new}
            tell_skipped(skipped, self.num_images, self._log, total)


class _Whole(Dataset[_Read]):
    """Batches of whole, prepared images, by their indices."""

    def __init__(self, split: Split, choice: DataChoice) -> None:
        self._split, self._size, self._resize = split, choice.size, choice.resize

    def __getitem__(self, indices: list[int]) -> _Read:
        images, labels, faults = [], [], []
        for index in indices:
            try:
                images.append(self.picture(index))
                labels.append(int(self._split.labels[index]))
            except Unreadable as error:
                faults.append((error.where, error.reason))
        empty = torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
        return _Read(torch.stack(images) if images else empty, torch.tensor(labels, dtype=torch.int64), faults)

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """One image; raises Unreadable."""
        return _tensor(prepare(self._split.image(index), self._size, self._resize))


class _Views(_Whole):
    """The same, each image in a view of its own, drawn under the epoch's seed and the image's index."""

    def __init__(self, split: Split, choice: DataChoice, views: ViewChoice, seed: int) -> None:
        super().__init__(split, choice)
        self._views, self._seed = views, seed

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """One view of one image; raises Unreadable."""
        picture, draws = self._split.image(index), stream(self._seed, "view", index)
        if self._views.crop != "resized":
            whole = _tensor(prepare(picture, self._size, self._resize))
            view = self._views.draw(1, self._size, self._size, draws)
            return to_bytes(apply(from_bytes(whole[None]), view))[0]
        view = self._views.draw(1, picture.height, picture.width, draws)
        top, left, height, width = view.box[0].tolist()
        square = (self._size, self._size)
        cut = picture.resize(square, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        return _tensor(np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if bool(view.flip) else cut))


def _tensor(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 height width"]:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
