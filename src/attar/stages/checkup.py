"""Apply the health checks to units while they are made, to the finished images, and to students early in training."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.log import Log
from attar.ops import mosaic
from attar.ops.pixels import from_bytes
from attar.stages import examine, health
from attar.stages.health import Health, Sampled
from attar.stages.scores import ScoreFile
from attar.stages.workspace import Workspace
from attar.store.units import Unit
from attar.synthesis.choices import Statistics
from attar.synthesis.method import MethodConfig
from attar.synthesis.task import Network

_BATCH = 256


class UnitCheckup:
    """Examines the units of one run of recover, and warns of each kind of finding once."""

    def __init__(
        self, config: MethodConfig, networks: Sequence[Network], classes: Sequence[str], iterations: int, log: Log
    ) -> None:
        """``iterations`` are those of a unit; 0 for methods that do not optimise."""
        self._config, self._networks, self._classes, self._iterations = config, networks, classes, iterations
        self._photographs = config.needs().stores_real_pixels and not iterations
        self._health = Health(log)
        self._seen: list[Sampled] = []

    def iteration(self, unit: str, iteration: int, means: Mapping[str, float]) -> None:
        """Examine the metrics of an iteration: means over the units in the batch, of which ``unit`` is the first."""
        self._health.tell(health.not_finite(means, unit, iteration, self._config))
        if not isinstance(self._config, Statistics) or iteration < health.EARLY * self._iterations:
            return
        if {"loss", "cross_entropy", "view_accuracy"} <= means.keys():
            weight = self._config.bn_weight
            self._health.tell(health.dominant_statistics(means, len(self._classes), iteration, weight))

    def finished(self, unit: Unit, images: UInt8[Tensor, "image 3 height width"]) -> dict[str, float]:
        """Examine the images of a finished unit; returns how sure the teachers are of them, for the log.

        Without a teacher, or with one that the method does not use, nothing is returned.
        """
        self._health.tell(
            health.collapsed(Sampled.of(images, unit.labels), self._classes, self._config, self._photographs)
        )
        if self._config.needs().teachers == "none" or not self._networks:
            return {}
        accuracy, confidence = self._own_images(unit, images)
        self._health.tell(health.unsure_teacher(accuracy, confidence, unit.name, self._config))
        return {"teacher_accuracy": round(accuracy, 4), "teacher_confidence": round(confidence, 4)}

    def add(self, unit: Unit, images: UInt8[Tensor, "image 3 height width"]) -> None:
        """Remember the images of a unit for ``whole``."""
        self._seen.append(Sampled.of(images, unit.labels))

    def whole(self) -> None:
        """Examine the images of all units together."""
        if self._seen:
            found = health.collapsed(Sampled.together(self._seen), self._classes, self._config, self._photographs)
            self._health.tell(found)

    @torch.no_grad()
    def _own_images(self, unit: Unit, images: Tensor) -> tuple[float, float]:
        """Return the fraction that the teachers recognise, by their mean probabilities, and their confidence."""
        storage, device = self._config.storage(), next(self._networks[0].module.parameters()).device
        labels = torch.tensor(unit.labels).repeat_interleave(storage.num_parts)
        parts = []
        for batch in images.split(max(1, _BATCH // storage.num_parts)):
            shown = mosaic.decoded(batch.to(device), storage)
            answers = [
                network.module(network.normalisation.apply(shown)).float().softmax(1) for network in self._networks
            ]
            parts.append(torch.stack(answers).mean(0).cpu())
        return health.own_images(torch.cat(parts), labels)


@torch.no_grad()
def examine_student(
    space: Workspace, own: Health, job: ScoreFile, answer: Callable[[Tensor], Tensor], epoch: int, num_epochs: int
) -> None:
    """Warn when a student is at chance on some of the real validation images; ``answer`` returns logits for images."""
    rows, right = examine.spread(space, examine.SAMPLE), 0
    labels = torch.as_tensor(space.val.labels[rows])
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        shown = from_bytes(space.val.take(rows[part])).to(space.device.device)
        right += int((answer(shown).argmax(1).cpu() == labels[part]).sum())
    top1, num_classes = right / len(rows), len(space.real.classes)
    found = health.student_at_chance(top1, len(rows), num_classes, job.student, str(job.row), epoch, num_epochs)
    own.tell(found)
