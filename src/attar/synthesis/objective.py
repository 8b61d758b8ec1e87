"""The loss of the pixels: a sum of terms on a teacher's outputs for their views, for several units in one batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.ops.pixels import Normalisation
from attar.synthesis.canvas import Canvas, Images, Plain
from attar.synthesis.observed import Observed
from attar.synthesis.task import Task
from attar.synthesis.terms import PerUnit, Seen, State, Term, UnitBatch
from attar.synthesis.views import Records, Show, Size, cropped

Metrics = dict[str, PerUnit]
Answer = tuple[PerUnit, Metrics, Float[Tensor, " image"] | None, tuple[State, ...]]
"""Each unit's loss; the metrics (the loss, its terms and 'view_accuracy'); each image's cross-entropy, if requested;
and the new states of the terms."""


class Objective(nn.Module):
    """The weighted sum of the terms for several units in one batch, through one teacher.

    A unit's loss depends only on its own images: terms are means over them. The objective keeps no tensor of a task, so
    that one compiled objective serves all tasks.
    """

    def __init__(
        self,
        observed: Observed,
        terms: Sequence[Term],
        normalisation: Normalisation,
        units: Normalisation | None = None,
        canvas: Canvas | None = None,
        show: Show = cropped,
        returns_each: bool = False,
    ) -> None:
        """``normalisation`` is the teacher's; ``units`` is that of the pixels, by default the teacher's. With
        ``returns_each`` the objective also returns the cross-entropy of each image."""
        super().__init__()
        self.observed, self.terms = observed, tuple(terms)
        self.canvas, self.show_views, self.returns_each = canvas or Plain(), show, returns_each
        units = units or normalisation
        self._other_units = units != normalisation
        self.scale: Tensor
        self.shift: Tensor
        whole = torch.zeros(1, 3, 1, 1, device=observed.device)
        zero, one = normalisation.apply(units.undo(whole)), normalisation.apply(units.undo(whole + 1))
        self.register_buffer("scale", one - zero)  # from the pixels' units to the teacher's
        self.register_buffer("shift", zero)

    def constants(self, task: Task, teacher: int = 0) -> tuple[State, ...]:
        """Return the terms' constants for a task."""
        return tuple(term.constants(task, teacher, self.observed) for term in self.terms)

    def begin(self, task: Task, teacher: int = 0) -> tuple[State, ...]:
        """Return the terms' states before the first iteration."""
        return tuple(term.begin(task, teacher, self.observed) for term in self.terms)

    def refresh(self, network: nn.Module) -> None:
        """Copy the weights of a network of the teacher's structure, in place."""
        self.observed.refresh(network)

    def forward(
        self,
        pixels: Images,
        records: Records,
        size: Size,
        labels: Int[Tensor, " image"],
        average: Float[Tensor, "unit image"],
        constants: tuple[State, ...],
        states: tuple[State, ...],
    ) -> Answer:
        """Compute the loss of views of the pixels.

        ``records`` describe the views (see ``synthesis/views.py``) and ``size`` is the size that the teacher sees.
        ``labels`` and ``average`` belong to the images in the batch; ``constants`` and ``states`` belong to the terms.
        """
        beside = next((own["beside"] for own in constants if "beside" in own), None)
        seen = self._look(self.canvas.show(pixels), records, size, average)
        if beside is not None:
            seen = seen._replace(beside=self._look(beside, records, size, average))
        batch = UnitBatch(labels, average)
        metrics: Metrics = {}  # dict[...]() breaks the compiled graph
        left, loss = [], None
        for term, own, state in zip(self.terms, constants, states, strict=True):
            value, after = term(seen, batch, own, state)
            weighted = value if term.weight == 1.0 else term.weight * value
            loss = weighted if loss is None else loss + weighted
            metrics[term.name] = value
            left.append(after)
        assert loss is not None  # at least one term
        metrics = {"loss": loss, **metrics}
        metrics["view_accuracy"] = average @ (seen.logits.detach().argmax(1) == labels).float()
        each = F.cross_entropy(seen.logits, labels, reduction="none") if self.returns_each else None
        return loss, metrics, each, tuple(left)

    def _look(self, images: Images, records: Records, size: Size, average: Tensor) -> Seen:
        # This also expands one channel to three if all channels share one normalisation and the units are the same.
        shown = images * self.scale + self.shift if self._other_units or images.shape[1] == 1 else images
        shown = self.show_views(shown, records, size, average)
        return Seen(shown, *self.observed(shown))


def pixel_gradient(
    objective: Callable[..., Answer], pixels: Images, *arguments: Any
) -> tuple[Images, Metrics, Float[Tensor, " image"] | None, tuple[State, ...]]:
    """Return the gradient of each unit's loss with respect to its own pixels, and the objective's other outputs."""
    leaf = pixels.detach().requires_grad_()
    loss, metrics, each, states = objective(leaf, *arguments)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    plain = {name: value.detach() for name, value in metrics.items()}
    after = tuple({key: value.detach() for key, value in state.items()} for state in states)
    return slope.contiguous(), plain, None if each is None else each.detach(), after
