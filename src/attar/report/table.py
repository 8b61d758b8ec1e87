"""Tables of results: one row per training set and student, with its cost."""

import csv
import io
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attar.core import printable
from attar.core.log import readable_bytes
from attar.report import published, reliability, verdict
from attar.stages import published_figures
from attar.stages.evaluate import TEACHER
from attar.stages.evaluation import Evaluation, StudentScore
from attar.stages.published_figures import Beside
from attar.stages.rows import DISTILLED, DISTILLED_HARD, EQUAL_BYTES, FULL, REAL_SETS, Row
from attar.stages.run import Run

_GAP = 2
"""Characters between columns, and at the edges."""
_WORDS = ("trained on", "student", "protocol", "method", "why")
BY_CLASS = "class mean %"
"""Column of the mean accuracy over classes, next to top-1 over images."""
_EXPENDABLE = (
    *("teacher s", "images s", "labels s", "ECE %", "top-5 %", "student s", BY_CLASS, "label bytes", "image bytes"),
    *("protocol", published.COLUMN, "n", "images"),
)
"""Columns that a narrow terminal leaves out, in this order."""
FEW_CLASSES = 10
"""Top-5 is left out with fewer classes, because it says little there."""
DIVERGED = "diverged"
_AIM = re.compile(r"^# Aims at: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """One line of a result table; accuracies are in percent, after the last epoch."""

    run: str
    row: str
    """Name of the row, as in recipes."""
    student: str
    protocol: str
    num_seeds: int
    """Students that the means include: those whose training did not diverge."""
    num_diverged: int
    """Students whose training diverged; no mean includes them."""
    top1_mean: float | None
    """Accuracy over images; means are None if every training diverged."""
    top1_std: float | None
    """Sample standard deviation over seeds; None for a single seed."""
    class_top1_mean: float | None
    """Mean of the accuracies of all classes that have validation images."""
    class_top1_std: float | None
    top5_mean: float | None
    """None with fewer than ten classes."""
    top5_std: float | None
    num_classes: int
    num_unmeasured: int
    """Classes without validation images."""
    ece_mean: float | None
    """Expected calibration error, in percent."""
    confidence_mean: float | None
    """Mean probability of the student's top prediction, in percent."""
    teacher_agreement: float | None
    """Fraction of the images that the teacher assigns to their class."""
    num_images: int
    image_bytes: int
    label_bytes: int
    teacher_seconds: float | None
    """Wall seconds of all processes of the run together; None if the teacher was trained elsewhere."""
    images_seconds: float | None
    """Wall seconds of making or choosing the images."""
    labels_seconds: float | None
    train_seconds: float
    """Wall seconds of training one student: the mean over seeds."""
    teacher_processor_seconds: float | None
    """Processor seconds for the same work; None if they were not measured."""
    images_processor_seconds: float | None
    labels_processor_seconds: float | None
    train_processor_seconds: float | None
    device: str
    """Device that the students were trained on."""
    all_real: bool = False
    """Whether the training set is all real images."""
    method: str = ""
    """Method that made or chose the run's own images; '' if it is not known."""
    aim: str = ""
    """Published result that the run's recipe aims at, in words; '' if the recipe names none."""
    num_val: int | None = None
    """Validation images that students were measured on; None if the evaluation did not record it."""
    largest_class: float | None = None
    """Share of the largest class in the validation images, in percent: what naming it always would bring."""
    published_top1: float | None = None
    """Published accuracy of this student on the distilled set of the run's recipe; None if there is none."""
    published_std: float | None = None
    published_source: str = ""
    """Paper and table, and who quotes it if it is not the method's paper."""
    published_unlike: str = ""
    """How the published setting differs from the recipe's, in words; '' if no difference is known."""
    published_changes: str = ""
    """Settings of the run that differ from the recipe's, each as 'key old -> new', joined by '; '."""


def lines(run: Path) -> list[Line]:
    """Return the table of a finished run; raises AttarError when the run is unfinished or its results are invalid."""
    run = run.resolve()
    done = Run(run)
    found, method = done.scores, done.images.method if done.is_done("recover") else ""
    if not found.val_images and done.is_done("recover"):
        found = found.model_copy(update={"val_images": done.images.val_images})
    about = {"method": method, "aim": aim_of(run)}
    beside = None if done.is_done("recover") and done.images.made_elsewhere else published_figures.read(run)
    groups: dict[tuple[Row, str, str], list[StudentScore]] = {}
    for score in found.scores:
        groups.setdefault((score.row, score.student, score.protocol), []).append(score)
    made = [_line(run, found, scores, about) for scores in groups.values()]
    return [_with_published(line, beside) for line in made] if beside else made


def _with_published(line: Line, found: Beside) -> Line:
    """Return the line of a distilled set with the published figure of its student and labels, if there is one."""
    row = Row.parse(line.row)
    figure = found.of(line.student, "hard" if _has_hard_labels(line) else row.labels)
    return published.beside(line, figure, found.changed) if figure and row.images == "distilled" else line


def _line(run: Path, found: Evaluation, scores: list[StudentScore], about: dict[str, str]) -> Line:
    counted = [score for score in scores if not score.diverged]
    top1 = [100 * score.top1 for score in counted]
    top5 = [100 * score.top5 for score in counted] if found.num_classes >= FEW_CLASSES else []
    by_class = [100 * score.class_top1 for score in counted if score.class_top1 is not None]
    processor = [score.processor_seconds for score in scores if score.processor_seconds is not None]
    return Line(
        run=run.name,
        row=str(scores[0].row),
        student=scores[0].student,
        protocol=scores[0].protocol,
        num_seeds=len(counted),
        num_diverged=len(scores) - len(counted),
        top1_mean=_mean(top1),
        top1_std=_spread(top1),
        class_top1_mean=_mean(by_class),
        class_top1_std=_spread(by_class),
        top5_mean=_mean(top5),
        top5_std=_spread(top5),
        num_classes=found.num_classes,
        num_unmeasured=found.num_unmeasured,
        ece_mean=_mean([100 * score.ece for score in counted]),
        confidence_mean=_mean([100 * score.confidence for score in counted]),
        train_seconds=round(statistics.fmean(score.seconds for score in scores), 3),
        train_processor_seconds=round(statistics.fmean(processor), 3) if len(processor) == len(scores) else None,
        device=", ".join(dict.fromkeys(score.device for score in scores)),
        num_val=sum(found.val_images) or None,
        largest_class=round(100 * max(found.val_images) / sum(found.val_images), 2) if any(found.val_images) else None,
        **about,
        **found.rows[scores[0].row].model_dump(),
    )


def aim_of(run: Path) -> str:
    """Return the published result that the run's recipe aims at, in words; '' if its ``recipe.yaml`` names none."""
    path = run / "recipe.yaml"
    found = _AIM.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    return printable.one_line(found[1]) if found else ""


def names_of(runs: Sequence[Path]) -> dict[Path, str]:
    """Return short names of runs: their folders' names, or their paths where folder names repeat."""
    names = {run: run.resolve().name for run in runs}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {run: str(run) if name in twice else name for run, name in names.items()}


def protocols(table: list[Line]) -> list[str]:
    """Return the protocols with which students of small sets were trained."""
    return sorted({line.protocol for line in table if line.row != str(FULL)})


def as_csv(table: list[Line]) -> str:
    """Return the table as CSV, with all columns."""
    return csv_of(Line, table)


def csv_of(kind: Any, lines: Sequence[Any]) -> str:
    """Return dataclasses of one kind as CSV: a column for each field, a row for each of them."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return buffer.getvalue()


def as_markdown(table: list[Line]) -> str:
    """Return the table as Markdown."""
    return markdown(*_cells(table))


def markdown(header: list[str], rows: list[list[str]], left: int = 2) -> str:
    """Return cells as a Markdown table; columns after the first ``left`` are right-aligned."""
    shown = [[printable.markdown(cell) for cell in cells] for cells in (header, *rows)]
    aligned = ["---" if place < left else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [shown[0], aligned, *shown[1:]]) + "\n"


def for_terminal(table: list[Line], width: int) -> Table:
    """Return the table for a terminal of this width; a narrow one shows fewer columns than the CSV."""
    header, rows = _cells(table)
    if len({line.student for line in table if not shows_teacher(line)}) == 1:
        place = header.index("student")
        header, rows = (_without(header, place), [_without(cells, place) for cells in rows])
    shown = fitted(header, rows, width, _EXPENDABLE)
    shown.caption, shown.caption_justify = (escape("\n".join(notes(table))) or None, "left")
    return shown


def fitted(header: list[str], rows: list[list[str]], width: int, expendable: Sequence[str]) -> Table:
    """Return a table for a terminal; leaves out the ``expendable`` columns, in this order, until it fits."""
    for name in expendable:
        if name in header and width_of(header, rows) > width:
            place = header.index(name)
            header, rows = (_without(header, place), [_without(cells, place) for cells in rows])
    return grid(header, rows)


def _without(cells: list[str], place: int) -> list[str]:
    return cells[:place] + cells[place + 1 :]


def notes(table: list[Line]) -> list[str]:
    """Return notes on how to read the table, one sentence per note."""
    found = verdict.notes(table)
    if any(line.num_diverged for line in table):
        found.append(
            "n: students in the mean, of those trained; the others diverged (NaN or infinite weights or logits)."
        )
    several = len({line.run for line in table}) > 1
    unmeasured = {(line.num_unmeasured, line.num_classes, line.run) for line in table if line.num_unmeasured}
    if unmeasured:
        counts = " or ".join(
            f"{missing} of {count} classes" + f" ({run})" * several for missing, count, run in sorted(unmeasured)
        )
        found.append(f"{BY_CLASS} leaves out {counts}, which have no validation images.")
    if same := [line for line in table if line.row == str(EQUAL_BYTES)]:
        found.append(
            "'Real, as many bytes': as many random real images as fit into the bytes of the distilled images and "
            "labels, with hard labels, trained for the same number of steps."
            + (" 'All': every real image fits." if any(line.all_real for line in same) else "")
        )
    if any(line.row == str(FULL) for line in table):
        found.append("All real images: the bytes are those of the source's files, at their own size.")
    return [*found, *reliability.notes(table), *published.notes(table)]


def width_of(header: list[str], rows: list[list[str]]) -> int:
    """Return the width of ``grid`` in characters."""
    return sum(max(map(len, column)) + _GAP for column in zip(header, *rows, strict=True)) + _GAP


def grid(header: list[str], rows: list[list[str]]) -> Table:
    """Return cells as a table for a terminal; columns of numbers are right-aligned."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in header:
        shown.add_column(escape(name), justify="left" if name in _WORDS else "right", no_wrap=name != "why")
    for cells in rows:
        shown.add_row(*(escape(printable.one_line(cell)) for cell in cells))
    return shown


def percent(mean: float | None, std: float | None) -> str:
    """Return a mean with its standard deviation, such as 91.2 ± 0.4; '-' if there is none."""
    if mean is None:
        return "-"
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def accuracy(line: Line) -> str:
    """Return top-1 over images with its standard deviation, or a word that says that every training diverged."""
    return percent(line.top1_mean, line.top1_std) if line.num_seeds else DIVERGED


def _has_hard_labels(line: Line) -> bool:
    """Return whether students see classes only, by the row or by the protocol."""
    labels = Row.parse(line.row).labels
    return labels == "hard" or (labels == "soft" and not line.label_bytes)


def title_of(line: Line, several_runs: bool) -> str:
    """Describe a line's training set in words."""
    row = Row.parse(line.row)
    if is_chosen_real(line):
        row = replace(row, images=line.method)
    title = row.title
    if row.labels == "soft" and _has_hard_labels(line):
        title = f"{title.removesuffix(', soft labels')}, hard labels"  # the protocol's own
    if row == EQUAL_BYTES and line.all_real:
        title += ": all"
    if shows_teacher(line):
        title = "the teacher, on all real images"
    return (f"{line.run}: " if several_runs else "") + title


def is_chosen_real(line: Line) -> bool:
    """Return whether the line's images are the run's own, and real ones that its method chose."""
    return line.row.startswith("distilled") and line.method in REAL_SETS


def own_line(lines: Sequence[Line]) -> Line | None:
    """Return the first line of a run's own images: with soft labels, or with hard ones if no student has soft ones."""
    found = {line.row: line for line in reversed(lines) if line.row in (str(DISTILLED), str(DISTILLED_HARD))}
    return found.get(str(DISTILLED), found.get(str(DISTILLED_HARD)))


def is_real(line: Line) -> bool:
    """Return whether the line's images are real ones."""
    return not line.row.startswith("distilled") or is_chosen_real(line)


def held_bytes(line: Line) -> int:
    """Return the bytes of images and labels."""
    return line.image_bytes + line.label_bytes


def spent_seconds(line: Line) -> float:
    """Return the known wall seconds of teachers, images, labels and one student; at least 0.1 for a log axis."""
    parts = (line.teacher_seconds, line.images_seconds, line.labels_seconds, line.train_seconds)
    return max(0.1, sum(part or 0.0 for part in parts))


def student_of(line: Line) -> str:
    """Return the line's network, or networks if the line shows a committee: '3 x convnet3'."""
    names = line.student.split("+") if shows_teacher(line) else [line.student]
    counted = {name: names.count(name) for name in names}
    return " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counted.items())


def shows_teacher(line: Line) -> bool:
    """Return whether the line is the teacher itself, instead of students trained on its images."""
    return line.protocol == TEACHER


def _cells(table: list[Line]) -> tuple[list[str], list[list[str]]]:
    several_runs, judged = len({line.run for line in table}) > 1, protocols(table)
    columns: dict[str, Callable[[Line], str]] = {
        "trained on": lambda line: title_of(line, several_runs),
        "student": student_of,
        "images": lambda line: str(line.num_images),
        "top-1 %": accuracy,
        published.COLUMN: published.cell,
        BY_CLASS: lambda line: percent(line.class_top1_mean, line.class_top1_std),
        "top-5 %": lambda line: percent(line.top5_mean, line.top5_std),
        "n": _count,
        "ECE %": lambda line: percent(line.ece_mean, None),
        "image bytes": lambda line: readable_bytes(line.image_bytes),
        "label bytes": lambda line: readable_bytes(line.label_bytes),
        "teacher s": lambda line: _seconds(line.teacher_seconds),
        "images s": lambda line: _seconds(line.images_seconds),
        "labels s": lambda line: _seconds(line.labels_seconds),
        "student s": lambda line: _seconds(line.train_seconds),
        "protocol": lambda line: line.protocol,
    }
    if not published.in_any(table):
        del columns[published.COLUMN]
    if all(line.num_classes < FEW_CLASSES for line in table):
        del columns["top-5 %"]
    if len(judged) < 2:
        del columns["protocol"]
    return list(columns), [[cell(line) for cell in columns.values()] for line in table]


def _count(line: Line) -> str:
    """Return how many students a line's means include, out of how many that were trained."""
    return f"{line.num_seeds} of {line.num_seeds + line.num_diverged}" if line.num_diverged else str(line.num_seeds)


def _seconds(value: float | None) -> str:
    if not value:
        return "-" if value is None else "0"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _mean(values: list[float]) -> float | None:
    return round(statistics.fmean(values), 2) if values else None


def _spread(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 2) if len(values) > 1 else None
