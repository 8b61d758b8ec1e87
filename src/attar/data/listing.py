"""Which real picture is in which split, so that others can train on the right half."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, TextIO

from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.source import Split


@dataclass(frozen=True)
class Listed:
    """One real picture."""

    split: Literal["train", "val"]
    """'train': teachers and methods see it; 'val': students are measured on it, and nothing else."""
    class_name: str
    """The class's folder, or its name in the dataset."""
    file: str
    """The file, or the file and the row in it."""


def listing(choice: DataChoice, seed: int, log: Log) -> Iterator[Listed]:
    """Yield every picture of a dataset with its split, the training pictures first.

    The pictures that are held out depend on ``seed``, ``choice.holdout`` and the names of files and classes, so the run
    of a recipe with the same values has the same split.
    """
    real = load(choice, seed, log)
    halves: tuple[tuple[Literal["train", "val"], Split], ...] = (("train", real.train), ("val", real.val))
    for name, split in halves:
        for index, label in enumerate(split.labels.tolist()):
            yield Listed(name, real.classes[label], split.where(index))


def write_csv(rows: Iterator[Listed], file: TextIO) -> None:
    """Write the list as CSV, with a header."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in fields(Listed))
    writer.writerows([row.split, row.class_name, row.file] for row in rows)
