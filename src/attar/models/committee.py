"""A committee: one teacher or several that answer together."""

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
from attar.models.choices import CommitteeChoice
from attar.models.teacher import Teacher
from attar.ops.combine import combine
from attar.store import sealed

GROUP = "--relabel.committee"
"""What the names of a committee's settings begin with on the command line."""


class Committee:
    """Teachers, ready on a device, that answer together by the policy of ``choice``."""

    def __init__(
        self,
        members: Sequence[Teacher],
        choice: CommitteeChoice = CommitteeChoice(),  # noqa: B008
        device: torch.device | str = "cpu",
    ) -> None:
        """``members`` are the chosen teachers, in the order of the weights; ``choice.members`` is not read.

        Raises AttarError when there is not one weight for each teacher, or a weight follows from an accuracy that is
        not known.
        """
        check_weights(choice, len(members))
        self.members = tuple(members)
        self.choice = choice
        self._weights = tuple[float, ...]()
        if choice.policy == "weighted" and len(members) > 1:
            self._weights = choice.weights_of([one.accuracy for one in members], GROUP)
        if self.by_batch:
            self._asked = tuple(dataclasses.replace(one, module=batch_normalised(one.module)) for one in members)
        else:
            self._asked = self.members
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Move the teachers."""
        for teacher in self._asked:
            teacher.module.to(device)

    @property
    def architecture(self) -> str:
        """The teachers' architectures, joined by +."""
        return "+".join(one.architecture for one in self.members)

    @property
    def by_batch(self) -> bool:
        """Whether an answer depends on the other images of the batch."""
        return self.choice.batchnorm == "train"

    @property
    def batch(self) -> int:
        """Images in such a batch."""
        return self.choice.batchnorm_batch

    def logits(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        """The committee's answer to images in [0, 1], float32, without gradient.

        Where answers depend on the batch, the images are taken ``batch`` at a time; no batch is a single image.
        """
        with torch.no_grad():
            if not self.by_batch:
                return self._ask(images)
            return torch.cat([self._ask(part) for part in batches(images, self.batch)])

    def _ask(self, images: Tensor) -> Float[Tensor, "image class"]:
        answers = [teacher.logits(images) for teacher in self._asked]
        return answers[0] if len(answers) == 1 else combine(answers, self.choice.policy, self._weights)

    def save(self, folder: Path) -> None:
        """Write the teachers into numbered folders."""
        for place, teacher in enumerate(self.members):
            teacher.save(folder / str(place))


def load(
    folder: Path,
    choice: CommitteeChoice,
    count: int,
    modules: Sequence[nn.Module] = (),
    factories: Collection[str] = (),
    files: sealed.Files = MappingProxyType({}),
) -> Committee:
    """The committee of ``count`` teachers that ``Committee.save`` wrote, on the CPU.

    ``modules`` are the networks of the first teachers where those are a caller's, ``factories`` are networks outside
    attar that the user typed, ``files`` what is known of the folder's files. Raises AttarError when a teacher is
    missing, damaged, or names other code.
    """
    found = []
    for place in range(count):
        inside = folder / str(place)
        if not inside.is_dir():
            raise AttarError(f"{inside} is missing, which holds a teacher; {sealed.FIX_MISSING}.")
        sealed.check_all(inside, sealed.below(files, str(place)))
        module = modules[place] if place < len(modules) else None
        found.append(teachers.load(inside, module, factories=factories))
    return Committee(found, choice)


def modules_of(teacher: nn.Module | Sequence[nn.Module] | None) -> tuple[nn.Module, ...]:
    """A caller's own networks: none, one, or several."""
    if teacher is None or isinstance(teacher, list | tuple):
        return tuple(teacher or ())
    return (cast(nn.Module, teacher),)  # what is no network is refused where it is used


def batches(whole: Tensor, size: int) -> list[Tensor]:
    """Batches of images or of places; the last one, if there are others, is no single image: it has no statistics."""
    parts = list(whole.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def batch_normalised(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers use the statistics of the batch that they see; all else stays in evaluation mode.

    Such labels are batch-specific (SRe2L++ in arXiv 2501.07575).
    """
    changed = copy.deepcopy(network).eval()
    for layer in changed.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean = layer.running_var = None  # without them it uses the batch's
    return changed


def check_weights(choice: CommitteeChoice, num_teachers: int) -> None:
    """Raise AttarError when there is not one weight or prior for each teacher, or weights have no use."""
    choice.refuse_unfit(choice.policy, num_teachers, GROUP, f"{GROUP}.policy")
