"""Table of several students: one line per training set, one column per student."""

import csv
import io

from rich.table import Table

from attar.report.table import Line, accuracy, grid, markdown, percent, title_of, width_of
from attar.stages.evaluate import TEACHER

_MEASURES = ("top1_mean", "top1_std", "class_top1_mean", "class_top1_std")
CAPTION = "Top-1 % over images / mean over classes, by student"


def students_of(table: list[Line]) -> list[str]:
    """Return the networks that were trained, in order."""
    return list(dict.fromkeys(line.student for line in table if line.protocol != TEACHER))


def as_markdown(table: list[Line]) -> str:
    """Return the table as Markdown; '' for a single student."""
    return markdown(*_cells(table), left=1) if len(students_of(table)) > 1 else ""


def for_terminal(table: list[Line], width: int) -> Table | None:
    """Return the table for a terminal, with one line per student if that is narrower; None for a single student."""
    if len(students_of(table)) < 2:
        return None
    header, rows = _cells(table)
    if width_of(header, rows) > width:
        turned = [list(column) for column in zip(header, *rows, strict=True)]
        if width_of(turned[0], turned[1:]) < width_of(header, rows):
            return grid(["student", *turned[0][1:]], turned[1:])
    return grid(header, rows)


def as_csv(table: list[Line]) -> str:
    """Return the table as CSV, with separate columns for mean and standard deviation."""
    students = students_of(table)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "row", *(f"{name} {measure}" for name in students for measure in _MEASURES)])
    for (run, row), found in _by_set(table).items():
        cells = [getattr(found.get(name), measure, None) for name in students for measure in _MEASURES]
        writer.writerow([run, row, *("" if value is None else value for value in cells)])
    return buffer.getvalue()


def _by_set(table: list[Line]) -> dict[tuple[str, str], dict[str, Line]]:
    """Group lines by training set and student; leaves out a teacher shown in the row 'full'."""
    found: dict[tuple[str, str], dict[str, Line]] = {}
    for line in table:
        if line.protocol != TEACHER:
            found.setdefault((line.run, line.row), {})[line.student] = line
    return found


def _cells(table: list[Line]) -> tuple[list[str], list[list[str]]]:
    students, several_runs = students_of(table), len({line.run for line in table}) > 1
    rows = [
        [
            title_of(next(iter(found.values())), several_runs),
            *(_cell(found[name]) if name in found else "-" for name in students),
        ]
        for found in _by_set(table).values()
    ]
    return ["trained on", *students], rows


def _cell(line: Line) -> str:
    by_class = percent(line.class_top1_mean, line.class_top1_std)
    return f"{accuracy(line)} / {by_class}" if line.num_seeds else accuracy(line)
