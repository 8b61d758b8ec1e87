"""A distilled set as PyTorch datasets, which a DataLoader reads with any sampler and any number of workers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from attar.ops import mosaic
from attar.ops.pixels import from_bytes, to_bytes

if TYPE_CHECKING:
    from attar.stages.distilled import Distilled
    from attar.stages.epoch_views import EpochViews


class HardDataset(torch.utils.data.Dataset[tuple[Any, int]]):
    """Images with their classes; where a stored image holds several, each of them, enlarged, is an item."""

    def __init__(self, distilled: "Distilled", transform: Callable[[Tensor], Any] | None = None) -> None:
        """``transform`` gets a uint8 image, 3 x height x width; without it images are normalised floats."""
        self.distilled, self.transform = distilled, transform
        self.classes = distilled.classes
        self._parts = distilled.info.storage.num_parts

    def __len__(self) -> int:
        return len(self.distilled.images) * self._parts

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"the set has {len(self)} images, and none with the index {index}")
        place, part = divmod(index % len(self), self._parts)
        image, label = self.distilled.images[place], int(self.distilled.labels[place])
        if self._parts > 1:
            shown = mosaic.unpack(from_bytes(image[None]), self.distilled.info.storage)[0, part]
            image = to_bytes(shown)
        if self.transform is not None:
            return self.transform(image), label
        return self.distilled.normalisation.apply(from_bytes(image[None]))[0], label


class SoftDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Augmented, normalised views of the images, each with the teacher's probabilities for that view.

    Call ``set_epoch`` before each epoch, as for a DistributedSampler; workers that are kept see it, too. Item i is what
    ``Distilled.batches`` yields for image i in that epoch.
    """

    def __init__(self, distilled: "Distilled", temperature: float = 1.0) -> None:
        """Probabilities are softmax(logits / temperature)."""
        self.distilled, self.temperature = distilled, temperature
        self.classes = distilled.classes
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._open: tuple[int, EpochViews] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views and labels the items are; starts at 0."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.distilled.images)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, " class"]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"the set has {len(self)} images, and none with the index {index}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several items at once, as DataLoader asks for the items of a batch."""
        epoch = int(self._epoch[0])
        if self._open is None or self._open[0] != epoch:
            self._open = epoch, self.distilled.epoch(epoch)
        shown, targets = self._open[1].take(torch.tensor([index % len(self) for index in indices]))
        assert targets.logits is not None  # asked for
        soft = torch.softmax(targets.logits.float() / self.temperature, dim=1)
        return list(zip(self.distilled.normalisation.apply(shown), soft, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the opened epoch, which a worker opens anew."""
        return self.__dict__ | {"_open": None}
