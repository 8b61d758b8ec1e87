"""Metrics of a classifier: accuracy over images and by class, and calibration error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.core.errors import AttarError

NUM_BINS = 15
"""Bins of equal width for the calibration error (Guo et al., 2017, arXiv 1706.04599)."""


@dataclass(frozen=True)
class Measured:
    """Metrics of a classifier; all are fractions."""

    top1: float
    top5: float
    """With fewer than five classes it is 1 for every image with finite logits."""
    per_class: tuple[float | None, ...]
    """Top-1 of each class; None for a class without images."""
    ece: float
    """Expected calibration error: distance of confidence and accuracy in each bin, averaged with the bins' weights."""
    confidence: float
    """Mean probability of the top class."""
    num_broken: int = 0
    """Images with NaN logits; they count as wrong, with confidence 0."""


@dataclass(frozen=True)
class Tally:
    """Counts over images, on the device of their logits; add the tallies of batches to get that of all images."""

    images: Int[Tensor, " class"]
    hits: Int[Tensor, " class"]
    top5: Int[Tensor, ""]
    bin_hits: Int[Tensor, " bin"]
    bin_confidence: Float[Tensor, " bin"]
    broken: Int[Tensor, ""]

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def measured(self) -> Measured:
        """Return the metrics; only this waits for the device. Raises ValueError without images."""
        images, hits = self.images.tolist(), self.hits.tolist()
        total = sum(images)
        if not total:
            raise ValueError("no images were tallied")
        # A bin's distance, weighted by its share of the images: |sum of confidences - hits| / all.
        gaps = (self.bin_confidence - self.bin_hits).abs()
        return Measured(
            top1=sum(hits) / total,
            top5=int(self.top5) / total,
            per_class=tuple(hit / count if count else None for hit, count in zip(hits, images, strict=True)),
            ece=float(gaps.sum()) / total,
            confidence=float(self.bin_confidence.sum()) / total,
            num_broken=int(self.broken),
        )


def tally(logits: Float[Tensor, "image class"], labels: Int[Tensor, " image"]) -> Tally:
    """Return the tally of one batch, without waiting for the device.

    Bin m of n has the confidences above (m - 1) / n up to m / n, as in equation 3 of Guo et al.
    """
    num_classes, labels = logits.shape[1], labels.to(logits.device)
    ranked = logits.topk(min(5, num_classes), dim=1).indices
    confidence = logits.double().softmax(dim=1).amax(dim=1)
    broken = confidence.isnan()
    confidence = confidence.nan_to_num()
    right = (ranked == labels[:, None]) & ~broken[:, None]
    place = ((confidence * NUM_BINS).ceil().long() - 1).clamp(0, NUM_BINS - 1)
    # Sums over a mask are deterministic; scattered additions on a GPU are not.
    bins = place[:, None] == torch.arange(NUM_BINS, device=place.device)
    hit = right[:, 0].long()
    nothing = torch.zeros(num_classes, dtype=torch.int64, device=logits.device)
    return Tally(
        images=nothing.index_add(0, labels, torch.ones_like(labels)),
        hits=nothing.index_add(0, labels, hit),
        top5=right.sum(),
        bin_hits=(bins * hit[:, None]).sum(dim=0),
        bin_confidence=(bins * confidence[:, None]).sum(dim=0),
        broken=broken.sum(),
    )


def measure(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Float[Tensor, "image 3 height width"], Int[Tensor, " image"]]],
) -> Measured:
    """Return a classifier's metrics over batches of images in [0, 1] and labels; raises AttarError without images."""
    total: Tally | None = None
    # Not inference_mode: a network that keeps a tensor between calls could not be differentiated afterwards.
    with torch.no_grad():
        for images, labels in batches:
            found = tally(logits(images), labels)
            total = found if total is None else total + found
    if total is None:
        raise AttarError("There are no validation images to measure on; check the data's validation folder.")
    return total.measured()
