"""Accuracy by class: all numbers as CSV, and one line with the best and the worst classes."""

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from attar.core.printable import one_line
from attar.report import table
from attar.report.table import Line
from attar.stages.evaluation import PerClass
from attar.stages.rows import Row
from attar.stages.run import Run

_COLUMNS = ("run", "row", "student", "class", "title", "num_seeds", "top1_mean", "top1_std")
_SHOWN = 3


def as_csv(run: Path) -> str:
    """Return the accuracies as CSV, in percent: one line per row, student and class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    content = Run(run).per_class
    for (row, student), seeds in _groups(content):
        for name, values in _by_class(content, seeds):
            std = round(statistics.stdev(values), 2) if len(values) > 1 else ""
            mean = round(statistics.fmean(values), 2)
            writer.writerow(
                [
                    *map(one_line, (run.resolve().name, str(row), student, name, content.titles.get(name, name))),
                    *(len(values), mean, std),
                ]
            )
    return buffer.getvalue()


def extremes(run: Path, lines: Sequence[Line] = ()) -> str:
    """Return one line with the first student's best and worst classes, trained on the table's first row.

    ``lines`` are those of the table, which call the row what it is: 'random real' where the method chose real images.
    """
    content = Run(run).per_class
    first = next(_groups(content), None)
    if first is None:
        return "Classes: the training of every student diverged"
    (row, student), seeds = first
    means = {name: statistics.fmean(values) for name, values in _by_class(content, seeds)}
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    few = max(1, min(_SHOWN, len(ranked) // 2))

    def listed(names: list[str]) -> str:
        return ", ".join(f"'{one_line(content.titles.get(name, name))}' {means[name]:.0f} %" for name in names)

    titles = {(line.row, line.student): table.title_of(line, False) for line in lines}
    title = titles.get((str(row), student), row.title)
    return f"Classes ({title}, {student}): best {listed(ranked[:few])}; worst {listed(ranked[::-1][:few])}"


def first_row(run: Path) -> dict[str, list[float]]:
    """Return each class's accuracy for every seed, in percent, of the table's first row; {} if all diverged."""
    content = Run(run).per_class
    first = next(_groups(content), None)
    return {} if first is None else dict(_by_class(content, first[1]))


def _groups(content: PerClass) -> Iterator[tuple[tuple[Row, str], list[tuple[float | None, ...]]]]:
    """Return each row and student with the accuracies of its seeds that did not diverge, in the table's order."""
    groups: dict[tuple[Row, str], list[tuple[float | None, ...]]] = {}
    for score in content.scores:
        if not score.diverged:
            groups.setdefault((score.row, score.student), []).append(score.top1)
    yield from groups.items()


def _by_class(content: PerClass, seeds: list[tuple[float | None, ...]]) -> Iterator[tuple[str, list[float]]]:
    """Return each class that has validation images, with its accuracy for every seed, in percent."""
    for name, values in zip(content.classes, zip(*seeds, strict=True), strict=True):
        known = [100 * value for value in values if value is not None]
        if known:
            yield name, known
