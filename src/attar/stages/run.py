"""A finished run, read back: what the manifests of its stages say, as typed values.

Reports, exporters, benchmarks and the stages themselves read these; nothing else knows the keys of a manifest. Every
number is checked before anybody shows it. What an earlier attar did not write down has a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import AliasPath, Field

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.core.spent import Spent
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
"""Where each stage's work lies in a run."""
IMPORTED = "given"
"""The method of images that were made elsewhere, as manifests name it."""


class Manifest(pydantic.BaseModel):
    """What every stage writes down last."""

    path: Path
    """The file."""
    stage: str
    request: dict[str, Any]
    """What was asked for, as plain values with every default written out."""
    identity: dict[str, Any]
    """What identifies the work, as plain values; what an earlier attar was asked for."""
    parents: dict[str, str] = {}
    """Content hashes of what the stage started from."""
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
        """Whether the work was taken from elsewhere, so that what it took is not known."""
        return False

    @property
    def spent(self) -> Spent:
        """What the work took; raises AttarError where the manifest does not say or says the impossible."""
        try:
            seconds = pydantic.TypeAdapter(Seconds).validate_python(self.device_seconds)
            processor = pydantic.TypeAdapter(Seconds | None).validate_python(self.processor_seconds)
        except pydantic.ValidationError as error:
            raise AttarError(
                f"{self.path} is damaged (seconds: {first_fault(error)}); delete the folder {self.folder} to make it "
                f"anew."
            ) from None
        return Spent(seconds, processor)


class TeacherMade(Manifest):
    """A finished teacher."""

    weights_sha256: str = Field(validation_alias=AliasPath("result", "weights_sha256"))
    top1: Fraction | None = Field(default=None, validation_alias=AliasPath("result", "top1"))
    """Accuracy on real validation images; None where its classes are not the data's."""
    weights_from: str = Field(default="", validation_alias=AliasPath("result", "weights_from"))
    """The file that its weights were taken from, as it was named."""
    weights: str = Field(default="", validation_alias=AliasPath("request", "squeeze", "weights"))
    module: str = Field(default="", validation_alias=AliasPath("request", "module"))

    @property
    def made_elsewhere(self) -> bool:
        """Whether it was not trained in this run."""
        return bool(self.weights or self.module)


class ImagesMade(Manifest):
    """A finished set of images."""

    method: str = Field(validation_alias=AliasPath("request", "method"))
    settings: dict[str, Any] = Field(validation_alias=AliasPath("request", "recover"))
    """The method's, as plain values; of imported images their number and identity."""
    images_sha256: str = Field(validation_alias=AliasPath("result", "images_sha256"))
    num_images: Count = Field(validation_alias=AliasPath("result", "num_images"))
    image_bytes: Count = Field(validation_alias=AliasPath("result", "image_bytes"))
    classes: tuple[str, ...] = Field(validation_alias=AliasPath("result", "classes"))
    storage: Storage = Field(default=Storage(), validation_alias=AliasPath("result", "storage"))
    """How stored images are decoded."""
    files: dict[str, Any] = {}

    @property
    def made_elsewhere(self) -> bool:
        """Whether the images were imported."""
        return self.method == IMPORTED

    def listed(self, below: str) -> Mapping[str, sealed.SealedFile]:
        """The files in this sub-folder that the manifest lists; none where an earlier attar wrote it."""
        return sealed.below(listed({"files": self.files}, self.folder), below)


class LabelsMade(Manifest):
    """A finished set of images with labels."""

    settings: dict[str, Any] = Field(validation_alias=AliasPath("request", "relabel"))
    """Relabel's, as plain values."""
    data: dict[str, Any] = Field(default={}, validation_alias=AliasPath("request", "data"))
    """How real images were prepared, as plain values."""

    @property
    def imported_sha256(self) -> str:
        """What imported labels are known by; '' where the teacher made the labels."""
        return self.parents.get("labels", "")

    @property
    def made_elsewhere(self) -> bool:
        """Whether the labels were imported."""
        return bool(self.settings.get("imported"))


class EvaluationAsked(Manifest):
    """What an evaluation was asked for."""

    rows: tuple[Row, ...] = Field(default=(), validation_alias=AliasPath("request", "evaluate", "rows"))
    students: tuple[str, ...] = Field(default=(), validation_alias=AliasPath("request", "evaluate", "students"))
    student_stem: Stem = Field(default="auto", validation_alias=AliasPath("request", "evaluate", "student_stem"))
    num_seeds: Count = Field(default=1, validation_alias=AliasPath("request", "evaluate", "num_seeds"))
    protocol: dict[str, Any] = Field(default={}, validation_alias=AliasPath("request", "evaluate", "protocol"))
    """As plain values."""


Made = TypeVar("Made", bound=Manifest)


@dataclass(frozen=True)
class Run:
    """A run by its folder. Everything raises AttarError where its stage is not finished, or its files are damaged."""

    path: Path

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage is finished; squeeze with its first teacher."""
        folder = self.path / FOLDERS[stage]
        return bool(teacher_folders(folder)) if stage == "squeeze" else is_finished(folder)

    @property
    def teachers(self) -> tuple[TeacherMade, ...]:
        """The teachers that are finished, by their numbers; raises AttarError where none is."""
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
        """What the evaluation was asked for."""
        return _read(EvaluationAsked, self.path / FOLDERS["evaluate"], "evaluate")

    @property
    def scores(self) -> Evaluation:
        """The evaluation. What those of an older attar lack is taken from their accuracies by class."""
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
        """The accuracies of all students, those that diverged too; any attar wrote these."""
        path, result = self._result()
        try:
            found = pydantic.TypeAdapter(list[Accuracy]).validate_python(result.get("scores"))
        except pydantic.ValidationError as error:
            raise AttarError(f"{path} is damaged (scores.{first_fault(error)}); {AGAIN}.") from None
        pairs = zip(found, result["scores"], strict=True)
        return [one.model_copy(update={"diverged": diverged(entry)}) for one, entry in pairs]

    @property
    def per_class(self) -> PerClass:
        """Every student's accuracy by class; raises AttarError where it is that of another evaluation, too."""
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

    def spent(self) -> dict[str, Spent]:
        """What the stages took, as far as they are done; squeeze is all teachers, evaluate all its students."""
        found = dict[str, list[Spent]]()
        for made in (_read(Manifest, folder, "run") for folder in self._done().values()):
            found.setdefault(made.stage, []).append(made.spent)
        return {stage: total(parts) for stage, parts in found.items()}

    def plain(self) -> dict[str, dict[str, Any]]:
        """The manifests of the stages that are done, as they are, without their lists of files.

        Of several teachers the first is 'squeeze', the others are 'squeeze/1', 'squeeze/2' and so on.
        """
        found = {name: manifest_of(folder, "run") for name, folder in self._done().items()}
        return {name: {key: value for key, value in made.items() if key != "files"} for name, made in found.items()}

    def _done(self) -> dict[str, Path]:
        teachers = enumerate(teacher_folders(self.path / FOLDERS["squeeze"]))
        found = {f"squeeze/{place}" if place else "squeeze": folder for place, folder in teachers}
        others = {stage: self.path / FOLDERS[stage] for stage in ("recover", "relabel", "evaluate")}
        return found | {stage: folder for stage, folder in others.items() if is_finished(folder)}

    def _result(self) -> tuple[Path, dict[str, Any]]:
        folder = self.path / FOLDERS["evaluate"]
        return folder / MANIFEST, manifest_of(folder, "evaluate")["result"]


def is_finished(folder: Path) -> bool:
    """Whether a stage has finished its work in this folder."""
    return (folder / MANIFEST).is_file()


def teacher_folders(squeeze: Path) -> list[Path]:
    """The folders of all finished teachers in a ``squeeze`` folder, by their numbers.

    A single teacher lies in ``squeeze`` itself, and so may the first of several.
    """
    flat = [squeeze] if is_finished(squeeze) else []
    return flat + [folder for folder in numbered(squeeze) if is_finished(folder) and not (flat and folder.name == "0")]


def numbered(squeeze: Path) -> list[Path]:
    """The folders in ``squeeze`` that are named by a number, by their numbers."""
    found = [path for path in squeeze.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def teacher_in(folder: Path) -> TeacherMade:
    """The manifest of a squeeze folder; raises AttarError where it is not finished, or damaged."""
    return _read(TeacherMade, folder, "squeeze")


def images_in(folder: Path) -> ImagesMade:
    """The manifest of a folder of recovered or imported images; raises AttarError as ``teacher_in`` does."""
    return _read(ImagesMade, folder, "recover")


def labels_in(folder: Path) -> LabelsMade:
    """The manifest of a distilled folder; raises AttarError as ``teacher_in`` does."""
    return _read(LabelsMade, folder, "relabel")


def made_in(folder: Path) -> Manifest:
    """What all manifests have, of the stage that made this folder; raises AttarError as ``teacher_in`` does."""
    kinds = {"squeeze": TeacherMade, "recover": ImagesMade, "relabel": LabelsMade}
    return _read(kinds.get(_read(Manifest, folder, "run").stage, Manifest), folder, "run")


def _read(kind: type[Made], folder: Path, made_by: str) -> Made:
    path = folder / MANIFEST
    try:
        manifest = manifest_of(folder, made_by)
        return kind.model_validate({**manifest, "identity": identity_of(manifest), "path": path})
    except pydantic.ValidationError as error:
        raise AttarError(
            f"{path} is damaged ({first_fault(error)}); delete the folder {folder} to make it anew."
        ) from None
