"""Read soft labels in the published FKD layout as attar's own: one record per epoch and image."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops import replay
from attar.ops.codec import Codec, EncodedLogits
from attar.ops.mixing import Mix, MixChoice
from attar.ops.replay import Look, LookChoice, Records
from attar.ops.views import View
from attar.store import fkd
from attar.store.fkd import FkdBatch
from attar.store.images import ImageSet
from attar.store.labels import EpochLabels

PIXEL = 0.01
"""Tolerance in pixels when a crop's edges must be whole pixels; the file stores fractions in float32."""
CERTAIN = 4.0
"""Standard deviations above the chance rank that the labels' mean rank must exceed to count as matching the images."""
MARGIN = 5.0
"""The smallest of n crop areas is almost always less than MARGIN / n above the lower bound of areas."""
ALWAYS = 0.8
"""Rank that any teacher reaches. If chance can reach it too, there are too few images for a check."""


class PublishedLabels:
    """A folder of soft labels in the FKD layout, together with the images that they belong to."""

    def __init__(
        self,
        folder: Path,
        images: ImageSet,
        num_classes: int,
        advance: Callable[[int], object] = lambda _: None,
        seed: int = 42,
    ) -> None:
        """Check all files; calls ``advance`` after each. ``seed`` is that of the published sampler.

        Raises AttarError for a missing, damaged or unknown file, and when the labels belong to another set: another
        number of images, other classes, another image size, or another order.
        """
        self.layout = fkd.scan(folder, advance)
        self._height, self._width = images.images.shape[2:]
        self._labels, self._seed = images.labels, seed
        self._slots = images.slots
        self._orders: Iterator[Tensor] = iter(())
        self._next_epoch = 0
        self._usual, self._varies, self._views = 0.0, 0.0, LookChoice()
        if self.layout.num_images != len(images.images):
            raise AttarError(
                f"The labels in {folder} are for {self.layout.num_images} images, but there are {len(images.images)}; "
                f"use the images that they were made for."
            )
        if self.layout.num_classes != num_classes:
            raise AttarError(
                f"The labels in {folder} are for {self.layout.num_classes} classes, but the data have {num_classes}; "
                f"use labels of these classes."
            )
        self._refuse_strangers()

    @property
    def num_epochs(self) -> int:
        """Number of epochs of labels."""
        return self.layout.num_epochs

    @property
    def views(self) -> LookChoice:
        """The view settings, inferred from the first epoch's views because no file records them."""
        return self._views

    @property
    def mix(self) -> MixChoice:
        """The mixing settings; ``alpha``, which no file records, has the published commands' default."""
        if self.layout.kind == "none":
            return MixChoice()
        alpha = 0.8 if self.layout.kind == "mixup" else 1.0
        return MixChoice(kind=self.layout.kind, alpha=alpha, shared_by=self.layout.batch_size)

    def epoch(self, epoch: int, codec: Codec) -> EpochLabels:
        """Return the records of an epoch in image order; fastest when epochs are read in order.

        Raises AttarError when a file has changed, or does not fit these images.
        """
        layout, count = self.layout, self.layout.num_images
        box, flip = torch.empty(count, 4, dtype=torch.int64), torch.empty(count, dtype=torch.bool)
        partner, mix_box = torch.empty(count, dtype=torch.int64), torch.empty(count, 4, dtype=torch.int64)
        weight, answers = torch.empty(count), EncodedLogits(count, codec)
        for path, found, index in self._batches(epoch):
            self._refuse_swapped(found, index, path)
            box[index], flip[index] = self._boxes(found, path), found.flip
            answers.put(index, found.logits)
            if found.partner is not None:
                partner[index] = index[found.partner]
                mix_box[index], weight[index] = self._mixed(found, path)
        look = Look(View(box, flip, torch.zeros(count, 2, dtype=torch.int64)))
        if layout.kind == "none":
            return EpochLabels(Records(look), answers.parts)
        mix = Mix(partner, mix_box if layout.kind == "cutmix" else None, weight)
        return EpochLabels(Records(look, mix, look.take(partner)), answers.parts)

    def _batches(self, epoch: int) -> Iterator[tuple[Path, FkdBatch, Int[Tensor, " image"]]]:
        """Yield the files of an epoch, their content, and the indices of their images."""
        order = self._order(epoch)
        for batch in range(self.layout.num_batches):
            path = self.layout.path(epoch, batch)
            found = fkd.read_batch(path)
            fkd.check(self.layout, epoch, batch, found)
            if not found.logits.isfinite().all():
                raise AttarError(f"{path} holds logits that are not finite; copy or download it again.")
            yield path, found, order[self.layout.rows(batch)]

    def _order(self, epoch: int) -> Int[Tensor, " image"]:
        """Return the image order of an epoch, as the published sampler draws it."""
        if epoch < self._next_epoch or not self._next_epoch:
            self._orders, self._next_epoch = replay.published_orders(self._labels, self._slots, self._seed), 0
        for _ in range(self._next_epoch, epoch):
            next(self._orders)
        self._next_epoch = epoch + 1
        return next(self._orders)

    def _boxes(self, found: FkdBatch, path: Path) -> Int[Tensor, "image 4"]:
        """Return the crops in pixels."""
        size = torch.tensor([self._height, self._width, self._height, self._width], dtype=torch.float64)
        edges = found.coords.to(torch.float64) * size
        box = edges.round()
        if (edges - box).abs().max() > PIXEL:
            raise AttarError(
                f"The crops in {path} are not whole pixels in images of {self._height}x{self._width}; the labels are "
                f"for images of another size."
            )
        return box.to(torch.int64)

    def _mixed(self, found: FkdBatch, path: Path) -> tuple[Int[Tensor, " 4"], float]:
        """The CutMix box, as top, left, height, width, and the image's own share of the mixture."""
        if found.box is None:
            return torch.zeros(4, dtype=torch.int64), found.share or 0.0
        top, left, bottom, right = found.box
        if bottom > self._height or right > self._width:
            raise AttarError(
                f"The box that {path} mixes reaches beyond images of {self._height}x{self._width}; the labels are for "
                f"images of another size."
            )
        box = torch.tensor([top, left, bottom - top, right - left])
        # Not the share in the file: that was drawn before the box was cut off at the image's border.
        share = 1 - (box[2] * box[3]).to(torch.float32) / (self._height * self._width)
        return box, float(share)

    def _ranks(self, found: FkdBatch, index: Int[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Return the fraction of classes ranked below the image's class, or its mix partner's if that ranks higher."""
        known, logits = [self._labels[index]], found.logits.float()
        if found.partner is not None:
            known.append(known[0][found.partner])
        ranks = [(logits < logits.gather(1, label[:, None])).float().sum(1) for label in known]
        return torch.stack(ranks).amax(0) / (logits.shape[1] - 1)

    def _by_chance(self, num_images: int) -> float:
        """Return the highest mean rank that labels of other images would reach by chance."""
        mixed = self.layout.kind != "none"
        mean, deviation = (2 / 3, 18**-0.5) if mixed else (1 / 2, 12**-0.5)  # of the best of two draws, of one
        return mean + CERTAIN * deviation / num_images**0.5

    def _refuse_strangers(self) -> None:
        """Raise AttarError when the labels rank the images' classes no higher than chance, as those of another set.

        Accepts everything when there are too few images to tell.
        """
        parts, boxes, flips = [], [], []
        for path, found, index in self._batches(0):
            boxes.append(self._boxes(found, path))
            flips.append(found.flip)
            if found.partner is not None:
                self._mixed(found, path)
            parts.append(self._ranks(found, index))
        self._views = views_seen(torch.cat(boxes), torch.cat(flips), self._height, self._width)
        ranks = torch.cat(parts)
        self._usual, self._varies = float(ranks.mean()), float(ranks.std(correction=0))
        if self._usual <= self._by_chance(self.layout.num_images) < ALWAYS:
            raise AttarError(
                f"The labels in {self.layout.folder} rank the classes of their images no higher than chance; use the "
                f"images that they were made for, in the same classes and order."
            )

    def _refuse_swapped(self, found: FkdBatch, index: Tensor, path: Path) -> None:
        """Raise AttarError when one file ranks its images' classes no higher than chance, unlike the first epoch."""
        rank, expected = (
            float(self._ranks(found, index).mean()),
            self._usual - CERTAIN * self._varies / len(index) ** 0.5,
        )
        if rank <= self._by_chance(len(index)) < ALWAYS and rank < expected:
            raise AttarError(
                f"{path} ranks the classes of its images no higher than chance, unlike the other files; it was "
                f"swapped with another, so restore the file of that name from the original set."
            )


def views_seen(box: Int[Tensor, "image 4"], flip: Bool[Tensor, " image"], height: int, width: int) -> LookChoice:
    """Infer view settings from drawn views: kind of crop, smallest area, and whether views are flipped."""
    flips = bool(flip.any())
    if bool((box[:, 2:] == box.new_tensor([height, width])).all()):
        reach = int(box[:, :2].abs().max())
        return LookChoice(crop="padded", padding=reach, flip=flips) if reach else LookChoice(crop="none", flip=flips)
    smallest, usual = float((box[:, 2] * box[:, 3]).min()) / (height * width), LookChoice().min_scale
    if smallest < usual + MARGIN / len(box):
        return LookChoice(flip=flips)
    return LookChoice(min_scale=math.floor(100 * smallest) / 100, flip=flips)
