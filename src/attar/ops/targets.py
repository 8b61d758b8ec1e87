"""What a network is trained towards: hard labels, mixed labels, soft labels; and the losses for them."""

from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Targets of one batch. All that is there is on the images' device."""

    labels: Int[Tensor, " image"]
    """Class of each image."""
    partner_labels: Int[Tensor, " image"] | None = None
    """Class of the image mixed into each one; None where nothing was mixed."""
    weight: Float[Tensor, " image"] | None = None
    """Fraction of each image that is its own, in [0, 1]; goes with ``partner_labels``."""
    logits: Float[Tensor, "image class"] | None = None
    """The teacher's logits for the very view that is shown."""

    def take(self, index: Tensor | slice) -> Self:
        """The targets at these places."""
        parts = (self.labels, self.partner_labels, self.weight, self.logits)
        return type(self)(*(part if part is None else part[index] for part in parts))  # type: ignore[arg-type]


def soft_loss(
    logits: Float[Tensor, "image class"], targets: Targets, temperature: float, squared: bool
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the student from the teacher at ``temperature``, mean over images.

    ``squared`` multiplies by the temperature's square, which keeps gradients of one size (Hinton et al., 2015, arXiv
    1503.02531); the FKD protocols of SRe2L and CDA leave it out. A class that the labels do not keep has a teacher's
    logit of about -3e4, finite: up to a temperature of 250 it adds exactly 0. Raises ValueError without the teacher's
    logits.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(_teacher(targets).float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if squared else divergence


def logit_loss(logits: Float[Tensor, "image class"], targets: Targets) -> Float[Tensor, ""]:
    """Squared difference of the student's and the teacher's logits, mean over images and classes.

    From G-VBSM (arXiv 2311.17950) and EDC (arXiv 2404.13733). It wants the logits of all classes: where dropped ones
    are a large negative number, the loss is of these alone. To look for them here would keep the device waiting, so
    that is the caller's to refuse. Raises ValueError without the teacher's logits.
    """
    return F.mse_loss(logits.float(), _teacher(targets).float())


def hard_loss(logits: Float[Tensor, "image class"], targets: Targets, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy with the classes, of mixed images in proportion to their parts; mean over images."""
    own = F.cross_entropy(logits.float(), targets.labels, reduction="none", label_smoothing=smoothing)
    if targets.partner_labels is None or targets.weight is None:
        return own.mean()
    other = F.cross_entropy(logits.float(), targets.partner_labels, reduction="none", label_smoothing=smoothing)
    return (targets.weight * own + (1 - targets.weight) * other).mean()


def _teacher(targets: Targets) -> Float[Tensor, "image class"]:
    if targets.logits is None:
        raise ValueError("These targets hold no soft labels; relabel the images first.")
    return targets.logits
