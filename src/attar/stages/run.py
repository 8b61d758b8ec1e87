"""Read a finished run: its manifests as typed, checked values.

Reports, exporters, benchmarks and stages read manifests only through this module. Values that older versions did not
record have defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import AliasPath, Field

from attar.core.config import digest
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.models.choices import Stem
from attar.ops.choices import Storage
from attar.stages.evaluation import (
    AGAIN,
    PER_CLASS,
    Accuracy,
    Count,
    Evaluation,
    Fraction,
    PerClass,
    Seconds,
    completed,
    diverged,
    first_fault,
)
from attar.stages.folder import MANIFEST, identity_of, listed, manifest_of, total
from attar.stages.rows import Row
from attar.store import sealed

Stage = Literal["squeeze", "recover", "relabel", "evaluate"]
FOLDERS: dict[Stage, str] = {
    "squeeze": "squeeze",
    "recover": "recover",
    "relabel": "distilled",
    "evaluate": "evaluate",
}
"""Folder of each stage in a run."""
EXPERTS = "experts"
"""Folder of experts in the folder of squeeze."""
IMPORTED = "imported"
"""Method name of imported images in manifests; manifests until 26 November 2026 call it 'given'."""


class Manifest(pydantic.BaseModel):
    """The manifest that every stage writes last."""

    path: Path
    """The file."""
    stage: str
    request: dict[str, Any]
    """Settings of the stage as plain values, with all defaults."""
    identity: dict[str, Any]
    """Identifying settings as plain values; for older versions the whole request."""
    parents: dict[str, str] = {}
    """Content hashes of the stage's inputs."""
    device: str = ""
    versions: dict[str, str] = {}
    device_seconds: Any = None
    processor_seconds: Any = None

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return self.path.parent

    @property
    def made_elsewhere(self) -> bool:
        """Whether the result was imported, so that its cost is unknown."""
        return False

    @property
    def elapsed(self) -> Elapsed:
        """Time that the stage took; raises AttarError when the manifest lacks it or it is impossible."""
        try:
            seconds = pydantic.TypeAdapter(Seconds).validate_python(self.device_seconds)
            processor = pydantic.TypeAdapter(Seconds | None).validate_python(self.processor_seconds)
        except pydantic.ValidationError as error:
            raise AttarError(
                f"{self.path} is damaged (seconds: {first_fault(error)}); delete the folder {self.folder} to make it "
                f"again."
            ) from None
        return Elapsed(seconds, processor)


class TeacherMade(Manifest):
    """A finished teacher."""

    weights_sha256: str = Field(validation_alias=AliasPath("result", "weights_sha256"))
    top1: Fraction | None = Field(default=None, validation_alias=AliasPath("result", "top1"))
    """Accuracy on real validation images; None when the teacher's classes are not the data's."""
    weights_from: str = Field(default="", validation_alias=AliasPath("result", "weights_from"))
    """File that the weights were imported from, as typed."""
    weights: str = Field(default="", validation_alias=AliasPath("request", "squeeze", "weights"))
    module: str = Field(default="", validation_alias=AliasPath("request", "module"))

    @property
    def made_elsewhere(self) -> bool:
        """Whether the teacher was imported instead of trained in this run."""
        return bool(self.weights or self.module)


class ImagesMade(Manifest):
    """A finished set of images."""

    method: str = Field(validation_alias=AliasPath("request", "method"))
    settings: dict[str, Any] = Field(validation_alias=AliasPath("request", "recover"))
    """Settings of the method as plain values; for imported images their number and identity."""
    images_sha256: str = Field(validation_alias=AliasPath("result", "images_sha256"))
    num_images: Count = Field(validation_alias=AliasPath("result", "num_images"))
    image_bytes: Count = Field(validation_alias=AliasPath("result", "image_bytes"))
    classes: tuple[str, ...] = Field(validation_alias=AliasPath("result", "classes"))
    storage: Storage = Field(default=Storage(), validation_alias=AliasPath("result", "storage"))
    """How to decode stored images."""
    learned: dict[str, float] = Field(default={}, validation_alias=AliasPath("result", "learned"))
    """Numbers that the method learned for the whole set."""
    soft_labels: bool = Field(default=False, validation_alias=AliasPath("result", "soft_labels"))
    """Whether the method made soft labels with the images."""
    files: dict[str, Any] = {}
    val_images: tuple[Count, ...] = Field(default=(), validation_alias=AliasPath("result", "real_images", "val"))
    """Validation images of each class of the data; empty in runs of older versions."""
    makers: tuple[dict[str, Any], ...] = Field(default=(), validation_alias=AliasPath("result", "kept"))
    """Which earlier runs made the images that were kept (``recover.keep_from``), with their classes."""

    @property
    def kept_classes(self) -> tuple[str, ...]:
        """Classes whose images were made by an earlier run."""
        return tuple(name for maker in self.makers for name in maker.get("classes", ()))

    @property
    def used_experts(self) -> bool:
        """Whether the method matched the weights of experts."""
        return EXPERTS in self.parents

    @property
    def made_elsewhere(self) -> bool:
        """Whether the images were imported."""
        return self.method == IMPORTED

    def listed(self, below: str) -> Mapping[str, sealed.SealedFile]:
        """Return the files of a sub-folder that the manifest lists; none in manifests of older versions."""
        return sealed.below(listed({"files": self.files}, self.folder), below)


class LabelsMade(Manifest):
    """A finished set of images with labels."""

    settings: dict[str, Any] = Field(validation_alias=AliasPath("request", "relabel"))
    """Settings of relabel as plain values."""
    data: dict[str, Any] = Field(default={}, validation_alias=AliasPath("request", "data"))
    """Settings of the real data as plain values."""
    grown: tuple[dict[str, Any], ...] = ()
    """Numbers of epochs that the labels had before more were added, each as {epochs: number}."""

    @property
    def imported_sha256(self) -> str:
        """Hash of imported labels; '' when the teacher made the labels."""
        return self.parents.get("labels", "")

    @property
    def made_elsewhere(self) -> bool:
        """Whether the labels were imported."""
        return bool(self.settings.get("imported"))


class EvaluationAsked(Manifest):
    """Settings of an evaluation."""

    rows: tuple[Row, ...] = Field(default=(), validation_alias=AliasPath("request", "evaluate", "rows"))
    students: tuple[str, ...] = Field(default=(), validation_alias=AliasPath("request", "evaluate", "students"))
    student_stem: Stem = Field(default="auto", validation_alias=AliasPath("request", "evaluate", "student_stem"))
    num_seeds: Count = Field(default=1, validation_alias=AliasPath("request", "evaluate", "num_seeds"))
    protocol: dict[str, Any] = Field(default={}, validation_alias=AliasPath("request", "evaluate", "protocol"))
    """Protocol as plain values."""


Made = TypeVar("Made", bound=Manifest)


@dataclass(frozen=True)
class Run:
    """A run, read from its folder. Methods raise AttarError when a stage is unfinished or its files are damaged."""

    path: Path

    def is_done(self, stage: Stage) -> bool:
        """Return whether a stage is finished; squeeze counts with its first teacher."""
        folder = self.path / FOLDERS[stage]
        return bool(teacher_folders(folder)) if stage == "squeeze" else is_finished(folder)

    @property
    def teachers(self) -> tuple[TeacherMade, ...]:
        """The finished teachers by number; raises AttarError when there is none."""
        squeeze = self.path / FOLDERS["squeeze"]
        return tuple(map(teacher_in, teacher_folders(squeeze) or [squeeze]))

    @property
    def images(self) -> ImagesMade:
        """The distilled images."""
        return images_in(self.path / FOLDERS["recover"])

    @property
    def labels(self) -> LabelsMade:
        """The distilled images with their labels."""
        return labels_in(self.path / FOLDERS["relabel"])

    @property
    def asked(self) -> EvaluationAsked:
        """The settings of the evaluation."""
        return _read(EvaluationAsked, self.path / FOLDERS["evaluate"], "evaluate")

    @property
    def scores(self) -> Evaluation:
        """The evaluation's results; for older versions missing means are computed from the accuracies by class."""
        path, result = self._result()
        if "rows" not in result:
            raise AttarError(f"{path.parent} was written by an older attar; run 'attar evaluate' with the same --out.")
        if "num_classes" not in result:
            result = completed(result, self.per_class, path)
        try:
            return Evaluation.model_validate(result)
        except pydantic.ValidationError as error:
            raise AttarError(f"{path} is damaged ({first_fault(error)}); {AGAIN}.") from None

    @property
    def accuracies(self) -> list[Accuracy]:
        """The accuracies of all students, including diverged ones, from any version of attar."""
        path, result = self._result()
        try:
            found = pydantic.TypeAdapter(list[Accuracy]).validate_python(result.get("scores"))
        except pydantic.ValidationError as error:
            raise AttarError(f"{path} is damaged (scores.{first_fault(error)}); {AGAIN}.") from None
        pairs = zip(found, result["scores"], strict=True)
        return [one.model_copy(update={"diverged": diverged(entry)}) for one, entry in pairs]

    @property
    def per_class(self) -> PerClass:
        """Every student's accuracy by class; also raises AttarError when it belongs to another evaluation."""
        path = self.path / FOLDERS["evaluate"] / PER_CLASS
        try:
            content = sealed.read_json(path, AGAIN)
            found = PerClass.model_validate(content)
        except FileNotFoundError:
            raise AttarError(f"{path} is missing; {AGAIN}.") from None
        except pydantic.ValidationError as error:
            raise AttarError(f"{path} is damaged ({first_fault(error)}); {AGAIN}.") from None
        if self.is_done("evaluate"):
            _, result = self._result()
            if result.get("per_class_sha256") not in (None, digest(content)):
                raise AttarError(f"{path} is of another evaluation than {MANIFEST} beside it; {AGAIN}.")
            if "per_class_sha256" not in result:  # as an older attar wrote them
                pairs = zip(found.scores, result.get("scores", ()), strict=False)
                broken = [own.model_copy(update={"diverged": diverged(entry)}) for own, entry in pairs]
                return found.model_copy(update={"scores": (*broken, *found.scores[len(broken) :])})
        return found

    def elapsed(self) -> dict[str, Elapsed]:
        """Time of each finished stage; squeeze covers all teachers and experts, evaluate all students."""
        found = dict[str, list[Elapsed]]()
        for made in (_read(Manifest, folder, "run") for folder in self._done().values()):
            found.setdefault(made.stage, []).append(made.elapsed)
        return {stage: total(parts) for stage, parts in found.items()}

    def plain(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of the finished stages, without their lists of files.

        With several teachers the first is 'squeeze', the others are 'squeeze/1', 'squeeze/2' and so on; experts are
        'squeeze/experts'.
        """
        found = {name: manifest_of(folder, "run") for name, folder in self._done().items()}
        return {name: {key: value for key, value in made.items() if key != "files"} for name, made in found.items()}

    def _done(self) -> dict[str, Path]:
        teachers = enumerate(teacher_folders(self.path / FOLDERS["squeeze"]))
        found = {f"squeeze/{place}" if place else "squeeze": folder for place, folder in teachers}
        if is_finished(experts := self.path / FOLDERS["squeeze"] / EXPERTS):
            found[f"squeeze/{EXPERTS}"] = experts
        others = {stage: self.path / FOLDERS[stage] for stage in ("recover", "relabel", "evaluate")}
        return found | {stage: folder for stage, folder in others.items() if is_finished(folder)}

    def _result(self) -> tuple[Path, dict[str, Any]]:
        folder = self.path / FOLDERS["evaluate"]
        return folder / MANIFEST, manifest_of(folder, "evaluate")["result"]


def is_finished(folder: Path) -> bool:
    """Return whether the stage in this folder is finished."""
    return (folder / MANIFEST).is_file()


def teacher_folders(squeeze: Path) -> list[Path]:
    """Return the folders of all finished teachers in a ``squeeze`` folder, by number.

    A single teacher is stored in ``squeeze`` itself, and so may be the first of several.
    """
    flat = [squeeze] if is_finished(squeeze) else []
    return flat + [folder for folder in numbered(squeeze) if is_finished(folder) and not (flat and folder.name == "0")]


def numbered(squeeze: Path) -> list[Path]:
    """Return the numbered folders in ``squeeze``, in order."""
    found = [path for path in squeeze.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def teacher_in(folder: Path) -> TeacherMade:
    """Return the manifest of a squeeze folder; raises AttarError when it is unfinished or damaged."""
    return _read(TeacherMade, folder, "squeeze")


def images_in(folder: Path) -> ImagesMade:
    """Return the manifest of recovered or imported images; raises AttarError as ``teacher_in`` does."""
    return _read(ImagesMade, folder, "recover")


def labels_in(folder: Path) -> LabelsMade:
    """Return the manifest of a distilled folder; raises AttarError as ``teacher_in`` does."""
    return _read(LabelsMade, folder, "relabel")


def made_in(folder: Path) -> Manifest:
    """Return the fields common to all manifests, for the stage in this folder; raises as ``teacher_in`` does."""
    kinds = {"squeeze": TeacherMade, "recover": ImagesMade, "relabel": LabelsMade}
    kind = kinds.get(_read(Manifest, folder, "run").stage, Manifest)
    return _read(Manifest if folder.name == EXPERTS else kind, folder, "run")


def _read(kind: type[Made], folder: Path, made_by: str) -> Made:
    path = folder / MANIFEST
    try:
        manifest = manifest_of(folder, made_by)
        return kind.model_validate({**manifest, "identity": identity_of(manifest), "path": path})
    except pydantic.ValidationError as error:
        raise AttarError(
            f"{path} is damaged ({first_fault(error)}); delete the folder {folder} to make it again."
        ) from None
