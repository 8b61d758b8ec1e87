"""Relabelling and student training as the published scripts do them (FKD in SRe2L and CDA), written out.

A folder of JPEG files, decoded, cropped and flipped by PIL in two workers of a DataLoader whenever an image is needed;
one CutMix for a whole batch; one file of labels a batch, which is read back when its crops are replayed. Kept
fair: workers persist, memory is pinned where there is a GPU, and the crops are replayed by a dataset of batches where
the scripts patch PyTorch's fetcher. That files also hold the order of the images takes the place of a seeded sampler.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as tv

from attar.ops.pixels import Normalisation

NUM_WORKERS = 2


class Augmented(ImageFolder):
    """Images in a random crop and flip, and what these were."""

    def __init__(self, root: Path, size: int, normalisation: Normalisation) -> None:
        super().__init__(str(root))
        self.size = size
        self.finish = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(normalisation.mean, normalisation.std)]
        )

    def shown(self, index: int, box: list[int], flip: bool) -> Tensor:
        """One image in this crop and flip, normalised."""
        picture: Any = tv.resized_crop(self.loader(self.samples[index][0]), *box, size=[self.size, self.size])
        return self.finish(tv.hflip(picture) if flip else picture)

    def __getitem__(self, index: int) -> tuple[Any, ...]:  # type: ignore[override]
        width, height = Image.open(self.samples[index][0]).size
        box = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), [0.08, 1.0], [3 / 4, 4 / 3])
        flip = torch.rand(1) < 0.5
        return self.shown(index, list(box), bool(flip)), torch.tensor(box), flip[0], torch.tensor(index)


class Replayed(Dataset):
    """Batches in the crops and flips that their files name, with what else these hold."""

    def __init__(self, images: Augmented, files: list[Path]) -> None:
        self.images, self.files = images, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, list[Any]]:
        labels = torch.load(self.files[number], weights_only=True)
        boxes, flips, index = labels[0].tolist(), labels[1].tolist(), labels[-1].tolist()
        shown = [self.images.shown(*record) for record in zip(index, boxes, flips, strict=True)]
        return torch.stack(shown), labels


def loader(dataset: Dataset, batch_size: int | None, generator: torch.Generator, pinned: bool) -> DataLoader:
    """Batches in a random order; of a dataset of batches (no ``batch_size``), these."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        generator=generator,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
        pin_memory=pinned,
    )


def cutmix(images: Tensor, partner: Tensor, box: list[int]) -> Tensor:
    """One box (top, left, height, width) for the whole batch, in place."""
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    images[:, :, rows, columns] = images[partner.to(images.device)][:, :, rows, columns]
    return images


def label(
    batches: DataLoader, predict: Callable[[Tensor], Tensor], folder: Path, device: torch.device, draws: Any
) -> Iterator[tuple[Tensor, Path]]:
    """One epoch: show every image, ask the teacher, write a file a batch; gives what was shown, and the file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (images, boxes, flips, index) in enumerate(batches):
        images, side = images.to(device, non_blocking=True), images.shape[-1]
        partner, share = torch.from_numpy(draws.permutation(len(images))), draws.beta(1.0, 1.0)
        half, centre = int(side * np.sqrt(1 - share)) // 2, draws.integers(side, size=2)
        (top, left), (bottom, right) = np.clip(centre - half, 0, side), np.clip(centre + half, 0, side)
        box = [int(top), int(left), int(bottom - top), int(right - left)]
        weight = 1 - box[2] * box[3] / side**2
        mixed = cutmix(images, partner, box)
        with torch.no_grad():
            logits = predict(mixed).cpu().half()
        torch.save([boxes, flips, partner, weight, box, logits, index], folder / f"batch_{number}.tar")
        yield mixed, folder / f"batch_{number}.tar"


def replay(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[Any]]]:
    """One epoch of training: images as they were labelled, their soft labels in float32, and the files' content."""
    for images, labels in batches:
        mixed = cutmix(images.to(device, non_blocking=True), labels[2], labels[4])
        yield mixed, labels[5].to(device).float(), labels
