"""What pixels are optimised for: a teacher's opinion of their views, and its BatchNorm statistics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attar.ops import views
from attar.ops.pixels import Normalisation
from attar.synthesis.observed import BATCHNORM, Observed
from attar.synthesis.statistics import distance, layer_weights

PerUnit = Float[Tensor, " unit"]


@dataclass(frozen=True)
class Terms:
    """The loss of every unit, and its parts."""

    loss: PerUnit
    cross_entropy: PerUnit
    bn_distance: PerUnit
    view_accuracy: PerUnit
    """Fraction of views that the teacher takes for their class."""


class Objective(nn.Module):
    """Cross-entropy plus weighted BatchNorm distance, for several units side by side, and its pixel gradient.

    A unit's loss depends on its own images alone: cross-entropy and statistics are averages over them.
    """

    def __init__(
        self,
        observed: Observed,
        bn_weight: float,
        normalisation: Normalisation,
        paint: Normalisation,
        first_multiplier: float = 1.0,
    ) -> None:
        """``normalisation`` is the teacher's, ``paint`` that of the pixels: the same, or its grey one."""
        super().__init__()
        self.observed = observed
        self.bn_weight = bn_weight
        self._grey = paint != normalisation
        self.scale: Tensor
        self.shift: Tensor
        layout = observed.layouts[BATCHNORM]
        assert layout.running is not None
        self.target, self.layer_of, self.weights = Tensor(), Tensor(), Tensor()
        parts = layout.running[1], layout.layer_of(), *layer_weights([layout], first_multiplier)
        for name, value in zip(("target", "layer_of", "weights"), parts, strict=True):
            delattr(self, name)
            self.register_buffer(name, value)
        whole = torch.zeros(1, 3, 1, 1, device=self.weights.device)
        zero, one = normalisation.apply(paint.undo(whole)), normalisation.apply(paint.undo(whole + 1))
        self.register_buffer("scale", one - zero)  # from the paint's units to the teacher's
        self.register_buffer("shift", zero)

    def forward(
        self,
        pixels: Float[Tensor, "image channel height width"],
        box: Int[Tensor, "view 4"] | None,
        flip: Bool[Tensor, " view"] | None,
        shift: Int[Tensor, "view 2"] | None,
        size: tuple[int, int],
        labels: Int[Tensor, " image"],
        average: Float[Tensor, "unit image"],
    ) -> tuple[PerUnit, PerUnit, PerUnit, PerUnit]:
        """Each unit's loss, cross-entropy, distance and view accuracy.

        The parts of a view (see ``ops/views.py``) are one for all images, one for each unit or one for each image;
        without them the teacher sees the images as they are. ``size`` is that of what it sees, ``average`` takes means
        over each unit's images.
        """
        # One channel is also widened where all channels have one normalisation, and the paint is no other.
        seen = pixels * self.scale + self.shift if self._grey or pixels.shape[1] == 1 else pixels
        if box is not None and flip is not None and shift is not None:
            view_of = average.argmax(0) if 1 < len(box) == len(average) else None
            seen = views.apply(seen, views.View(box, flip, shift), size, view_of)
        logits, moments, _ = self.observed(seen)
        mean, square = (average @ moment for moment in moments[BATCHNORM])
        cross_entropy = average @ F.cross_entropy(logits, labels, reduction="none")
        variance = square - mean.square()
        away = distance(mean, variance, None, self.target, self.layer_of, self.weights)
        accuracy = average @ (logits.detach().argmax(1) == labels).float()
        return cross_entropy + self.bn_weight * away, cross_entropy, away, accuracy


def pixel_gradient(
    objective: Callable[..., tuple[PerUnit, PerUnit, PerUnit, PerUnit]],
    pixels: Float[Tensor, "image channel height width"],
    *arguments: Any,
) -> tuple[Float[Tensor, "image channel height width"], Terms]:
    """The gradient of each unit's loss with respect to its own pixels, and the terms of the loss."""
    leaf = pixels.detach().requires_grad_()
    terms = objective(leaf, *arguments)
    (slope,) = torch.autograd.grad(terms[0].sum(), leaf)
    return slope.contiguous(), Terms(*(term.detach() for term in terms))
