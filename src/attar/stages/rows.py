"""Rows of a result table: which images students train on, and with which labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic_core import CoreSchema, PydanticKnownError, SchemaSerializer, core_schema

Images = Literal["distilled", "random", "herding", "kcentre", "equal-bytes", "full"]
Labels = Literal["soft", "hard", "noaug"]

REAL_SETS: tuple[Images, ...] = ("random", "herding", "kcentre")
"""Methods that choose real images; each makes the images of a baseline."""


@dataclass(frozen=True)
class Row:
    """One row of a result table. Recipes, command lines and files write it as text: 'distilled', 'random-hard'."""

    images: Images
    """'distilled', real images that a method of ``REAL_SETS`` chose, 'equal-bytes': as many random real images as fit
    into the bytes of the distilled images and labels, or 'full': all real images."""
    labels: Labels = "soft"
    """'soft': the run's soft labels; 'hard': classes; 'noaug': soft labels of the images without augmentation."""

    __pydantic_serializer__: ClassVar[SchemaSerializer]

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Parse a row from text; returns a Row unchanged. Raises ValueError for an unknown row."""
        if isinstance(text, cls):
            return text
        for row in KNOWN:
            if text == str(row):
                return cls(row.images, row.labels)
        raise PydanticKnownError("literal_error", {"expected": _listed(list(map(repr, map(str, KNOWN))))})

    def __str__(self) -> str:
        if self in (EQUAL_BYTES, FULL):
            return self.images
        soft = "-soft" if self.images in REAL_SETS else ""
        return self.images + (soft if self.labels == "soft" else f"-{self.labels}")

    @property
    def title(self) -> str:
        """Describe in words what the row's students train on."""
        images = {"random": "random real", "kcentre": "k-centre", "full": "all real images"}
        images["equal-bytes"] = "real, as many bytes"
        labels = {"soft": "soft labels", "hard": "hard labels", "noaug": "no augmentation"}
        said = images.get(self.images, self.images)
        return said if self in (EQUAL_BYTES, FULL, DISTILLED) else f"{said}, {labels[self.labels]}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=_AS_TEXT)


_AS_TEXT = core_schema.plain_serializer_function_ser_schema(str)
# Asked where a model is written by what its values are, not by what its fields say.
Row.__pydantic_serializer__ = SchemaSerializer(core_schema.any_schema(serialization=_AS_TEXT))

DISTILLED, DISTILLED_HARD, DISTILLED_NOAUG = Row("distilled"), Row("distilled", "hard"), Row("distilled", "noaug")
RANDOM, RANDOM_HARD, RANDOM_NOAUG = Row("random"), Row("random", "hard"), Row("random", "noaug")
EQUAL_BYTES, FULL = Row("equal-bytes", "hard"), Row("full", "hard")


def scored_labels(rows: Iterable[Row]) -> Literal["soft", "hard"]:
    """Return which labels of the distilled images these rows judge: 'hard' if the classes alone, else 'soft'."""
    return "hard" if {row.labels for row in rows if row.images == DISTILLED.images} == {"hard"} else "soft"


def use_soft_labels(rows: Iterable[Row]) -> bool:
    """Return whether students of a row train with soft labels, of whatever images."""
    return any(row.labels != "hard" for row in rows)


ROWS = (
    *(DISTILLED, DISTILLED_HARD),
    *(Row(name, labels) for name in REAL_SETS for labels in ("soft", "hard")),
    *(EQUAL_BYTES, FULL),
)
"""Default rows of a table."""
KNOWN = (
    *(DISTILLED, DISTILLED_HARD, DISTILLED_NOAUG, RANDOM, RANDOM_HARD, RANDOM_NOAUG),
    *(Row(name, labels) for name in REAL_SETS[1:] for labels in ("soft", "hard")),
    *(EQUAL_BYTES, FULL),
)
"""All possible rows."""


@dataclass(frozen=True)
class SmallSet:
    """Folders of a set of images."""

    folder: Path
    """Dataset folder: images and labels."""
    recovered: Path
    """Recover folder in which the images were made."""


def without_twins(rows: Iterable[Row], hard: bool) -> tuple[Row, ...]:
    """Remove rows that would train the same students as another row.

    Under a protocol of hard labels (``hard``) a soft-label row trains the same students as its hard-label twin.
    """
    rows = tuple(rows)
    if not hard:
        return rows
    return tuple(row for row in rows if row.labels != "hard" or Row(row.images, "soft") not in rows)


def real_sets(rows: Iterable[Row]) -> list[str]:
    """Return the names of the sets of real images that these rows need."""
    asked = {row.images for row in rows}
    return [name for name in REAL_SETS if name in asked]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
