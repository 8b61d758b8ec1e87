"""A committee: one or several teachers whose logits are combined."""

import copy
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.choices import CommitteeChoice, StoredPrecision
from attar.models.teacher import Teacher
from attar.ops.combine import combine
from attar.store import sealed

GROUP = "--relabel.committee"
"""Prefix of a committee's settings on the command line."""


class Committee:
    """Teachers on a device; their logits are combined by the policy of ``choice``."""

    def __init__(
        self,
        members: Sequence[Teacher],
        choice: CommitteeChoice = CommitteeChoice(),  # noqa: B008
        device: torch.device | str = "cpu",
    ) -> None:
        """``members`` are the chosen teachers, in the order of the weights; ``choice.members`` is ignored.

        Raises AttarError when the number of weights differs from that of the teachers, or when a weight needs an
        accuracy that is not known.
        """
        check_weights(choice, len(members))
        self.members = tuple(members)
        self.choice = choice
        self._weights = tuple[float, ...]()
        if choice.policy == "weighted" and len(members) > 1:
            self._weights = choice.weights_of([one.accuracy for one in members], GROUP)
        if self.by_batch:
            self._labelling = tuple(dataclasses.replace(one, module=batch_normalised(one.module)) for one in members)
        else:
            self._labelling = self.members
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Move the teachers to a device."""
        for teacher in self._labelling:
            teacher.module.to(device)

    @property
    def architecture(self) -> str:
        """The teachers' architectures, joined by +."""
        return "+".join(one.architecture for one in self.members)

    @property
    def by_batch(self) -> bool:
        """Whether an image's logits depend on the other images of the batch."""
        return self.choice.batchnorm == "train"

    @property
    def batch(self) -> int:
        """Number of images in such a batch."""
        return self.choice.batchnorm_batch

    def logits(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        """Return the committee's logits for images in [0, 1], in float32, without gradient.

        If logits depend on the batch, the images are processed in groups of ``batch``, never as a single image.
        """
        with torch.no_grad():
            if not self.by_batch:
                return self._combined(images)
            return torch.cat([self._combined(part) for part in batches(images, self.batch)])

    def _combined(self, images: Tensor) -> Float[Tensor, "image class"]:
        logits = [teacher.logits(images) for teacher in self._labelling]
        return logits[0] if len(logits) == 1 else combine(logits, self.choice.policy, self._weights)

    def save(self, folder: Path, precision: StoredPrecision = "fp32") -> None:
        """Write the teachers into numbered folders; see ``Teacher.save`` for the precision of their weights."""
        for place, teacher in enumerate(self.members):
            teacher.save(folder / str(place), precision)


def load(
    folder: Path,
    choice: CommitteeChoice,
    count: int,
    modules: Sequence[nn.Module] = (),
    factories: Collection[str] = (),
    files: sealed.Files = MappingProxyType({}),
) -> Committee:
    """Load a committee of ``count`` teachers written by ``Committee.save``, on the CPU.

    ``modules`` are the user's own networks for the first teachers, ``factories`` are the paths of networks outside
    attar that the user typed, ``files`` are the recorded hashes of the folder's files. Raises AttarError when a teacher
    is missing, damaged, or refers to other code.
    """
    found = []
    for place in range(count):
        inside = folder / str(place)
        if not inside.is_dir():
            raise AttarError(f"The teacher's folder {inside} is missing; {sealed.FIX_MISSING}.")
        sealed.check_all(inside, sealed.below(files, str(place)))
        module = modules[place] if place < len(modules) else None
        found.append(teachers.load(inside, module, factories=factories))
    return Committee(found, choice)


def modules_of(teacher: nn.Module | Sequence[nn.Module] | None) -> tuple[nn.Module, ...]:
    """Return the user's own networks: none, one, or several."""
    if teacher is None or isinstance(teacher, list | tuple):
        return tuple(teacher or ())
    return (cast(nn.Module, teacher),)  # other objects are refused where they are used


def batches(whole: Tensor, size: int) -> list[Tensor]:
    """Split images or indices into batches; a last batch of one has no statistics and so joins the one before."""
    parts = list(whole.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def batch_normalised(network: nn.Module) -> nn.Module:
    """Return a copy whose BatchNorm layers use the statistics of the current batch; the rest stays in evaluation mode.

    It gives the batch-specific soft labels of SRe2L++ (arXiv 2501.07575).
    """
    changed = copy.deepcopy(network).eval()
    for layer in changed.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean = layer.running_var = None  # then BatchNorm uses the batch's statistics
    return changed


def check_weights(choice: CommitteeChoice, num_teachers: int) -> None:
    """Raise AttarError when there is not one weight or prior for each teacher, or when the policy ignores weights."""
    choice.refuse_unfit(choice.policy, num_teachers, GROUP, f"{GROUP}.policy")
