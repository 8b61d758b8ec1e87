"""Tables of results: one row a training set and student, with what it cost."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attar.core.errors import AttarError
from attar.core.log import readable_bytes
from attar.stages.folder import MANIFEST, manifest_of
from attar.stages.rows import images_of, labels_of

TITLES = {
    "distilled": "distilled",
    "distilled-hard": "distilled, hard labels",
    "distilled-noaug": "distilled, no augmentation",
    "random-soft": "random real, soft labels",
    "random-hard": "random real, hard labels",
    "random-noaug": "random real, no augmentation",
    "herding-soft": "herding, soft labels",
    "herding-hard": "herding, hard labels",
    "kcentre-soft": "k-centre, soft labels",
    "kcentre-hard": "k-centre, hard labels",
    "full": "all real images",
}
_GAP = 2
"""Spaces between columns, and at the edges."""
_WORDS = ("trained on", "student", "protocol")
_EXPENDABLE = ("teacher s", "images s", "labels s", "ECE %", "top-5 %", "images", "student s")
"""Columns that a narrow terminal goes without, the first of them first."""
_MEASURES = ("top1", "top5", "ece", "confidence")
FOLDERS = ("squeeze", "recover", "distilled", "evaluate")


@dataclass(frozen=True)
class Line:
    """One line of a result table; accuracies are per cent, of the last epoch."""

    run: str
    row: str
    student: str
    protocol: str
    num_seeds: int
    top1_mean: float
    top1_std: float | None
    """Sample standard deviation over seeds; None for a single one."""
    top5_mean: float
    top5_std: float | None
    ece_mean: float
    """Expected calibration error, per cent."""
    confidence_mean: float
    """Mean probability of the student's first choice, per cent."""
    teacher_agreement: float | None
    """Fraction of the images that the teacher recognises as their class."""
    num_images: int
    image_bytes: int
    label_bytes: int
    teacher_seconds: float | None
    """Device-seconds, as all seconds are; None where a teacher was brought along."""
    images_seconds: float | None
    """Of making the images, or of choosing them."""
    labels_seconds: float | None
    train_seconds: float
    """Of one student: the mean over seeds."""
    device: str
    """What students were trained on."""


def lines(run: Path) -> list[Line]:
    """The table of a finished run; raises AttarError when it is not finished."""
    run = run.resolve()
    manifest = manifest_of(run / "evaluate", "evaluate")
    if "rows" not in manifest["result"]:
        raise AttarError(f"{run / 'evaluate'} was written by an older attar; run 'attar evaluate' with the same --out.")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for score in manifest["result"]["scores"]:
        groups.setdefault((score["row"], score["student"], score["protocol"]), []).append(score)
    return [_line(run, manifest["result"]["rows"][scores[0]["row"]], scores) for scores in groups.values()]


def _line(run: Path, facts: dict[str, Any], scores: list[dict[str, Any]]) -> Line:
    top1, top5, ece, confidence = ([100 * score[key] for score in scores] for key in _MEASURES)
    return Line(
        run=run.name,
        row=scores[0]["row"],
        student=scores[0]["student"],
        protocol=scores[0]["protocol"],
        num_seeds=len(scores),
        top1_mean=round(statistics.fmean(top1), 2),
        top1_std=_spread(top1),
        top5_mean=round(statistics.fmean(top5), 2),
        top5_std=_spread(top5),
        ece_mean=round(statistics.fmean(ece), 2),
        confidence_mean=round(statistics.fmean(confidence), 2),
        train_seconds=round(statistics.fmean(score["seconds"] for score in scores), 3),
        device=", ".join(dict.fromkeys(score["device"] for score in scores)),
        **facts,
    )


def names_of(runs: Sequence[Path]) -> dict[Path, str]:
    """What runs are called: their folders' names, where two are the same the paths."""
    names = {run: run.resolve().name for run in runs}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {run: str(run) if name in twice else name for run, name in names.items()}


def protocols(table: list[Line]) -> list[str]:
    """Those by which students of small sets were trained."""
    return sorted({line.protocol for line in table if line.row != "full"})


def manifests(run: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that are done, by stage, without their lists of files."""
    done = [run / folder for folder in FOLDERS if (run / folder / MANIFEST).is_file()]
    found = [manifest_of(folder, "run") for folder in done]
    return {made["stage"]: {key: value for key, value in made.items() if key != "files"} for made in found}


def stage_seconds(run: Path) -> dict[str, float]:
    """Device-seconds of the stages, as far as they are done; evaluate's are those of all its students."""
    return {stage: made["device_seconds"] for stage, made in manifests(run).items()}


def as_csv(table: list[Line]) -> str:
    """The table as CSV, every column."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in table)
    return buffer.getvalue()


def as_markdown(table: list[Line]) -> str:
    """The table for a page."""
    return markdown(*_cells(table))


def markdown(header: list[str], rows: list[list[str]], left: int = 2) -> str:
    """Cells as a table; all columns but the ``left`` first are aligned to the right."""
    aligned = ["---" if place < left else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, aligned, *rows]) + "\n"


def for_terminal(table: list[Line], width: int) -> Table:
    """The table for a terminal of this width; a narrow one goes without some of the columns, which the CSV has."""
    header, rows = _cells(table)
    widths = [max(map(len, column)) + _GAP for column in zip(header, *rows, strict=True)]
    dropped = {1} if len({line.student for line in table}) == 1 else set()
    for name in _EXPENDABLE:
        if sum(widths[place] for place in range(len(header)) if place not in dropped) + _GAP > width:
            dropped.add(header.index(name))
    kept = [place for place in range(len(header)) if place not in dropped]
    return grid([header[place] for place in kept], [[cells[place] for place in kept] for cells in rows])


def width_of(header: list[str], rows: list[list[str]]) -> int:
    """Characters that ``grid`` takes."""
    return sum(max(map(len, column)) + _GAP for column in zip(header, *rows, strict=True)) + _GAP


def grid(header: list[str], rows: list[list[str]]) -> Table:
    """Cells as a table for a terminal; columns of numbers are aligned to the right."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in header:
        shown.add_column(escape(name), justify="left" if name in _WORDS else "right", no_wrap=True)
    for cells in rows:
        shown.add_row(*map(escape, cells))
    return shown


def percent(mean: float, std: float | None) -> str:
    """A mean with its spread, as in 91.2 ± 0.4."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def title_of(line: Line, several_runs: bool) -> str:
    """What a line's students were trained on, in words."""
    title = TITLES.get(line.row, line.row)
    if not line.label_bytes and images_of(line.row) != "full" and labels_of(line.row) == "soft":
        title = f"{title.removesuffix(', soft labels')}, hard labels"  # the protocol's own
    return (f"{line.run}: " if several_runs else "") + title


def _cells(table: list[Line]) -> tuple[list[str], list[list[str]]]:
    several_runs, judged = len({line.run for line in table}) > 1, protocols(table)
    header = ["trained on", "student", "images", "top-1 %", "top-5 %", "n", "ECE %", "image bytes", "label bytes"]
    header += ["teacher s", "images s", "labels s", "student s"] + ["protocol"] * (len(judged) > 1)
    rows = [
        [
            title_of(line, several_runs),
            line.student,
            str(line.num_images),
            percent(line.top1_mean, line.top1_std),
            percent(line.top5_mean, line.top5_std),
            str(line.num_seeds),
            f"{line.ece_mean:.1f}",
            readable_bytes(line.image_bytes),
            readable_bytes(line.label_bytes),
            *map(_seconds, (line.teacher_seconds, line.images_seconds, line.labels_seconds, line.train_seconds)),
            *[line.protocol] * (len(judged) > 1),
        ]
        for line in table
    ]
    return header, rows


def _seconds(value: float | None) -> str:
    if not value:
        return "-" if value is None else "0"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _spread(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 2) if len(values) > 1 else None
