"""Accuracy by class: every number as CSV, the best and the worst in one line."""

import csv
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError
from attar.report.table import TITLES
from attar.stages.evaluate import PER_CLASS
from attar.stages.folder import MANIFEST, listed, manifest_of
from attar.store import sealed

_COLUMNS = ("run", "row", "student", "class", "title", "num_seeds", "top1_mean", "top1_std")
_SHOWN = 3


def as_csv(run: Path) -> str:
    """A line for each row, student and class, in per cent of the class's validation images."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    content = _read(run)
    for (row, student), seeds in _groups(content):
        for name, values in _by_class(content, seeds):
            std = round(statistics.stdev(values), 2) if len(values) > 1 else ""
            mean = round(statistics.fmean(values), 2)
            writer.writerow(
                [run.resolve().name, row, student, name, content["titles"].get(name, name), len(values), mean, std]
            )
    return buffer.getvalue()


def extremes(run: Path) -> str:
    """The classes that the first student does best and worst on, trained on the table's first row; in one line."""
    content = _read(run)
    (row, student), seeds = next(_groups(content))
    means = {name: statistics.fmean(values) for name, values in _by_class(content, seeds)}
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    few = max(1, min(_SHOWN, len(ranked) // 2))

    def told(names: list[str]) -> str:
        return ", ".join(f"'{content['titles'].get(name, name)}' {means[name]:.0f} %" for name in names)

    return f"Classes ({TITLES[row]}, {student}): best {told(ranked[:few])}; worst {told(ranked[::-1][:few])}"


def _read(run: Path) -> dict[str, Any]:
    path = run / "evaluate" / PER_CLASS
    if (path.parent / MANIFEST).is_file():
        sealed.check(path.parent, PER_CLASS, listed(manifest_of(path.parent, "evaluate"), path.parent))
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise AttarError(f"{path} is missing or damaged; run 'attar evaluate' with the same --out.") from None


def _groups(content: dict[str, Any]) -> Iterator[tuple[tuple[str, str], list[list[float | None]]]]:
    """Each row and student with the accuracies of its seeds, in the order of the table."""
    groups: dict[tuple[str, str], list[list[float | None]]] = {}
    for score in content["scores"]:
        groups.setdefault((score["row"], score["student"]), []).append(score["top1"])
    yield from groups.items()


def _by_class(content: dict[str, Any], seeds: list[list[float | None]]) -> Iterator[tuple[str, list[float]]]:
    """Each class that has validation images, with its accuracy for every seed, per cent."""
    for name, values in zip(content["classes"], zip(*seeds, strict=True), strict=True):
        known = [100 * value for value in values if value is not None]
        if known:
            yield name, known
