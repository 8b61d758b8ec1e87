"""Statistics as a loss term: how far what a teacher sees of a unit's images lies from what it sees of real ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attar.synthesis.taps import Layout


def distance(
    mean: Float[Tensor, "unit channel"],
    variance: Float[Tensor, "unit channel"],
    target_mean: Float[Tensor, "target channel"] | None,
    target_variance: Float[Tensor, "target channel"],
    layer_of: Float[Tensor, "channel layer"],
    weights: Float[Tensor, " layer"],
) -> Float[Tensor, " unit"]:
    """Each unit's weighted sum over layers of |mean - target mean|_2 + |variance - target variance|_2.

    Means are about the layout's centre; no target mean means that the centre is the target. Source: SRe2L (arXiv
    2306.13092), equation 6.
    """
    parts = (mean if target_mean is None else mean - target_mean, variance - target_variance)
    norms = [(part.square() @ layer_of).clamp_min(1e-30).sqrt() for part in parts]
    return (norms[0] + norms[1]) @ weights


def layer_weights(layouts: Sequence[Layout], first_multiplier: float) -> list[Float[Tensor, " layer"]]:
    """Of each layout's layers: ``first_multiplier`` for the layer registered first of all that are observed, else 1."""
    first = min(layout.first for layout in layouts)
    return [
        torch.tensor([first_multiplier if place == first else 1.0 for place in layout.places]).to(layout.centre)
        for layout in layouts
    ]
