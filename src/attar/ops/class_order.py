"""Detect from predictions that a network's outputs are in a different class order than the labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_LEAST_GAIN = 0.1
"""Minimum accuracy gain of the other order, as a fraction of the images."""
_LEAST_KNOWLEDGE = 0.4
"""Minimum accuracy in the other order: 0 is chance, 1 is perfect. An untrained network stays below it."""
_DEVIATIONS = 3
"""Minimum gain of the other order, in standard deviations."""


@dataclass(frozen=True)
class Order:
    """Another order of the outputs, in which far more predictions are right."""

    labels: tuple[int, ...]
    """The label that each output means."""
    accuracy: float
    """Accuracy in this order, as a fraction, on images that were not used to find the order."""
    before: float
    """Accuracy in the given order, on the same images."""


def another_order(predicted: Int[np.ndarray, " image"], labels: Int[np.ndarray, " image"], num: int) -> Order | None:
    """Return an order of ``num`` classes in which far more predictions are right; None if there is none.

    One half of each class's images is used to match outputs with labels (most frequent pairs first), the other half to
    measure the accuracy, so that the measurement is unbiased.
    """
    place = _place_in_class(labels)
    output_of = _matched(predicted[place % 2 == 0], labels[place % 2 == 0], num)
    predicted, labels = predicted[place % 2 == 1], labels[place % 2 == 1]
    if not len(labels):
        return None
    now, then = predicted == labels, predicted == output_of[labels]
    gained, lost = int((then & ~now).sum()), int((now & ~then).sum())
    accuracy, chance = float(then.mean()), 1 / num
    if gained - lost <= max(_LEAST_GAIN * len(labels), _DEVIATIONS * (gained + lost) ** 0.5):
        return None
    if (accuracy - chance) / (1 - chance) < _LEAST_KNOWLEDGE:
        return None
    return Order(tuple(np.argsort(output_of).tolist()), accuracy, float(now.mean()))


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """Return for each image how many images of its class come before it."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    starts = np.searchsorted(ranked, ranked)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - starts
    return place


def _matched(predicted: np.ndarray, labels: np.ndarray, num: int) -> np.ndarray:
    """Assign an output to every label, most frequent pairs first; a label without pairs keeps its own if it is free."""
    pairs, counts = np.unique(labels.astype(np.int64) * num + predicted, return_counts=True)
    same = pairs // num == pairs % num
    output_of = np.full(num, -1, dtype=np.int64)
    free = np.ones(num, dtype=bool)
    for pair in pairs[np.lexsort((pairs, ~same, -counts))]:
        label, output = divmod(int(pair), num)
        if output_of[label] < 0 and free[output]:
            output_of[label], free[output] = output, False
    for label in np.flatnonzero(output_of < 0):
        if free[label]:
            output_of[label], free[label] = label, False
    output_of[output_of < 0] = np.flatnonzero(free)
    return output_of
