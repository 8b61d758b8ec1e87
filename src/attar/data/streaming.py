"""Batches decoded while they are needed, for datasets that don't fit in memory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
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
from attar.data.fetched import Fetched
from attar.data.order import shuffled, spread
from attar.data.picture import Unreadable, prepare
from attar.data.source import Split
from attar.ops import cutout
from attar.ops.choices import NO_AUGMENTATION, RealAugmentation
from attar.ops.pixels import from_bytes, to_bytes
from attar.ops.views import ViewChoice, apply

FETCHING_THREADS = 4
"""Blocks of remote data that a process fetches at the same time, ahead of their use."""
_LOCAL = (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True)
class _Read:
    """What a worker makes of one batch's indices; faults travel as values, to be raised in the main process."""

    images: UInt8[Tensor, "read 3 height width"]
    labels: Int[Tensor, "read"]  # noqa: F821
    faults: list[tuple[str, str]]
    failure: str = ""
    """The sentence that ends the run, if the data cannot be reached."""

    def pin_memory(self) -> "_Read":
        return _Read(self.images.pin_memory(), self.labels.pin_memory(), self.faults, self.failure)


class Streaming:
    """A feed that decodes images in worker processes; its result does not depend on their number."""

    def __init__(self, split: Split, choice: DataChoice, workers: int, log: Log) -> None:
        """``workers`` 0 decodes in this process. With ``choice.window`` epochs go from block to block of the split."""
        self.labels = split.labels
        self._split, self._choice, self._workers, self._log = split, choice, workers, log
        self._told: set[str] = set()
        needed = _bytes_of_two_windows(split, choice.window) if choice.cache_bytes else 0
        if choice.cache_bytes and needed > choice.cache_bytes:
            what = f"two windows of {choice.window:,} images" if choice.window else "the shards of a split"
            log.warn(
                f"data.cache_bytes ({choice.cache_bytes:,}) holds less than {what}, about {needed:,} bytes, so shards "
                f"are fetched several times in an epoch; raise it, or {'lower' if choice.window else 'set'} "
                f"--data.window-images"
            )

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
        first: int = 0,
        augmentation: RealAugmentation = NO_AUGMENTATION,
    ) -> Iterator[RealBatch]:
        """As in Feed; resized crops are cut from the original image. Raises AttarError on an unreadable image.

        Skipped images make their batch smaller, and are reported when the epoch ends. With a ``part`` the processes of
        all parts must read the epoch to its end.
        """
        blocks = self._split.blocks() if self._choice.window else None
        order = shuffled(self.num_images, blocks, self._choice.window, generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        batches = order.split(batch_size)[first:]
        if batches and part.size == 1 and len(batches[-1]) == 1 < min(batch_size, self.num_images):
            batches = batches[:-1]
        rows = [batch[part.of(len(batch))] for batch in batches]
        views_of = _Views(self._split, self._choice, views, augmentation, seed)
        return self._batches(rows, views_of, device, batches if part.size > 1 else None, empty=True)

    def plain(self, batch_size: int, device: torch.device | str) -> Iterator[RealBatch]:
        """As in Feed; skipped images make their batch smaller. Raises AttarError on an unreadable image."""
        rows = torch.arange(self.num_images).split(batch_size)
        return self._batches(rows, _Whole(self._split, self._choice), device)

    def spread(self, count: int) -> list[int]:
        """As in Feed; with ``choice.window`` the images lie in evenly spaced blocks."""
        return spread(self.num_images, self._split.blocks() if self._choice.window else None, count)

    def take(self, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """As in Feed; where unreadable images are skipped, the next readable one of the class replaces each."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return torch.stack(list(pool.map(self._take, indices)))

    def _take(self, index: int) -> UInt8[Tensor, "3 height width"]:
        try:
            return self._prepared(index)
        except Unreadable:
            if self._choice.on_corrupt == "stop":
                raise
            alike = np.flatnonzero(self.labels == self.labels[index])
            for other in np.roll(alike, -int(np.searchsorted(alike, index)))[1:]:
                try:
                    return self._prepared(int(other))
                except Unreadable:
                    continue
            raise

    def _prepared(self, index: int) -> UInt8[Tensor, "3 height width"]:
        return _tensor(prepare(self._split.image(index), self._choice.size, self._choice.resize))

    def _batches(
        self,
        rows: Sequence[Tensor],
        pictures: "_Whole",
        device: torch.device | str,
        shared: Sequence[Tensor] | None = None,
        empty: bool = False,
    ) -> Iterator[RealBatch]:
        """Yield the images of each batch, from ``rows``, their places in the split.

        ``shared`` holds the whole batches if other processes read parts of them; ``empty`` yields batches without
        readable images, too.
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
        reading = iter(loader)  # workers are forked here, before there are threads
        try:
            with self._ahead(rows if shared is None else shared, shared is not None) as reach:
                for number, read in enumerate(reading):
                    reach(number)
                    if read.failure:
                        raise AttarError(read.failure)
                    faults = [Unreadable(where, reason) for where, reason in read.faults]
                    if faults and self._choice.on_corrupt == "stop":
                        raise faults[0]
                    skipped += faults
                    if empty or len(read.labels):
                        images = read.images.to(device, non_blocking=True)
                        yield from_bytes(images), read.labels.to(device, non_blocking=True)
        finally:
            del reading  # a traceback that holds this frame would keep the workers waiting
        self._tell(skipped, len(skipped) if shared is None else sum(ranks.counts(len(skipped))))

    @contextlib.contextmanager
    def _ahead(self, batches: Sequence[Tensor], shared: bool) -> Iterator[Callable[[int], None]]:
        """Fetch blocks of remote data a window before their use; yields a function that is called after each batch.

        ``shared`` says that other processes of this machine, which read parts of the same batches, fetch some of them.
        """
        sizes = None if self._choice.cache_bytes is None else self._split.block_bytes()
        blocks = self._split.blocks()
        if sizes is None or blocks is None or not len(batches):
            yield lambda _: None
            return
        fetched = Fetched(batches, blocks, sizes, self._choice.cache_bytes or 0, self._choice.window, int(shared))
        remote, pool = self._split.swept(), ThreadPoolExecutor(FETCHING_THREADS)
        rank, size = (int(os.environ.get(name, default)) for name, default in _LOCAL) if shared else (0, 1)

        def reach(number: int) -> None:
            for block in fetched.finished(number):
                remote.finish(block)
            for block in fetched.wanted(number):
                if block % size == rank:
                    pool.submit(remote.fetch, block)  # what fails here fails again in the worker, which tells

        try:
            reach(-1)
            yield reach
        finally:
            pool.shutdown(cancel_futures=True)

    def _tell(self, skipped: list[Unreadable], total: int) -> None:
        """Report this process's unreadable images; ``total`` counts those of all processes that share the epoch."""
        if total >= self.num_images:
            raise AttarError(f"None of the {self.num_images} images can be read, the first is {skipped[0].where}.")
        new = [error for error in skipped if error.where not in self._told]
        if new:
            self._told |= {error.where for error in new}
            tell_skipped(skipped, self.num_images, self._log, total)


def _bytes_of_two_windows(split: Split, window: int) -> int:
    """Return about how many bytes the blocks of two windows take where they are fetched to; of all without windows."""
    sizes, blocks = split.block_bytes(), split.blocks()
    if sizes is None or blocks is None or not len(split):
        return 0
    used = np.unique(blocks)
    in_window = -(-window * len(used) // len(split))
    return int(sizes[used].mean() * min(len(used), 2 * in_window if window else len(used)))


class _Whole(Dataset[_Read]):
    """Batches of whole, prepared images, by their indices."""

    def __init__(self, split: Split, choice: DataChoice) -> None:
        self._split, self._size, self._resize = split.swept(), choice.size, choice.resize

    def __getitem__(self, indices: list[int]) -> _Read:
        images, labels, faults, failure = [], [], [], ""
        for index in indices:
            try:
                images.append(self.picture(index))
                labels.append(int(self._split.labels[index]))
            except Unreadable as error:
                faults.append((error.where, error.reason))
            except AttarError as error:
                failure = str(error)
                break
        empty = torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
        return _Read(torch.stack(images) if images else empty, torch.tensor(labels, dtype=torch.int64), faults, failure)

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """One image; raises Unreadable."""
        return _tensor(prepare(self._split.image(index), self._size, self._resize))


class _Views(_Whole):
    """The same, each image in a view of its own, drawn under the epoch's seed and the image's index."""

    def __init__(
        self, split: Split, choice: DataChoice, views: ViewChoice, augmentation: RealAugmentation, seed: int
    ) -> None:
        super().__init__(split, choice)
        self._views, self._augmentation, self._seed = views, augmentation, seed

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """One view of one image; raises Unreadable."""
        draws = stream(self._seed, "view", index)
        view = self._view(index, draws)
        hidden = cutout.draw(self._augmentation, 1, self._size, self._size, draws)
        return view if hidden is None else cutout.apply(view[None], hidden)[0]

    def _view(self, index: int, draws: torch.Generator) -> UInt8[Tensor, "3 height width"]:
        picture = self._split.image(index)
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
