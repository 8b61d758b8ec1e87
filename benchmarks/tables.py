"""What the scripts that compare two sides say: which machine it was, which rows there are, and the table."""

import argparse
import csv
import datetime
import importlib.metadata
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attar.core import plugin
from attar.core.device import Execution, resolve
from attar.stages.folder import versions


class Skippable(Protocol):
    """A row, which a machine may not be able to do."""

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    def skipped(self) -> str:
        """Why this machine cannot do it; empty when it can."""
        ...


class Shown(Protocol):
    """A line of a table, a dataclass."""

    def cells(self) -> list[str]:
        """What the table shows of it."""
        ...


R = TypeVar("R", bound=Skippable)


def options_of(doc: str, rows: Iterable[str], alternations: int) -> argparse.ArgumentParser:
    """The options that all these scripts have."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rows", default=",".join(rows), help=f"comma separated, of {', '.join(rows)}; default all")
    parser.add_argument("--images", type=Path, help="folder of pictures in place of two photographs")
    parser.add_argument("--alternations", type=int, default=alternations, help="how often every side is timed")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of what is timed at a time, about")
    parser.add_argument("--csv", type=Path, help="file for the table, unrounded")
    parser.add_argument("--quick", action="store_true", help="hardly any work: to try it out")
    return parser


def chosen(names: str, rows: Mapping[str, R]) -> dict[str, R]:
    """The rows of these names, separated by commas; raises AttarError for one that there is not."""
    found = {}
    for name in names.split(","):
        if name not in rows:
            raise plugin.unknown("row", name, rows)
        found[name] = rows[name]
    return found


def able(rows: Mapping[str, R], alternations: int, packages: Sequence[str] = ()) -> dict[str, R]:
    """The rows that this machine can do; prints what machine it is, and which rows are skipped."""
    found = {name: row for name, row in rows.items() if not row.skipped()}
    devices = dict.fromkeys(resolve(Execution(device=row.device)).describe() for row in found.values())
    installed = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    words = ", ".join([*devices, f"torch {versions()['torch']}", *installed, f"{datetime.date.today()}{load()} before"])
    print(f"{words}; n = {alternations} alternations", flush=True)
    for name, row in rows.items():
        if name not in found:
            print(f"{name} is skipped: {row.skipped()}.")
    return found


def load() -> str:
    """The machine's load, in words."""
    with suppress(AttributeError, OSError):
        return f", load {os.getloadavg()[0]:.1f}"
    return ""


def show(titles: list[str], lines: Sequence[Shown]) -> None:
    """Print the table, a row's name on its first line alone."""
    table = [titles, *(line.cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for place, cells in enumerate(table):
        if place > 1 and cells[0] == table[place - 1][0]:
            cells = ["", *cells[1:]]
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())


def write_csv(path: Path, kind: type[Any], lines: Iterable[Any]) -> None:
    """All lines, dataclasses of one kind, every field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)
