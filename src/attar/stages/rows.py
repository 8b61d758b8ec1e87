"""The rows of a result table: which images students are trained on, and with which labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic_core import CoreSchema, PydanticKnownError, SchemaSerializer, core_schema

Images = Literal["distilled", "random", "herding", "kcentre", "full"]
Labels = Literal["soft", "hard", "noaug"]

REAL_SETS: tuple[Images, ...] = ("random", "herding", "kcentre")
"""Methods that choose real images; each makes the images of a baseline."""


@dataclass(frozen=True)
class Row:
    """One row of a result table. Recipes, command lines and files write it as text: 'distilled', 'random-hard'."""

    images: Images
    """'distilled', real images that a method of ``REAL_SETS`` chose, or 'full': all real images."""
    labels: Labels = "soft"
    """'soft': the run's soft labels; 'hard': classes; 'noaug': soft labels of the images without augmentation."""

    __pydantic_serializer__: ClassVar[SchemaSerializer]

    @classmethod
    def parse(cls, text: Any) -> Self:
        """The row that is written like this; a row is returned as it is. Raises ValueError where there is none."""
        if isinstance(text, cls):
            return text
        for row in KNOWN:
            if text == str(row):
                return cls(row.images, row.labels)
        raise PydanticKnownError("literal_error", {"expected": _listed(list(map(repr, map(str, KNOWN))))})

    def __str__(self) -> str:
        if self == FULL:
            return "full"
        soft = "-soft" if self.images in REAL_SETS else ""
        return self.images + (soft if self.labels == "soft" else f"-{self.labels}")

    @property
    def title(self) -> str:
        """What its students are trained on, in words."""
        images = {"random": "random real", "kcentre": "k-centre", "full": "all real images"}
        labels = {"soft": "soft labels", "hard": "hard labels", "noaug": "no augmentation"}
        said = images.get(self.images, self.images)
        return said if self in (FULL, DISTILLED) else f"{said}, {labels[self.labels]}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=_AS_TEXT)


_AS_TEXT = core_schema.plain_serializer_function_ser_schema(str)
# Asked where a model is written by what its values are, not by what its fields say.
Row.__pydantic_serializer__ = SchemaSerializer(core_schema.any_schema(serialization=_AS_TEXT))

DISTILLED, DISTILLED_HARD, DISTILLED_NOAUG = Row("distilled"), Row("distilled", "hard"), Row("distilled", "noaug")
RANDOM, RANDOM_HARD, RANDOM_NOAUG = Row("random"), Row("random", "hard"), Row("random", "noaug")
FULL = Row("full", "hard")

ROWS = (
    *(DISTILLED, DISTILLED_HARD),
    *(Row(name, labels) for name in REAL_SETS for labels in ("soft", "hard")),
    FULL,
)
"""What every table carries, if the recipe does not say otherwise."""
KNOWN = (
    *(DISTILLED, DISTILLED_HARD, DISTILLED_NOAUG, RANDOM, RANDOM_HARD, RANDOM_NOAUG),
    *(Row(name, labels) for name in REAL_SETS[1:] for labels in ("soft", "hard")),
    FULL,
)
"""All that there are."""


@dataclass(frozen=True)
class SmallSet:
    """Where a set of images lies."""

    folder: Path
    """The artefact: images and labels."""
    recovered: Path
    """What the images were made in."""


def without_twins(rows: Iterable[Row], hard: bool) -> tuple[Row, ...]:
    """The rows without those whose students another row has already.

    Under a protocol without soft labels (``hard``) a row of soft labels and its twin of hard labels train the same
    students.
    """
    rows = tuple(rows)
    if not hard:
        return rows
    return tuple(row for row in rows if row.labels != "hard" or Row(row.images, "soft") not in rows)


def real_sets(rows: Iterable[Row]) -> list[str]:
    """The sets of real images that these rows train on."""
    asked = {row.images for row in rows}
    return [name for name in REAL_SETS if name in asked]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
