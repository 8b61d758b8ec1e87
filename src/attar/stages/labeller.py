"""Who labels: one teacher or several, and by which statistics."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops import ensemble
from attar.stages.choices import Voices
from attar.store import sealed


class Labeller:
    """Teachers, ready on a device, that answer together."""

    def __init__(self, voices: Voices, found: tuple[Teacher, ...], device: torch.device | str) -> None:
        """Raises AttarError when the weights are not one a teacher."""
        check(voices, len(found))
        self._voices = voices
        self.teachers = found
        if voices.batchnorm == "train":
            found = tuple(dataclasses.replace(one, module=ensemble.batch_normalised(one.module)) for one in found)
        self._asked = found
        self.to(device)

    def to(self, device: torch.device | str) -> None:
        """Move the teachers."""
        for teacher in self._asked:
            teacher.module.to(device)

    @property
    def by_batch(self) -> bool:
        """Whether a label depends on the images that are labelled beside."""
        return self._voices.batchnorm == "train"

    @property
    def batch(self) -> int:
        """Images in such a batch."""
        return self._voices.batchnorm_batch

    def logits(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        """Their answer to images in [0, 1], float32, without gradient.

        Where labels go by the batch, the images are taken ``batchnorm_batch`` at a time; no batch is a single image.
        """
        with torch.no_grad():
            if not self.by_batch:
                return self._ask(images)
            return torch.cat([self._ask(part) for part in batches(images, self.batch)])

    def _ask(self, images: Tensor) -> Float[Tensor, "image class"]:
        how, weights = self._voices.ensemble, self._voices.teacher_weights
        answers = [teacher.logits(images) for teacher in self._asked]
        return answers[0] if len(answers) == 1 else ensemble.combine(answers, how, weights)

    def save(self, folder: Path) -> None:
        """Write the teachers into numbered folders."""
        for place, teacher in enumerate(self.teachers):
            teacher.save(folder / str(place))


def batches(whole: Tensor, size: int) -> list[Tensor]:
    """Batches of images or of places; the last one, if there are others, is no single image: it has no statistics."""
    parts = list(whole.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def load(
    folder: Path,
    voices: Voices,
    count: int,
    module: torch.nn.Module | None = None,
    factories: Collection[str] = (),
    files: sealed.Files = MappingProxyType({}),
) -> Labeller:
    """The ``count`` teachers that ``Labeller.save`` wrote, on the CPU.

    ``module`` is the first one's network where that is a caller's, ``factories`` are networks outside attar that the
    user typed, ``files`` what is known of the folder's files. Raises AttarError when a teacher is missing, damaged, or
    names other code.
    """
    found = []
    for place in map(str, range(count)):
        if not (folder / place).is_dir():
            raise AttarError(f"{folder / place} is missing, which holds a teacher; {sealed.AGAIN}.")
        sealed.check_all(folder / place, sealed.below(files, place))
        found.append(teachers.load(folder / place, module if place == "0" else None, factories=factories))
    return Labeller(voices, tuple(found), "cpu")


def check(voices: Voices, num_teachers: int) -> None:
    """Raise AttarError when the voices don't suit so many teachers."""
    given = len(voices.teacher_weights)
    if voices.ensemble == "weighted" and given != num_teachers:
        raise AttarError(
            f"--relabel.voices.teacher-weights names {given} weights for {num_teachers} teachers; "
            f"give one each, the run's own teacher first."
        )
    if voices.ensemble != "weighted" and given:
        raise AttarError("Weights of teachers are only used with --relabel.voices.ensemble weighted; add that.")
