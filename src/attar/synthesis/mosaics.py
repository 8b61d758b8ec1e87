"""Mosaics of real images: each stored image holds several images of the class with the teacher's lowest loss (CIM)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops import mosaic
from attar.ops.pixels import from_bytes
from attar.synthesis.task import RealImages, Task

_BATCH_PIXELS = 2**24


@dataclass(frozen=True)
class Surest:
    """The real images with the lowest cross-entropy among the first ``pool`` of each class, in the data's order.

    With ``ipc`` stored images of ``parts`` images each, stored image i holds the images of rank i, ipc + i, 2 ipc + i,
    ... as its parts 1, 2, 3, ... Source: CIM (arXiv 2607.00916) and its published code.
    """

    ipc: int
    pool: int
    parts: int

    def __call__(self, task: Task) -> Float[Tensor, "image part 3 height width"]:
        """Return the images that each of the task's stored images holds, at full size, in [0, 1], on the task's device.

        Raises AttarError when a class has fewer images than the stored images need.
        """
        real, found = task.real, []
        assert real is not None  # needs().real_images
        for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
            ranks = self._ranks(task, real, label)
            places = [ranks[part * self.ipc + slot] for part in range(self.parts)]
            found.append(from_bytes(real.take(label, places)))
        return torch.stack(found).to(task.device)

    def packed(self, task: Task) -> Float[Tensor, "image 3 height width"]:
        """Return the stored images: their parts, shrunk with nearest-pixel sampling, next to each other."""
        return mosaic.pack(self(task), round(self.parts**0.5))

    def _ranks(self, task: Task, real: RealImages, label: int) -> list[int]:
        """Return the indices of the class's images in the pool, lowest cross-entropy first; computed once for all
        tasks."""
        known = task.teachers[0].kept((type(self).__name__, self.pool), dict[int, list[int]])
        if label not in known:
            count = min(self.pool, real.count(label))
            if count < self.ipc * self.parts:
                raise AttarError(
                    f"Class '{real.class_name(label)}' has {count} training images in a pool of {self.pool}, and "
                    f"{self.ipc} stored images of {self.parts} take {self.ipc * self.parts}; lower --recover.ipc, or "
                    f"raise --recover.pool where there are more."
                )
            known[label] = _losses(task, real, label, count).argsort(stable=True).tolist()
        return known[label]


def random_mosaics(task: Task, ipc: int, factor: int) -> Float[Tensor, "image 3 height width"]:
    """Draw real images of each class and pack ``factor`` x ``factor`` of them into each stored image; in [0, 1].

    With ``ipc`` stored images per class, stored image i holds the class's drawn images i, ipc + i, 2 ipc + i, ... A
    class with too few images gives some of them several times. Source: NCFM (arXiv 2502.20653).
    """
    real, found = task.real, []
    assert real is not None  # needs
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        count = real.count(label)
        order = torch.randperm(count, generator=task.shared_stream("start", real.class_name(label)))
        found.append(real.take(label, [int(order[(part * ipc + slot) % count]) for part in range(factor**2)]))
    return mosaic.pack(from_bytes(torch.stack(found)).to(task.device), factor)


@torch.no_grad()
def _losses(task: Task, real: RealImages, label: int, count: int) -> Float[Tensor, " image"]:
    """Return the cross-entropy of a class's first images, whole; float32, because the order must not depend on
    rounding."""
    network, (height, width) = task.teachers[0], task.size
    losses = []
    for places in torch.arange(count).split(max(1, _BATCH_PIXELS // (height * width))):
        images = from_bytes(real.take(label, places.tolist()).to(task.device))
        logits = network.module(network.normalisation.apply(images)).float()
        losses.append(
            F.cross_entropy(logits, logits.new_full((len(logits),), label, dtype=torch.int64), reduction="none")
        )
    return torch.cat(losses).cpu()
