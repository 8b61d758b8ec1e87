"""Semantic softmax: a softmax for each level of a hierarchy of classes (Ridnik et al., 2021, arXiv 2104.10972).

Where classes contain one another (dog, animal), one softmax over all of them punishes an image of a dog for being an
animal. Here a class competes with the classes of its own depth only, and an image counts on each level above its class
as its ancestor there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MAX_WEIGHT = 20.0
"""The largest weight of a level, as in the published code."""
_NONE = -1


@dataclass(frozen=True)
class Levels:
    """The levels of a hierarchy that have two classes or more, from the roots down."""

    classes: tuple[Int[Tensor, " class_of_level"], ...]
    """The classes of each level."""
    targets: Int[Tensor, "class level"]
    """For each class the place of its ancestor, or of itself, among the classes of a level; -1 where it has none."""
    weights: tuple[float, ...]
    """Of each level: all classes divided by those that lie as deep or deeper, at most 20."""

    def to(self, device: torch.device | str) -> "Levels":
        """Return the same on a device."""
        return Levels(tuple(one.to(device) for one in self.classes), self.targets.to(device), self.weights)


def levels(ancestors: Sequence[Sequence[int]]) -> Levels:
    """Return the levels of a tree; ``ancestors`` holds for each class those of its ancestors that are classes.

    The nearest ancestor comes first. The published code leaves out the deepest level, whose classes it does not teach;
    here it counts like the others.
    """
    depths = np.array([len(above) for above in ancestors])
    kept = [depth for depth in range(int(depths.max(initial=0)) + 1) if (depths == depth).sum() > 1]
    members = [np.flatnonzero(depths == depth) for depth in kept]
    places = [{int(one): place for place, one in enumerate(every)} for every in members]
    targets = np.full((len(depths), len(kept)), _NONE)
    for index, above in enumerate(ancestors):
        chain = [*reversed(above), index]  # from the root down: its place is the depth
        for level, depth in enumerate(kept):
            if depth < len(chain):
                targets[index, level] = places[level].get(chain[depth], _NONE)
    weights = tuple(min(MAX_WEIGHT, len(depths) / int((depths >= depth).sum())) for depth in kept)
    return Levels(tuple(map(torch.from_numpy, members)), torch.from_numpy(targets), weights)


def semantic_loss(
    logits: Float[Tensor, "image class"], labels: Int[Tensor, " image"], levels: Levels, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the weighted sum of each level's cross-entropy, mean over all images; equations 3 and 4 of the paper.

    Images without an ancestor on a level add 0 there. ``smoothing`` is spread over the classes of a level.
    """
    targets = levels.targets[labels]
    total = logits.new_zeros((), dtype=torch.float32)
    for level, (classes, weight) in enumerate(zip(levels.classes, levels.weights, strict=True)):
        own = F.cross_entropy(
            logits[:, classes].float(),
            targets[:, level],
            ignore_index=_NONE,
            reduction="sum",
            label_smoothing=smoothing,
        )
        total = total + weight * own / len(labels)
    return total
