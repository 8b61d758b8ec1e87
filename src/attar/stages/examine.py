"""Check a teacher on real validation images before hours are spent with it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.models import network_output
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.class_order import another_order
from attar.ops.pixels import Normalisation, from_bytes
from attar.stages.workspace import Workspace

SAMPLE = 512
"""Validation images on which a verifier is checked; teachers are checked on all."""
_TRIED = 256
"""Validation images on which other normalisations are tried."""
_OTHERS = (
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
"""Normalisations to try: ImageNet's, [-1, 1] as many transformers use, and none."""
_SHOWN = 12
"""Most classes listed in an error about their order."""


class _Answers:
    """Runs a teacher and records its predictions; refuses NaN, and detects probabilities."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []
        self._sums, self._within = True, True

    def __call__(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        logits = self._teacher.logits(images)
        if not bool(logits.isfinite().all()):
            raise AttarError(
                f"The teacher {self._teacher.architecture} returns values that are not numbers (NaN or infinite) for "
                "real validation images; use other weights, or look for a division by zero in the network."
            )
        self.predicted.append(logits.argmax(1).cpu())
        inside = bool((logits >= 0).all()) and bool((logits <= 1).all())
        self._within &= inside
        self._sums = self._sums and inside and network_output.are_probabilities(logits)
        return logits

    def seen(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches and record their labels, because unreadable images may have been left out."""
        for images, labels in batches:
            self.labels.append(labels.cpu())
            yield images, labels

    def check(self, space: Workspace) -> None:
        """Refuse probabilities; warn when the outputs may come from a sigmoid."""
        name = self._teacher.architecture
        if self._sums:
            raise network_output.softmax_error(f"The teacher {name}")
        if self._within:
            space.log.warn(
                f"all outputs of the teacher {name} lie between 0 and 1; if it ends in a sigmoid, make it return "
                "the logits before the sigmoid, because soft labels made of its outputs are flat"
            )


def rate(space: Workspace, teacher: Teacher, order_known: bool, normalisation_known: bool) -> tuple[float, float]:
    """Return a teacher's top-1 and top-5 accuracy on all real validation images, measured on the device.

    Also tests the class order and the normalisation where the teacher does not state them. Raises AttarError when the
    teacher returns NaN or probabilities, or orders its outputs differently from the data's classes.
    """
    asked = _Answers(teacher)
    accuracy = teachers.accuracy(asked, asked.seen(space.val.plain(256, space.device.device)))
    asked.check(space)
    if not order_known:
        _refuse_another_order(space, teacher, torch.cat(asked.predicted), torch.cat(asked.labels))
    if not normalisation_known:
        _warn_of_normalisation(space, teacher)
    return accuracy


def glance(space: Workspace, teacher: Teacher) -> None:
    """Check a verifier as ``rate`` checks a teacher of unknown class order, but on some of the images only."""
    rows = spread(space, SAMPLE)
    asked = _Answers(teacher)
    with torch.no_grad():
        for start in range(0, len(rows), 256):
            asked(from_bytes(space.val.take(rows[start : start + 256])).to(space.device.device))
    asked.check(space)
    _refuse_another_order(space, teacher, torch.cat(asked.predicted), torch.as_tensor(space.val.labels[rows]))


def _refuse_another_order(space: Workspace, teacher: Teacher, predicted: Tensor, labels: Tensor) -> None:
    classes = space.real.classes
    found = another_order(predicted.numpy(), labels.numpy(), len(classes))
    if found is None:
        return
    listed = ", ".join(classes[label] for label in found.labels[:_SHOWN])
    listed += ", ..." if len(classes) > _SHOWN else ""
    own = teacher.architecture.startswith("python:")
    fix = "set them on the module as 'classes'" if own else "save them beside the weights as 'classes'"
    raise AttarError(
        f"The teacher {teacher.architecture} has its outputs in another order than the data's classes: "
        f"its accuracy on real validation images is {found.before:.1%} in the data's order, and {found.accuracy:.1%} "
        f"if its outputs are {listed}; {fix}, the list of the names in the order of the outputs."
    )


def _warn_of_normalisation(space: Workspace, teacher: Teacher) -> None:
    rows = spread(space, _TRIED)
    images = from_bytes(space.val.take(rows)).to(space.device.device)
    labels = torch.tensor([int(space.val.labels[row]) for row in rows], device=images.device)

    def right(normalisation: Normalisation) -> Tensor:
        with torch.no_grad():
            return replace(teacher, normalisation=normalisation).logits(images).argmax(1) == labels

    now = right(teacher.normalisation)
    best = max(_OTHERS, key=lambda other: int(right(other).sum()))
    then = right(best)
    gained, lost = int((then & ~now).sum()), int((now & ~then).sum())
    if gained - lost > max(0.05 * len(rows), 4 * (gained + lost) ** 0.5):
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (best.mean, best.std))
        space.log.warn(
            f"the teacher {teacher.architecture} is right on {float(now.float().mean()):.1%} of {len(rows)} validation "
            f"images with this normalisation, and on {float(then.float().mean()):.1%} with another; if it was trained "
            f"with that, give --data.mean {mean} --data.std {std}"
        )


def spread(space: Workspace, most: int) -> list[int]:
    """Return at most ``most`` rows of the validation images, evenly spaced."""
    count = space.val.num_images
    return [index * count // min(most, count) for index in range(min(most, count))]
