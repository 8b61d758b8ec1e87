"""Training targets (hard, mixed and soft labels) and their losses."""

from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Targets of one batch; all tensors are on the images' device."""

    labels: Int[Tensor, " image"]
    """Class of each image."""
    partner_labels: Int[Tensor, " image"] | None = None
    """Class of the image mixed into each image; None without mixing."""
    weight: Float[Tensor, " image"] | None = None
    """Weight of the image's own class, in [0, 1]; set together with ``partner_labels``."""
    logits: Float[Tensor, "image class"] | None = None
    """The teacher's logits for exactly the view that is shown."""

    def take(self, index: Tensor | slice) -> Self:
        """Return the targets at these indices."""
        parts = (self.labels, self.partner_labels, self.weight, self.logits)
        return type(self)(*(part if part is None else part[index] for part in parts))  # type: ignore[arg-type]


def soft_loss(
    logits: Float[Tensor, "image class"], targets: Targets, temperature: float, squared: bool
) -> Float[Tensor, ""]:
    """Return the Kullback-Leibler divergence of the student from the teacher at ``temperature``, mean over images.

    ``squared`` multiplies by the squared temperature, so that the size of the gradient does not depend on it (Hinton et
    al., 2015, arXiv 1503.02531); the FKD protocols of SRe2L and CDA leave it out. Classes that the labels dropped have
    a teacher logit of about -3e4; up to a temperature of 250 they add exactly 0. Raises ValueError without the
    teacher's logits.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(_teacher(targets).float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if squared else divergence


def logit_loss(logits: Float[Tensor, "image class"], targets: Targets) -> Float[Tensor, ""]:
    """Return the squared difference of the student's and the teacher's logits, mean over images and classes.

    From G-VBSM (arXiv 2311.17950) and EDC (arXiv 2404.13733). It needs the logits of all classes: the large negative
    logits of dropped classes would dominate the loss. Callers must refuse such labels, because a check here would wait
    for the device. Raises ValueError without the teacher's logits.
    """
    return F.mse_loss(logits.float(), _teacher(targets).float())


def hard_loss(logits: Float[Tensor, "image class"], targets: Targets, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Return the cross-entropy with the class labels, mean over images; both labels of a mixed image are weighted."""
    own = F.cross_entropy(logits.float(), targets.labels, reduction="none", label_smoothing=smoothing)
    if targets.partner_labels is None or targets.weight is None:
        return own.mean()
    other = F.cross_entropy(logits.float(), targets.partner_labels, reduction="none", label_smoothing=smoothing)
    return (targets.weight * own + (1 - targets.weight) * other).mean()


def _teacher(targets: Targets) -> Float[Tensor, "image class"]:
    if targets.logits is None:
        raise ValueError("These targets hold no soft labels; relabel the images first.")
    return targets.logits
