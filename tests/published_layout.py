"""What the published relabelling and training scripts do, told again plainly: the other side of the FKD layout.

Written for the tests from what the files hold, without PyTorch's data loader and on small pictures: a set of class
folders, a writer of ``epoch_E/batch_B.tar``, and a reader that replays it. Nothing of attar is used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tv

NUM_CLASSES, IPC, SIZE, BATCH_SIZE, NUM_EPOCHS = 40, 4, 16, 64, 3
Kind = Literal["none", "cutmix", "mixup"]
Teacher = Callable[[Tensor], Tensor]


def palette() -> Tensor:
    """A colour for each class."""
    return torch.rand(NUM_CLASSES, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_colour(pictures: Tensor) -> Tensor:
    """A teacher: the nearer a picture's mean colour is to that of a class, the larger the logit."""
    return -40 * torch.cdist(pictures.to(torch.float64).mean((2, 3)), palette())


def make_images(root: Path, suffix: str = "jpg", digits: int = 3, size: int = SIZE, ipc: int = IPC) -> Path:
    """``newNNN/classNNN_idNNN``: noise around the colour of the class."""
    draws = np.random.default_rng(0)
    for label, colour in enumerate(palette().numpy()):
        folder = root / f"new{label:0{digits}d}"
        folder.mkdir(parents=True)
        for slot in range(ipc):
            pixels = (255 * colour + draws.normal(0, 25, (size, size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label:0{digits}d}_id{slot:03d}.{suffix}")
    return root


@dataclass(frozen=True)
class Shown:
    """What became of one image in one epoch."""

    crop: tuple[int, int, int, int]
    flip: bool
    partner: str | None
    share: float
    box: tuple[int, int, int, int] | None
    picture: Tensor
    logits: Tensor


def batches(num_images: int, batch_size: int, num_epochs: int) -> Iterator[list[list[int]]]:
    """The images of every batch of every epoch: one sampler and one generator for all of them."""
    sampler = RandomSampler(range(num_images), generator=torch.Generator().manual_seed(42))
    batched = BatchSampler(sampler, batch_size, drop_last=False)
    for _ in range(num_epochs):
        yield list(batched)


def write(
    root: Path, target: Path, kind: Kind, teacher: Teacher = by_colour, num_epochs: int = NUM_EPOCHS
) -> dict[tuple[int, str], Shown]:
    """Write the labels of the images under ``root``; returns what was shown, by epoch and the image's path in root."""
    folder, draws, told = ImageFolder(str(root)), np.random.default_rng(1), {}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for epoch, listed in enumerate(batches(len(folder), BATCH_SIZE, num_epochs)):
            (target / f"epoch_{epoch}").mkdir(parents=True)
            for number, index in enumerate(listed):
                pictures, crops, flips = zip(*[_augmented(folder, at) for at in index], strict=True)
                mixed, partner, share, box = _mixed(torch.stack(pictures), kind, draws)
                logits = teacher(mixed).half()
                coords = default_collate([torch.tensor(crop) / torch.tensor([SIZE, SIZE] * 2) for crop in crops])
                content = [coords, default_collate(list(flips)), partner, share, box, logits]
                torch.save(content, target / f"epoch_{epoch}" / f"batch_{number}.tar")
                names = [str(Path(folder.samples[at][0]).relative_to(root)) for at in index]
                area = 0 if box is None else int((box[2] - box[0]) * (box[3] - box[1]))
                for place, name in enumerate(names):
                    told[epoch, name] = Shown(
                        crops[place],
                        bool(flips[place]),
                        None if partner is None else names[partner[place]],
                        1.0 if share is None else share if box is None else 1 - area / SIZE**2,
                        None if box is None else tuple(int(edge) for edge in box),  # type: ignore[arg-type]
                        mixed[place],
                        logits[place],
                    )
    return told


def _augmented(folder: ImageFolder, at: int) -> tuple[Tensor, tuple[int, int, int, int], bool]:
    picture = folder[at][0]
    crop = RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])
    flip = bool(torch.rand(1) < 0.5)
    return _crop(picture, crop, flip), crop, flip


def _crop(picture: Image.Image, crop: Any, flip: bool) -> Tensor:
    """Cut out by Pillow, which rounds to whole pixels, and then resized and flipped in float64."""
    top, left, height, width = crop
    cut = tv.pil_to_tensor(picture.crop((left, top, left + width, top + height))).to(torch.float64) / 255
    resized = tv.resize(cut, [SIZE, SIZE], antialias=True)
    return tv.hflip(resized) if flip else resized


def _mixed(pictures: Tensor, kind: Kind, draws: np.random.Generator) -> tuple[Tensor, Tensor | None, Any, Any]:
    """A batch mixed with itself, in one way for all of it; boxes are NumPy's integers, as they come out of ``clip``."""
    if kind == "none":
        return pictures, None, None, None
    partner = torch.randperm(len(pictures))
    if kind == "mixup":
        share = float(draws.beta(0.8, 0.8))
        return share * pictures + (1 - share) * pictures[partner], partner, share, None
    share = float(draws.beta(1, 1))
    side = int(SIZE * np.sqrt(1 - share))
    row, column = (int(middle) for middle in draws.integers(0, SIZE, 2))
    box = [
        np.clip(edge, 0, SIZE) for edge in (row - side // 2, column - side // 2, row + side // 2, column + side // 2)
    ]
    mixed = pictures.clone()
    mixed[:, :, box[0] : box[2], box[1] : box[3]] = pictures[partner, :, box[0] : box[2], box[1] : box[3]]
    return mixed, partner, share, box


def read(root: Path, source: Path, batch_size: int, num_epochs: int) -> Iterator[tuple[int, str, Tensor, Tensor]]:
    """Replay labels: epoch, the image's path in ``root``, the picture shown and the logits, in the trainer's order."""
    folder = ImageFolder(str(root))
    for epoch, listed in enumerate(batches(len(folder), batch_size, num_epochs)):
        for number, index in enumerate(listed):
            path = source / f"epoch_{epoch}" / f"batch_{number}.tar"
            coords, flips, partner, share, box, logits = torch.load(path, weights_only=False)
            pictures = []
            for place, at in enumerate(index):
                picture = folder[at][0]
                width, height = picture.size
                fractions = [part.item() for part in coords[place]]
                crop = [part * length for part, length in zip(fractions, (height, width) * 2, strict=True)]
                pictures.append(_crop(picture, crop, bool(flips[place])))
            shown = torch.stack(pictures)
            if box is not None:
                top, left, bottom, right = box
                shown[:, :, top:bottom, left:right] = shown[partner, :, top:bottom, left:right]
            elif partner is not None:
                shown = share * shown + (1 - share) * shown[partner]
            for place, at in enumerate(index):
                yield epoch, str(Path(folder.samples[at][0]).relative_to(root)), shown[place], logits[place]
