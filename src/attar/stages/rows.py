"""The rows of a result table: which images a student is trained on, and with which labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Row = Literal[
    "distilled",
    "distilled-hard",
    "distilled-noaug",
    "random-soft",
    "random-hard",
    "random-noaug",
    "herding-soft",
    "herding-hard",
    "kcentre-soft",
    "kcentre-hard",
    "full",
]
Labels = Literal["soft", "hard", "noaug"]

ROWS: tuple[Row, ...] = (
    "distilled",
    "distilled-hard",
    "random-soft",
    "random-hard",
    "herding-soft",
    "herding-hard",
    "kcentre-soft",
    "kcentre-hard",
    "full",
)
"""What every table carries."""
REAL_SETS = ("random", "herding", "kcentre")
"""Methods that choose real images, each a baseline under its own name."""


_SOFT: dict[str, str] = {"distilled-hard": "distilled"} | {f"{name}-hard": f"{name}-soft" for name in REAL_SETS}


@dataclass(frozen=True)
class SmallSet:
    """Where a set of images lies."""

    folder: Path
    """The artefact: images and labels."""
    recovered: Path
    """What the images were made in."""


def images_of(row: str) -> str:
    """The row's images: 'distilled', a method of ``REAL_SETS``, or 'full'."""
    return row.partition("-")[0]


def labels_of(row: str) -> Labels:
    """'soft': the run's soft labels; 'hard': classes; 'noaug': soft labels of the images as they are."""
    if row.endswith("-noaug"):
        return "noaug"
    return "hard" if row.endswith("-hard") or row == "full" else "soft"


def without_twins(rows: tuple[Row, ...], hard: bool) -> tuple[Row, ...]:
    """The rows but, where a protocol has no soft labels, those whose students are the very ones of another row."""
    if not hard:
        return rows
    return tuple(row for row in rows if _SOFT.get(row) not in rows)


def real_sets(rows: tuple[Row, ...]) -> list[str]:
    """The sets of real images that these rows train on."""
    asked = {images_of(row) for row in rows}
    return [name for name in REAL_SETS if name in asked]
