"""Results of an evaluation as typed, checked values: scores of students, costs of rows, accuracies by class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from attar.core.errors import AttarError
from attar.stages.rows import Row

PER_CLASS = "per-class.json"
AGAIN = "run 'attar evaluate' with the same --out, which writes it again"
"""What to do about a damaged evaluation, for error sentences."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Accuracy(pydantic.BaseModel):
    """One student's accuracy, as a fraction of the validation images."""

    row: Row
    student: str
    protocol: str
    seed: Count
    top1: Fraction
    diverged: bool = False


class StudentScore(Accuracy):
    """The score of one student; all are fractions."""

    top5: Fraction
    class_top1: Fraction | None = None
    """Mean over the classes that have validation images; None in evaluations of older versions."""
    ece: Fraction
    confidence: Fraction
    seconds: Seconds
    processor_seconds: Seconds | None = None
    device: str
    image_bytes: Count = 0
    label_bytes: Count = 0


class RowFacts(pydantic.BaseModel):
    """Size and cost of a row's training set; None where unknown."""

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
    all_real: bool = False
    """Whether the images are all real training images."""


class ClassScores(pydantic.BaseModel):
    """Accuracies of one student by class; None for a class without validation images."""

    row: Row
    student: str
    seed: Count
    top1: tuple[Fraction | None, ...]
    diverged: bool = False


class PerClass(pydantic.BaseModel):
    """Every student's accuracies by class, in the order of the scores."""

    classes: tuple[str, ...]
    titles: dict[str, str]
    scores: tuple[ClassScores, ...] = Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _all_classes(self) -> "PerClass":
        other = next((len(score.top1) for score in self.scores if len(score.top1) != len(self.classes)), None)
        if other is not None:
            raise ValueError(f"a student has accuracies of {other} classes, and there are {len(self.classes)}")
        return self


class Evaluation(pydantic.BaseModel):
    """Results of an evaluation."""

    scores: tuple[StudentScore, ...] = Field(min_length=1)
    rows: dict[Row, RowFacts]
    num_classes: Count
    num_unmeasured: Count
    """Classes without validation images."""
    val_images: tuple[Count, ...] = ()
    """Validation images of each class, on which the students were measured; empty in evaluations of older versions."""

    @pydantic.model_validator(mode="after")
    def _rows_known(self) -> "Evaluation":
        stranger = next((score.row for score in self.scores if score.row not in self.rows), None)
        if stranger is not None:
            raise ValueError(f"a score belongs to the row '{stranger}', which 'rows' does not list")
        return self


def first_fault(error: pydantic.ValidationError) -> str:
    """Return the first validation error: where it is, what was expected, and what was found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r:.60}"


def completed(result: dict[str, Any], by_class: PerClass, path: Path) -> dict[str, Any]:
    """Return an older version's results, with the means and marks that it did not record."""
    found = result.get("scores")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    if len(entries) != len(by_class.scores):
        raise AttarError(f"{path} and {PER_CLASS} beside it are of two evaluations; {AGAIN}.")
    scores = []
    for entry, own in zip(entries, by_class.scores, strict=True):
        known = [share for share in own.top1 if share is not None]
        scores.append({"class_top1": sum(known) / max(1, len(known)), "diverged": diverged(entry)} | entry)
    unmeasured = by_class.scores[0].top1.count(None)
    return result | {"scores": scores, "num_classes": len(by_class.classes), "num_unmeasured": unmeasured}


def diverged(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry's student diverged; older versions recorded zero confidence instead."""
    return bool(entry.get("diverged", entry.get("confidence") == 0))
