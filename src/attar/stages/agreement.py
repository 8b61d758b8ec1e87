"""Agreement: measure how often the teacher classifies images as their own class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.models.committee import Committee
from attar.ops import mosaic
from attar.ops.choices import PLAIN, Storage
from attar.ops.metrics import measure
from attar.stages.evaluation import Fraction
from attar.store import sealed

LEAST = 0.5
"""Warn when the teacher recognises less than this fraction of the images."""
_SHOWN = 3


@dataclass(frozen=True)
class Agreement:
    """Fractions of images whose class is the teacher's top-1 prediction."""

    fraction: Fraction
    per_class: tuple[Fraction | None, ...]
    """None for a class without images."""


def teacher_agreement(
    images: UInt8[Tensor, "image 3 height width"],
    labels: Int[Tensor, " image"],
    committee: Committee,
    device: torch.device | str,
    batch_size: int = 256,
    storage: Storage = PLAIN,
) -> Agreement:
    """Classify all images, including the parts of mosaics; moves the teachers' networks to the device.

    Raises AttarError when a logit is NaN.
    """
    committee.to(device)
    num_parts = storage.num_parts
    stored = max(1, batch_size // num_parts)
    parts = zip(images.split(stored), labels.split(stored), strict=True)
    batches = (
        (mosaic.decoded(shown.to(device), storage), classes.to(device).repeat_interleave(num_parts))
        for shown, classes in parts
    )
    found = measure(committee.logits, batches)
    if found.num_broken:
        raise AttarError(
            f"The teacher's logits of {found.num_broken} of {num_parts * len(images)} images are not numbers (NaN), so "
            f"it cannot label them; train or import another teacher."
        )
    return Agreement(found.top1, found.per_class)


def write(path: Path, identity: str, found: Agreement) -> None:
    """Write the result to ``path``; ``identity`` is a hash of images and teachers."""
    content = {"identity": identity, "fraction": found.fraction, "per_class": list(found.per_class)}
    sealed.write_json(path, content)


def read(path: Path, identity: str, num_classes: int, log: Log) -> Agreement | None:
    """Read an earlier result; returns None when there is none, or, with a warning, when it is damaged."""
    again = "it is measured again"
    try:
        content = sealed.read_json(path, again)
        found = pydantic.TypeAdapter(Agreement).validate_python(content)
        if content.get("identity", identity) == identity and len(found.per_class) == num_classes:
            return found
        fault = f"{path} belongs to other images or another teacher; {again}."
    except FileNotFoundError:
        return None
    except AttarError as error:
        fault = str(error)
    except (OSError, pydantic.ValidationError):
        fault = f"{path} is damaged; {again}."
    log.warn(fault.removesuffix("."))
    return None


def warning(found: Agreement, classes: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return a warning when the teacher recognises too few images, or none of a class; else ''."""
    if found.fraction >= LEAST:
        unknown = [name for name, share in zip(classes, found.per_class, strict=True) if share == 0]
        return _of_unknown([titles.get(name, name) for name in unknown])
    known = [(share, name) for share, name in zip(found.per_class, classes, strict=True) if share is not None]
    worst = ", ".join(f"'{titles.get(name, name)}' {share:.0%}" for share, name in sorted(known)[:_SHOWN])
    return (
        f"the teacher recognises {found.fraction:.0%} of the distilled images as their class (worst: {worst}), so its "
        f"soft labels contradict the images' classes; raise --recover.iterations, train a stronger "
        f"teacher, or check that images and teacher use the same class order"
    )


def _of_unknown(names: Sequence[str]) -> str:
    """Return a warning about classes of which the teacher recognises no image; '' if there are none."""
    if not names:
        return ""
    named = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more classes" if len(names) > _SHOWN else ""
    return (
        f"the teacher recognises no distilled image of {named}{more}, so their soft labels teach other classes; "
        f"compare the row with hard labels (distilled-hard), raise --recover.iterations or --recover.ipc, or train a "
        f"stronger teacher"
    )
