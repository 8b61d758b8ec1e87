"""Batches of real images, from memory or straight from files, behind one interface."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.log import Log
from attar.core.ranks import WHOLE, Part
from attar.data.choice import DataChoice
from attar.data.decoded import Pixels, RealBatch, pixels
from attar.data.order import spread
from attar.data.source import Split
from attar.data.streaming import Streaming
from attar.ops import cutout
from attar.ops.choices import NO_AUGMENTATION, RealAugmentation, ViewChoice
from attar.ops.pixels import Normalisation, from_bytes
from attar.ops.views import View, apply

RESIDENT_BYTES = 4 * 1024**3
MEASURED_IMAGES = 10_000
FLAT = 0.02
"""Of images with a smaller standard deviation, in pixels of [0, 1], something is probably wrong."""
_CHUNK = 16_384


class Feed(Protocol):
    """A split's images, prepared, as batches."""

    labels: np.ndarray
    """int64, in the split's order."""

    @property
    def num_images(self) -> int:
        """How many images ``labels`` counts."""
        ...

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
        """Every image once, shuffled, each in one augmented view, on the device; from the batch ``first`` on.

        ``augmentation`` hides and changes the views. Order, views and augmentation are a function of the generator
        alone. The last batch may be smaller; it is left out when it would be a single image, on which BatchNorm cannot
        train. With a ``part`` every batch holds the images of that part only, so that all parts have equally many
        batches. Where unreadable images are skipped, a batch may be empty.
        """
        ...

    def plain(self, batch_size: int, device: torch.device | str) -> Iterator[RealBatch]:
        """Every image once, in order, whole, on the device."""
        ...

    def spread(self, count: int) -> list[int]:
        """Places in ``labels`` of ``count`` images, evenly spaced; of all if there are fewer."""
        ...

    def take(self, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """Whole images by their places in ``labels``, on the CPU."""
        ...


class Resident:
    """A feed whose images lie on the device, as bytes; views are cut there, in batches."""

    def __init__(self, content: Pixels, device: torch.device | str) -> None:
        self.labels = content.labels.cpu().numpy()
        self._images = content.images.to(device)
        self._labels = content.labels.to(device)

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
        """As in Feed; resized crops are cut from the prepared square image."""
        order = torch.randperm(self.num_images, generator=generator)
        height, width = self._images.shape[-2:]
        drawn = _draw(views, self.num_images, height, width, generator)
        hidden = cutout.draw(augmentation, self.num_images, height, width, generator)
        for start in range(first * batch_size, self.num_images, batch_size):
            count = min(batch_size, self.num_images - start)
            if count == 1 < min(batch_size, self.num_images):
                return
            own = part.of(count)
            places = slice(start + own.start, start + own.stop)
            rows = order[places].to(self._images.device)
            images = apply(from_bytes(self._images[rows]), drawn.take(places))
            if hidden is not None:
                images = cutout.apply(images, hidden.take(places))
            yield images.to(device), self._labels[rows].to(device)

    def plain(self, batch_size: int, device: torch.device | str) -> Iterator[RealBatch]:
        for start in range(0, self.num_images, batch_size):
            part = slice(start, start + batch_size)
            yield from_bytes(self._images[part].to(device)), self._labels[part].to(device)

    def spread(self, count: int) -> list[int]:
        return spread(self.num_images, None, count)

    def take(self, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        return self._images[torch.as_tensor(indices, dtype=torch.int64, device=self._images.device)].cpu()


def open_feed(
    split: Split,
    choice: DataChoice,
    workers: int,
    device: torch.device | str,
    log: Log,
    what: str = "reading",
    *,
    all_classes: bool = True,
) -> Feed:
    """The feed of a split, resident or not as ``choice.resident`` says; ``what`` names the progress bar.

    Without ``all_classes`` a class may lose all of its images where unreadable ones are skipped. ``workers`` processes
    decode for a feed that is not resident. Raises AttarError when a resident image is unreadable.
    """
    if is_resident(len(split), choice):
        return Resident(pixels(split, choice, log, what, all_classes=all_classes), device)
    return Streaming(split, choice, workers, log)


def is_resident(num_images: int, choice: DataChoice) -> bool:
    """Whether a split of this many images is held in memory."""
    small = num_images * 3 * choice.size**2 <= RESIDENT_BYTES
    return choice.resident == "on" or (choice.resident == "auto" and small)


def measure_normalisation(feed: Feed, log: Log) -> Normalisation:
    """Mean and standard deviation of each channel, to four decimals, over up to 10,000 evenly spaced images.

    Sums are exact, so the figures depend on nothing but the pixels. A deviation is at least 0.01.
    """
    indices = np.array(feed.spread(MEASURED_IMAGES))
    count = len(indices)
    total = torch.zeros(3, dtype=torch.int64)
    squares, num_pixels = torch.zeros_like(total), 0
    with log.progress("measuring", count, unit="images") as advance:
        for part in np.array_split(indices, -(-count // 256)):
            images = feed.take(part.tolist()).to(torch.int64)
            total += images.sum(dim=(0, 2, 3))
            squares += images.square().sum(dim=(0, 2, 3))
            num_pixels += images[:, 0].numel()
            advance(len(part))
    mean = total.double() / num_pixels
    std = (squares.double() / num_pixels - mean.square()).clamp_min(0).sqrt()
    means = [round(value / 255, 4) for value in mean.tolist()]
    stds = [max(0.01, round(value / 255, 4)) for value in std.tolist()]
    log.event("normalisation", mean=means, std=stds, num_images=count)
    if max(stds) < FLAT:
        log.warn(
            f"the training images are nearly of one colour (standard deviation {max(stds):.3f} of 1); where they have "
            f"16 bits and use a part of them only, as 12-bit scans do, write them anew with the full range"
        )
    return Normalisation((means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))


def _draw(views: ViewChoice, count: int, height: int, width: int, generator: torch.Generator) -> View:
    """All views of an epoch, whatever the batch size; drawn in chunks, because a draw needs much more than it gives."""
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    parts = [views.draw(size, height, width, generator) for size in sizes]
    return View(
        torch.cat([part.box for part in parts]),
        torch.cat([part.flip for part in parts]),
        torch.cat([part.shift for part in parts]),
    )
