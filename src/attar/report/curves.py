"""What a unit recorded in each iteration, for figures: metrics in plain words, and the crop curriculum."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attar.synthesis.curriculum import lower_bound

MOST_POINTS = 400
"""Points of a curve that figures show; longer curves are averaged."""
_WORDS = {
    "loss": ("Loss that the images minimise", "loss"),
    "cross_entropy": ("Cross-entropy of the teacher on the images", "cross-entropy"),
    "bn_distance": ("Distance from the teacher's BatchNorm statistics", "distance"),
    "view_accuracy": ("Views that the teacher assigns to their class", "fraction of views"),
    "diversity": ("Similarity of images of a class", "similarity"),
    "distance": ("Distance between features of real and distilled images", "distance"),
    "feature_distance": ("Distance between features of real and distilled images", "distance"),
    "learning_rate": ("Learning rate that the method learns for students", "learning rate"),
}
"""Title and axis label, by the metric's name in unit files."""
CROPS = "crops"


@dataclass(frozen=True)
class Curve:
    """One metric over the iterations."""

    name: str
    title: str
    axis: str
    """Label of the vertical axis."""
    steps: list[float]
    """Number of iterations done, from 1."""
    values: list[float]


def is_logarithmic(found: Iterable[Curve]) -> bool:
    """Return whether the values of these curves spread so widely that a logarithmic axis shows them better."""
    values = [value for curve in found for value in curve.values]
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def of_unit(found: Mapping[str, Tensor], settings: Mapping[str, Any]) -> list[Curve]:
    """Return a unit's metrics, the loss first, and the crop curriculum if its method has one.

    ``settings`` are those of the method as plain values. Values that are not finite are left out.
    """
    ordered = sorted(found.items(), key=lambda curve: (curve[0] != "loss", curve[0]))
    curves = [_curve(name, values) for name, values in ordered]
    steps = max((len(values) for values in found.values()), default=0)
    return [*curves, *_crops(settings, steps)]


def _curve(name: str, values: Tensor) -> Curve:
    plain = name.replace("_", " ")
    title, axis = _WORDS.get(name, (plain[:1].upper() + plain[1:], plain))
    width = -(-len(values) // MOST_POINTS)
    parts = [part[part.isfinite()] for part in values.double().split(max(1, width))]
    kept = [(place * width + (width + 1) / 2, float(part.mean())) for place, part in enumerate(parts) if len(part)]
    return Curve(name, title, axis, [step for step, _ in kept], [value for _, value in kept])


def _crops(settings: Mapping[str, Any], steps: int) -> list[Curve]:
    """Return the lower bound of the crops' area, for methods that crop."""
    floor, curriculum = settings.get("min_crop"), settings.get("curriculum", "none")
    if not steps or settings.get("crop", "resized") != "resized" or not isinstance(floor, float):
        return []
    milestone = float(settings.get("milestone", 1.0))
    shown = sorted({round(place * (steps - 1) / 99) for place in range(100)})
    values = [lower_bound(step, steps, curriculum, milestone, floor) for step in shown]
    title = "Crop curriculum" if curriculum != "none" else "Smallest crop (no curriculum)"
    return [Curve(CROPS, title, "fraction of the image's area", [step + 1.0 for step in shown], values)]
