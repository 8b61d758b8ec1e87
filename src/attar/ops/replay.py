"""Draw views of a small set's images and replay them, so that teacher and student see exactly the same view."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.ops import augment, dsa, mixing, mosaic, views
from attar.ops.augment import Patches, RandAugment
from attar.ops.choices import PLAIN, LookChoice, MixChoice, Storage
from attar.ops.mixing import Mix
from attar.ops.mosaic import Part
from attar.ops.pixels import Normalisation, to_bytes
from attar.ops.views import View

ROOM_BYTES = 2**30
"""Memory limit for the views of all images of an epoch."""
NORMAL = Normalisation((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
"""Normalisation for Siamese augmentation, close to that of photographs: its fill value is mid grey, as published."""


@dataclass(frozen=True)
class Look:
    """All augmentation of each single image, before mixing; one record per image."""

    view: View
    patches: Patches | None = None
    """Order of the shuffled patches, applied before cropping; None: no shuffling."""
    randaugment: RandAugment | None = None
    """RandAugment operations, applied after flipping or before cropping; None: no RandAugment."""
    part: Part | None = None
    """Which part of a stored image is shown, applied first; None: stored images hold one image each."""
    siamese: dsa.Drawn | None = None
    """Differentiable Siamese augmentation, applied last; None: no such augmentation."""

    def __len__(self) -> int:
        return len(self.view)

    def take(self, index: Tensor | slice) -> Self:
        """Return the records at these indices."""
        return type(self)(
            self.view.take(index),
            None if self.patches is None else self.patches[index],
            None if self.randaugment is None else self.randaugment.take(index),
            None if self.part is None else self.part.take(index),
            None if self.siamese is None else self.siamese.take(index),
        )

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return all tensors of the records."""
        changes = None if self.randaugment is None else self.randaugment.changes
        part = None if self.part is None else self.part.number
        levels = None if self.siamese is None else self.siamese.levels
        return *self.view.parts(), self.patches, changes, part, levels


@dataclass(frozen=True)
class Records:
    """The augmentation and mixing of each image of a set in one epoch, on the CPU."""

    look: Look
    mix: Mix | None = None
    partner_look: Look | None = None
    """The augmentation of each image's partner; set together with ``mix``."""

    def __len__(self) -> int:
        return len(self.look)

    def take(self, index: Tensor | slice) -> Self:
        """Return the records at these indices; partners keep their numbers in the whole set."""
        return type(self)(
            self.look.take(index),
            None if self.mix is None else self.mix.take(index),
            None if self.partner_look is None else self.partner_look.take(index),
        )


def draw(
    num_images: int,
    size: tuple[int, int],
    looks: LookChoice,
    mix: MixChoice,
    generator: torch.Generator,
    order: Int[Tensor, " image"] | None = None,
    storage: Storage = PLAIN,
    epoch: int = 0,
) -> Records:
    """Draw one epoch's records of a set of images; a partner has the same augmentation as in its own record.

    If batches share a mix, ``order`` is the order in which images fill the batches. ``storage`` says how the set's
    images are decoded. ``epoch`` decides which part of them is shown where parts take turns.
    """
    view = looks.draw(num_images, *size, generator)
    mixed = mix.draw(num_images, *size, generator, order)
    patches, randaugment = None, None
    if looks.patch_shuffle > 1:
        patches = augment.draw_patches(num_images, looks.patch_shuffle, generator)
    if looks.randaugment_ops:
        randaugment = augment.draw_changes(num_images, looks, generator)
    part, siamese = None, None
    if storage.factor > 1:
        if looks.part_order == "in-turn":
            part = mosaic.in_turn(storage, num_images, epoch)
        else:
            part = mosaic.draw(storage, looks.part_probability, num_images, generator)
    if looks.dsa:
        siamese = dsa.Drawn(dsa.sample(looks.dsa, looks.dsa_combine, num_images, generator), looks.dsa)
    look = Look(view, patches, randaugment, part, siamese)
    return Records(look, mixed, None if mixed is None else look.take(mixed.partner))


def published_orders(
    labels: Int[Tensor, " image"], slots: Int[Tensor, " image"], seed: int = 42
) -> Iterator[Int[Tensor, " image"]]:
    """Yield the order of the images in each epoch of the published FKD scripts, endlessly.

    The scripts number images as torchvision's ImageFolder does: by class, then by slot. They use one generator for all
    epochs; PyTorch's RandomSampler draws a second, unused permutation at the end of each epoch.
    """
    counted = (labels.to(torch.int64) * (int(slots.max()) + 1) + slots).argsort(stable=True)
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield counted[torch.randperm(len(counted), generator=generator)]
        torch.randperm(len(counted), generator=generator)


def published_order(
    labels: Int[Tensor, " image"], slots: Int[Tensor, " image"], epoch: int, seed: int = 42
) -> Int[Tensor, " image"]:
    """Return the order of one epoch from ``published_orders``."""
    return next(itertools.islice(published_orders(labels, slots, seed), epoch, None))


def show(
    images: UInt8[Tensor, "all 3 height width"],
    index: Int[Tensor, " image"],
    records: Records,
    device: torch.device | None = None,
) -> Float[Tensor, "image 3 height width"]:
    """Return the augmented and mixed images at ``index``, in [0, 1], on ``device`` (default: the images' device).

    If the images are on another device, only those that are needed are moved, as bytes.
    """
    device = images.device if device is None else device
    own = _augmented(images, index, records.look.take(index), device)
    if records.mix is None or records.partner_look is None:
        return own
    mix = records.mix.take(index)
    return mixing.apply(own, _augmented(images, mix.partner, records.partner_look.take(index), device), mix, out=own)


class ShownEpoch:
    """Yields batches of one epoch's views; computes a view once even if it is also mixed into another image."""

    def __init__(
        self,
        images: UInt8[Tensor, "all 3 height width"],
        records: Records,
        device: torch.device | None = None,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        """Keeps views on ``device`` if the views of all images take at most ``room_bytes``."""
        self._images, self._records = images, records
        self._device = images.device if device is None else device
        self._views: Tensor | None = None
        size = images[0].numel() * 4
        if records.mix is not None and _alike(records, records.mix.partner) and len(images) * size <= room_bytes:
            self._views = torch.empty(images.shape, device=self._device)
            self._place = torch.full((len(images),), -1)  # views are stored in the order in which they are made
            self._num_made = 0

    def show(self, index: Int[Tensor, " image"]) -> Float[Tensor, "image 3 height width"]:
        """Return the augmented and mixed images at ``index``, bit for bit equal to the function ``show``."""
        if self._views is None or self._records.mix is None:
            return show(self._images, index, self._records, self._device)
        mix = self._records.mix.take(index)
        wanted = torch.cat([index, mix.partner])
        missing = wanted[self._place[wanted] < 0].unique()
        if len(missing):
            room = slice(self._num_made, self._num_made + len(missing))
            look = self._records.look.take(missing)
            _augmented(self._images, missing, look, self._device, self._views[room])
            self._place[missing] = torch.arange(room.start, room.stop)
            self._num_made = room.stop
        places = (self._place[each].to(self._device) for each in (index, mix.partner))
        own, partners = (self._views.index_select(0, place) for place in places)
        return mixing.apply(own, partners, mix, out=own)


def _alike(records: Records, partner: Int[Tensor, " image"]) -> bool:
    """Return whether every partner has the same augmentation as in its own record; in a pool this is not so."""
    if records.partner_look is None:
        return False
    pairs = zip(records.look.take(partner).tensors(), records.partner_look.tensors(), strict=True)
    return all(
        one is other or (one is not None and other is not None and torch.equal(one, other)) for one, other in pairs
    )


def _augmented(
    images: UInt8[Tensor, "all 3 height width"],
    index: Int[Tensor, " image"],
    look: Look,
    device: torch.device,
    out: Tensor | None = None,
) -> Tensor:
    before = look.randaugment if look.randaugment is not None and look.randaugment.place == "before-crop" else None
    if look.part is not None or look.patches is not None or before is not None or images.device != device:
        images = images[index.to(images.device)].to(device)
        index = torch.arange(len(index))
    decoded = images if look.part is None else mosaic.show(images, index, look.part)
    if look.patches is not None:
        decoded = augment.shuffle(decoded, look.patches)
    if before is not None:
        decoded = augment.change(decoded if decoded.dtype == torch.uint8 else to_bytes(decoded), before)
    if decoded.dtype == torch.uint8:
        seen = views.apply_to_bytes(decoded, index, look.view, out)
    else:
        seen = decoded if _is_whole(look.view, images.shape[-2:]) else views.apply(decoded, look.view)
    if look.randaugment is not None and before is None:
        seen = augment.change(seen, look.randaugment)
    if look.siamese is not None:
        levels, kinds = look.siamese.levels, look.siamese.kinds
        seen = NORMAL.undo(dsa.apply(NORMAL.apply(seen), levels, kinds))
    return seen if out is None or seen is out else out.copy_(seen)


def _is_whole(view: View, size: torch.Size) -> bool:
    """Return whether these views are the unchanged images, so that applying them is not needed."""
    return bool((view.box == torch.tensor([0, 0, *size])).all()) and not (view.flip.any() or view.shift.any())
