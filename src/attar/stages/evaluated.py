"""A finished evaluation, read back: every number is checked before a table shows it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.stages.folder import MANIFEST, manifest_of
from attar.stages.scores import Fraction, Score, Seconds, first_fault
from attar.store import atomic, sealed

PER_CLASS = "per-class.json"
_MEND = "run 'attar evaluate' with the same --out, which writes it anew"
Count = Annotated[int, pydantic.Field(ge=0)]


class Accuracy(pydantic.BaseModel):
    """What one student achieves, a fraction of the validation images."""

    row: str
    student: str
    protocol: str
    seed: Count
    top1: Fraction
    diverged: bool = False


class Entry(Accuracy):
    """The score of one student; all are fractions."""

    top5: Fraction
    class_top1: Fraction | None = None
    """Mean over the classes that have validation images; None in evaluations of an older attar."""
    ece: Fraction
    confidence: Fraction
    seconds: Seconds
    processor_seconds: Seconds | None = None
    device: str


class Facts(pydantic.BaseModel):
    """What a row's training set takes and what was spent on it; None where it is not known."""

    num_images: Count
    image_bytes: Count
    label_bytes: Count
    teacher_seconds: Seconds | None
    images_seconds: Seconds | None
    labels_seconds: Seconds | None
    teacher_processor_seconds: Seconds | None = None
    images_processor_seconds: Seconds | None = None
    labels_processor_seconds: Seconds | None = None
    teacher_agreement: Fraction | None


class ClassScore(pydantic.BaseModel):
    """Accuracies of one student by class; None for a class without validation images."""

    row: str
    student: str
    seed: Count
    top1: tuple[Fraction | None, ...]
    diverged: bool = False


class PerClass(pydantic.BaseModel):
    """Every student's accuracies by class, in the order of the scores."""

    classes: tuple[str, ...]
    titles: dict[str, str]
    scores: tuple[ClassScore, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _all_classes(self) -> "PerClass":
        other = next((len(score.top1) for score in self.scores if len(score.top1) != len(self.classes)), None)
        if other is not None:
            raise ValueError(f"a student has accuracies of {other} classes, and there are {len(self.classes)}")
        return self


class Evaluated(pydantic.BaseModel):
    """What an evaluation found."""

    scores: tuple[Entry, ...] = pydantic.Field(min_length=1)
    rows: dict[str, Facts]
    num_classes: Count
    num_unmeasured: Count
    """Classes without validation images."""

    @pydantic.model_validator(mode="after")
    def _rows_known(self) -> "Evaluated":
        stranger = next((score.row for score in self.scores if score.row not in self.rows), None)
        if stranger is not None:
            raise ValueError(f"nothing is said of the row '{stranger}'")
        return self


def read(run: Path) -> Evaluated:
    """The evaluation of a run; raises AttarError when it is not finished, damaged, or holds impossible numbers.

    What evaluations of an older attar lack is taken from their accuracies by class.
    """
    path = run / "evaluate" / MANIFEST
    result = manifest_of(run / "evaluate", "evaluate").get("result")
    if not isinstance(result, dict) or "rows" not in result:
        raise AttarError(f"{run / 'evaluate'} was written by an older attar; run 'attar evaluate' with the same --out.")
    if "num_classes" not in result:
        result = _completed(result, read_per_class(run), path)
    try:
        return Evaluated.model_validate(result)
    except pydantic.ValidationError as error:
        raise AttarError(f"{path} is damaged ({first_fault(error)}); {_MEND}.") from None


def accuracies(run: Path) -> list[Accuracy]:
    """The accuracies of the students of a run that did not diverge; raises AttarError as ``read`` does."""
    path = run / "evaluate" / MANIFEST
    result = manifest_of(run / "evaluate", "evaluate").get("result", {})
    try:
        found = pydantic.TypeAdapter(list[Accuracy]).validate_python(result.get("scores"))
    except pydantic.ValidationError as error:
        raise AttarError(f"{path} is damaged (scores.{first_fault(error)}); {_MEND}.") from None
    return [one for one, entry in zip(found, result["scores"], strict=True) if not _diverged(entry)]


def _completed(result: dict[str, Any], by_class: PerClass, path: Path) -> dict[str, Any]:
    found = result.get("scores")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    if len(entries) != len(by_class.scores):
        raise AttarError(f"{path} and {PER_CLASS} beside it are of two evaluations; {_MEND}.")
    scores = []
    for entry, own in zip(entries, by_class.scores, strict=True):
        known = [share for share in own.top1 if share is not None]
        scores.append({"class_top1": sum(known) / max(1, len(known)), "diverged": _diverged(entry)} | entry)
    unmeasured = by_class.scores[0].top1.count(None)
    return result | {"scores": scores, "num_classes": len(by_class.classes), "num_unmeasured": unmeasured}


def _diverged(entry: Mapping[str, Any]) -> bool:
    """Whether the student of a manifest's entry diverged; before that was written down, it was sure of nothing."""
    return bool(entry.get("diverged", entry.get("confidence") == 0))


def write_per_class(folder: Path, classes: Sequence[str], titles: Mapping[str, str], scores: Sequence[Score]) -> str:
    """Write every student's accuracy by class, which would make the manifest long; returns the file's identity."""
    every = [
        {
            "row": score.row,
            "student": score.student,
            "seed": score.seed,
            "diverged": score.diverged,
            "top1": list(score.per_class),
        }
        for score in scores
    ]
    content = {"classes": list(classes), "titles": dict(titles), "scores": every}
    known_by = digest(content)
    atomic.write_text(folder / PER_CLASS, json.dumps(content | {sealed.KEY: known_by}, ensure_ascii=False) + "\n")
    return known_by


def read_per_class(run: Path) -> PerClass:
    """Every student's accuracy by class; raises AttarError when the file is missing, damaged or of another run."""
    path = run / "evaluate" / PER_CLASS
    try:
        content = sealed.read_json(path, _MEND)
        found = PerClass.model_validate(content)
    except FileNotFoundError:
        raise AttarError(f"{path} is missing; {_MEND}.") from None
    except pydantic.ValidationError as error:
        raise AttarError(f"{path} is damaged ({first_fault(error)}); {_MEND}.") from None
    if (run / "evaluate" / MANIFEST).is_file():
        result = manifest_of(run / "evaluate", "evaluate").get("result", {})
        if result.get("per_class_sha256") not in (None, digest(content)):
            raise AttarError(f"{path} is of another evaluation than {MANIFEST} beside it; {_MEND}.")
        if "per_class_sha256" not in result:  # as an older attar wrote them
            pairs = zip(found.scores, result.get("scores", ()), strict=False)
            broken = [own.model_copy(update={"diverged": _diverged(entry)}) for own, entry in pairs]
            return found.model_copy(update={"scores": (*broken, *found.scores[len(broken) :])})
    return found
