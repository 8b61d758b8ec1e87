"""What the scripts that compare two sides say: which machine it was, which rows there are, and the table."""

import argparse
import csv
import datetime
import importlib.metadata
import os
import sys
import time
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
            print(f"{name} is skipped: {row.skipped()}.", flush=True)
    return found


def load() -> str:
    """The machine's load, in words."""
    with suppress(AttributeError, OSError):
        return f", load {os.getloadavg()[0]:.1f}"
    return ""


class Table:
    """A table that is printed as it is measured: the titles with the first lines, then each row's lines at once."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        """``widths`` says how many characters the cells under each title need; a longer cell moves those after it."""
        self._titles = list(widths)
        self._widths = [max(len(title), width) for title, width in widths.items()]
        self._open = False

    def add(self, lines: Sequence[Shown]) -> None:
        """Print the lines of one row, the row's name on the first alone."""
        if not self._open:
            self._print(self._titles)
            self._open = True
        for place, line in enumerate(lines):
            cells = line.cells()
            self._print(["", *cells[1:]] if place else cells)

    def _print(self, cells: Sequence[str]) -> None:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, self._widths, strict=True)).rstrip(), flush=True
        )


class Progress:
    """Says on standard error what is being measured, with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.perf_counter() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)


def write_csv(path: Path, kind: type[Any], lines: Iterable[Any]) -> None:
    """All lines, dataclasses of one kind, every field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)
