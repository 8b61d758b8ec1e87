"""Agreement: whether a teacher sees in images the classes that they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from attar.models.teacher import Teacher
from attar.ops.metrics import measure
from attar.ops.pixels import from_bytes

LEAST = 0.5
"""Below this part of the images a teacher does not recognise its own work."""
_SHOWN = 3


@dataclass(frozen=True)
class Agreement:
    """Fractions of images whose class is the teacher's first choice."""

    fraction: float
    per_class: tuple[float | None, ...]
    """None for a class without images."""


def teacher_agreement(
    images: UInt8[Tensor, "image 3 height width"],
    labels: Int[Tensor, " image"],
    teacher: Teacher,
    device: torch.device | str,
    batch_size: int = 256,
) -> Agreement:
    """Ask the teacher about whole images; moves its network to the device."""
    teacher.module.to(device)
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    batches = ((from_bytes(shown.to(device)), classes.to(device)) for shown, classes in parts)
    found = measure(teacher.logits, batches)
    return Agreement(found.top1, found.per_class)


def warning(found: Agreement, classes: Sequence[str], titles: Mapping[str, str]) -> str:
    """What to tell when the teacher recognises too few of the images, '' when it recognises enough."""
    if found.fraction >= LEAST:
        return ""
    known = [(share, name) for share, name in zip(found.per_class, classes, strict=True) if share is not None]
    worst = ", ".join(f"'{titles.get(name, name)}' {share:.0%}" for share, name in sorted(known)[:_SHOWN])
    return (
        f"the teacher recognises {found.fraction:.0%} of the distilled images as their class (worst: {worst}), so its "
        f"soft labels teach other classes than the images stand for; raise --recover.iterations, train a stronger "
        f"teacher, or check that images and teacher have the same order of classes"
    )
