"""Say, before anything is made, that a set would outgrow the bytes that its recipe allows for images and labels."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from attar.core.log import readable_bytes
from attar.data.choice import DataChoice
from attar.data.order import spread
from attar.data.source import RealData
from attar.data.survey import STORED, stored_bytes
from attar.models import compact
from attar.plan.budget import GIVEN_HEADER_BYTES, last_fitting, most_file_bytes, noise_bytes
from attar.plan.calibrate import Work, untrained_teacher
from attar.stages import label_choice
from attar.stages.choices import Relabel
from attar.stages.dataset_files import folder_bytes
from attar.stages.dataset_info import DatasetInfo, LabelInfo, read_info
from attar.stages.members import choose
from attar.stages.rows import use_soft_labels
from attar.stages.run import IMPORTED, ImagesMade, LabelsMade, Run


def warning(
    budget: int,
    work: Work,
    real: RealData,
    choice: DataChoice,
    out: Path | None = None,
    modules: Sequence[nn.Module] = (),
) -> str:
    """Return a sentence if images and labels could take more than ``budget`` bytes; '' if they could not, or it is 0.

    ``choice`` says how the ``real`` pictures are resized. Images and labels that the run in ``out`` has made count with
    the bytes that they take, others with the most that they could take. ``modules`` are the caller's networks in place
    of teachers. Imported images are not reckoned.
    """
    ipc = work.recover.ipc
    if not budget or work.method == IMPORTED:
        return ""
    reckoned = _Reckoned(work, real, choice, Run(out) if out else None, tuple(modules))
    needed = reckoned.num_bytes(ipc)
    if needed <= budget:
        return ""
    least = 0 if reckoned.made is None else reckoned.made.settings["ipc"]
    most = last_fitting(lambda ipc: reckoned.num_bytes(ipc) <= budget, ipc - 1)
    change = f"lower --recover.ipc to {most}" if most >= max(1, least) else "make a smaller set with another --out"
    over, size = readable_bytes(needed), readable_bytes(budget)
    if over == size:
        over, size = f"{needed:,} bytes", f"{budget:,}"
    labels = readable_bytes(reckoned.label_bytes(ipc)) if reckoned.soft else "none"
    return (
        f"with {ipc} images per class, images and labels could take up to {over} (labels: {labels}), and the budget of "
        f"this recipe is {size}: {change}, or set --budget-bytes {needed}"
    )


@dataclass(frozen=True)
class _Reckoned:
    """Bytes of a recipe's images and labels, for any number of images per class."""

    work: Work
    real: RealData
    choice: DataChoice
    run: Run | None
    modules: tuple[nn.Module, ...]

    def num_bytes(self, ipc: int) -> int:
        return self.image_bytes(ipc) + (self.label_bytes(ipc) if self.soft else 0)

    def image_bytes(self, ipc: int) -> int:
        """Those that are made as they are, and others at most; of real pictures about."""
        num_images, made = ipc * self.work.num_classes, self.made
        if made is None or num_images < made.num_images:
            return self._most(num_images)
        return made.image_bytes + self._most(num_images) - self._most(made.num_images)

    def label_bytes(self, ipc: int) -> int:
        config, num_classes, made = self.work.relabel, self.work.num_classes, self._labelled
        count = ipc * num_classes
        if made is not None and made[0].num_images == count and not config.unlike(made[1].settings):
            return made[0].label_bytes
        if config.mode == "online":
            return self._teacher_bytes
        if config.mode == "given":
            return count * num_classes * 4 + GIVEN_HEADER_BYTES
        return label_choice.planned_bytes(count, num_classes, config, self.work.size, self.work.recover.storage())

    def _most(self, num_images: int) -> int:
        return most_file_bytes(num_images, self._largest, self.real.classes)

    @property
    def soft(self) -> bool:
        """Whether students need the soft labels, so that their bytes count."""
        judging = self.work.evaluate
        return self.work.relabel.mode != "none" and use_soft_labels(judging.rows) and judging.protocol.loss != "hard"

    @cached_property
    def made(self) -> ImagesMade | None:
        """The run's finished images, if the method can have made them."""
        if self.run is None or not self.run.is_done("recover"):
            return None
        images = self.run.images
        same = images.method == self.work.method and len(images.classes) == self.work.num_classes
        return images if same and "ipc" in images.settings else None

    @cached_property
    def _labelled(self) -> tuple[DatasetInfo, LabelsMade] | None:
        """The run's finished set with its labels."""
        if self.run is None or not self.run.is_done("relabel"):
            return None
        return read_info(self.run.labels.folder), self.run.labels

    @cached_property
    def _largest(self) -> int:
        """Bytes of an image at most; of a real picture that is stored as it is, in the mean."""
        config, size = self.work.recover, self.work.size
        if not config.needs().stores_real_pixels or self.work.iterations:
            return noise_bytes(config, size)
        train = self.real.train
        places = spread(len(train), None, STORED)
        how = (size, config.image_format, config.image_quality)
        return round(stored_bytes(train, places, self.choice.resize, *how))

    @cached_property
    def _teacher_bytes(self) -> int:
        """Bytes of the teachers of online labels: of the stored ones, or of untrained ones."""
        config = self.work.relabel
        if self._labelled is not None and _same_teachers(self._labelled[0].labels, config):
            return self._labelled[0].label_bytes
        asked = choose(len(self.modules) or len(self.work.squeeze.each), config.committee.members, "")
        if self.modules:
            states = (self.modules[index].state_dict() for index in asked)
            return sum(compact.stored_bytes(state, config.teacher_precision) for state in states)
        with tempfile.TemporaryDirectory() as folder:
            for index in asked:
                teacher = replace(untrained_teacher(self.work, index), classes=self.real.classes)
                teacher.save(Path(folder) / str(index), config.teacher_precision)
            return folder_bytes(Path(folder))


def _same_teachers(made: LabelInfo, config: Relabel) -> bool:
    same = made.mode == "online" and made.teacher_precision == config.teacher_precision
    return same and made.committee.members == config.committee.members
