"""The content of a distilled dataset's ``dataset.json``: images, labels, teachers, protocol, and hashes of files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.models.choices import CommitteeChoice, StoredPrecision, with_committee
from attar.ops.choices import PLAIN, Storage
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.stages.protocol import Protocol
from attar.store import sealed

INFO = "dataset.json"


_FORMAT_1 = ("teacher", "further_teachers", "teacher_sha256", "teacher_accuracy")


class LabelInfo(Config):
    """The soft labels of a set."""

    mode: Literal["stored", "online", "given", "none"]
    """'stored': files in labels/; 'online': computed by the teacher in teacher/ during training; 'given': made with the
    images by the method, one for all views of an image, in labels/; 'none': there are none, only classes."""
    epochs: int = pydantic.Field(ge=1)
    """Epochs of different views."""
    views: LookChoice
    mix: MixChoice
    committee: CommitteeChoice = CommitteeChoice()
    """How the teachers' logits are combined; ``members`` are teacher numbers of the run, not of this set."""
    teacher_precision: StoredPrecision = "fp32"
    """How the teachers of online labels are stored."""
    imported: bool = False
    """True when the labels were imported instead of made by the teacher."""
    scored: Literal["soft", "hard"] = "soft"
    """Labels that the run's students learn from: 'hard' when they learn from the classes alone, and the soft labels are
    only there besides."""


class TeacherInfo(Config):
    """A teacher that labelled."""

    architecture: str
    weights_sha256: str
    """SHA-256 of the weights file; in sets of format 1 empty for all but the first teacher."""
    accuracy: float | None
    """Top-1 on real validation images, a fraction."""


class DatasetInfo(Config):
    """Content of ``dataset.json``."""

    format: Literal[2] = 2
    """Version of the file format; format 1, which had no list of teachers, can be read too."""
    name: str
    source: str
    """Name of the real dataset."""
    licence: str
    classes: tuple[str, ...]
    """Class names, by label."""
    titles: dict[str, str]
    """English names of classes whose names are identifiers."""
    method: str
    recover: dict[str, object]
    """Settings of the method."""
    num_images: int
    ipc: int
    """Images per class."""
    size: int
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[pydantic.PositiveFloat, pydantic.PositiveFloat, pydantic.PositiveFloat]
    """Normalisation of the teacher's and the student's input."""
    images_sha256: str
    """SHA-256 of the pixels."""
    learned: dict[str, float] = pydantic.Field(default_factory=dict)
    """Numbers that the method learned with the images, such as the student's learning rate."""
    teachers: tuple[TeacherInfo, ...]
    """Teachers that labelled, in the order of the committee's weights; none where there are no soft labels."""
    seed: int
    labels: LabelInfo
    protocol: Protocol
    """How to train students on the labels."""
    image_bytes: int
    label_bytes: int
    versions: dict[str, str]
    storage: Storage = PLAIN
    """How to decode stored images; each may hold several."""
    files: dict[str, sealed.SealedFile] = pydantic.Field(default_factory=dict)
    """Size and SHA-256 of each file of images, labels and teachers, by path; empty in older sets."""

    @pydantic.field_validator("method")
    @classmethod
    def _imported(cls, value: str) -> str:
        """Return today's name of the method of imported images, which was 'given' until 26 November 2026."""
        return "imported" if value == "given" else value

    @pydantic.model_validator(mode="after")
    def _labelled_by_someone(self) -> Self:
        if not self.teachers and self.labels.mode != "none":
            raise ValueError("teachers: the set has soft labels, but no teacher is listed")
        return self

    @pydantic.field_validator("protocol", mode="before")
    @classmethod
    def _without_label_options(cls, value: Any) -> Any:
        return Protocol.upgraded(value) if isinstance(value, Mapping) else value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_format_1(cls, values: Any) -> Any:
        """Convert the keys of format 1 to a committee."""
        if not isinstance(values, Mapping) or values.get("format", 2) != 1:
            return values
        kept = {key: value for key, value in values.items() if key not in _FORMAT_1}
        first = {"architecture": values.get("teacher"), "weights_sha256": values.get("teacher_sha256")}
        first["accuracy"] = values.get("teacher_accuracy")
        others = [
            {"architecture": name, "weights_sha256": "", "accuracy": None}
            for name in values.get("further_teachers", ())
        ]
        labels = values.get("labels")
        if isinstance(labels, Mapping):
            labels = with_committee(labels)
        return kept | {"format": 2, "teachers": [first, *others], "labels": labels}


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write ``dataset.json``, with its own SHA-256."""
    sealed.write_json(folder / INFO, info.plain())


def read_info(folder: Path) -> DatasetInfo:
    """Read ``dataset.json``; raises AttarError when it is missing or damaged."""
    path = folder / INFO
    try:
        return DatasetInfo.of(
            sealed.read_json(path, f"{sealed.FIX_DAMAGED}; where you edited it, remove 'sha256'"), str(path)
        )
    except (FileNotFoundError, NotADirectoryError):
        raise AttarError(
            f"{folder} is not a distilled dataset: {INFO} is missing; give the folder that contains it."
        ) from None
