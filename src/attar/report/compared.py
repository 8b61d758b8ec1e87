"""Tables and figures of a comparison: accuracy against bytes and seconds, with real images as the line to beat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from attar.core.log import readable_bytes
from attar.report import drawn, table
from attar.stages.rows import DISTILLED, DISTILLED_HARD, EQUAL_BYTES, FULL
from attar.store import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State = Literal["done", "impossible", "failed", "to do"]
CSV, MARKDOWN = "comparison.csv", "comparison.md"
BYTES, SECONDS = "accuracy-bytes", "accuracy-seconds"
"""Names of the figures without their endings, .png and .svg."""
_MARKERS = "osD^vP*X"
_REAL = "real images of as many bytes"
_WORDS: dict[State, str] = {"impossible": "is impossible", "failed": "failed", "to do": "is not done yet"}
Point = tuple[float, float, float | None]
"""Place on the axis, mean and standard deviation."""


@dataclass(frozen=True)
class Line:
    """One student network on one method's set of one size; accuracies are in per cent, of the last epoch."""

    method: str
    labels: str
    budget_bytes: int
    state: State
    why: str
    """What keeps the set from being larger, why there is none, or what failed."""
    ipc: int
    """Images per class."""
    most_bytes: int
    """Bytes that images and labels were expected to take at most."""
    folder: str
    """Folder of the run, in that of the comparison."""
    student: str = ""
    protocol: str = ""
    num_images: int | None = None
    image_bytes: int | None = None
    label_bytes: int | None = None
    total_bytes: int | None = None
    """Measured bytes of images and labels."""
    top1_mean: float | None = None
    top1_std: float | None = None
    num_seeds: int = 0
    num_diverged: int = 0
    real_num_images: int | None = None
    """Real images that fit into the bytes."""
    real_bytes: int | None = None
    real_top1_mean: float | None = None
    real_top1_std: float | None = None
    full_top1_mean: float | None = None
    """Accuracy of all real images."""
    teacher_seconds: float | None = None
    """Wall seconds of teachers, 0 if neither images nor labels need them; None if they were trained elsewhere."""
    images_seconds: float | None = None
    labels_seconds: float | None = None
    train_seconds: float | None = None
    """Wall seconds of training one student."""
    device_seconds: float | None = None
    """Sum of all seconds that are known: teachers, images, labels and one student."""
    processor_seconds: float | None = None
    """The same sum in processor seconds, which a busy machine does not lengthen; None if a part is not known."""
    real_train_seconds: float | None = None
    num_classes: int | None = None

    @property
    def title(self) -> str:
        """Method and labels, as typed."""
        return f"{self.method}:{self.labels}"


def measured(planned: Line, run: Path, asks_teacher: bool) -> list[Line]:
    """Return the lines of a finished run, one for each student; raises AttarError when its results are damaged."""
    found = table.lines(run)
    own = [line for line in found if line.row in (str(DISTILLED), str(DISTILLED_HARD))]
    return [_measured(planned, line, found, asks_teacher) for line in own]


def _measured(planned: Line, line: table.Line, found: Sequence[table.Line], asks_teacher: bool) -> Line:
    def of(row: object) -> table.Line | None:
        rows = [other for other in found if other.row == str(row)]
        return next((other for other in rows if other.student == line.student), next(iter(rows), None))

    real, full = of(EQUAL_BYTES), of(FULL)
    teacher = line.teacher_seconds if asks_teacher else 0.0
    spent = [seconds for seconds in (teacher, line.images_seconds, line.labels_seconds) if seconds is not None]
    cores = (
        line.teacher_processor_seconds if asks_teacher else 0.0,
        *(line.images_processor_seconds, line.labels_processor_seconds, line.train_processor_seconds),
    )
    known = [seconds for seconds in cores if seconds is not None]
    return Line(
        **{field: getattr(planned, field) for field in _PLANNED},
        state="done",
        student=line.student,
        protocol=line.protocol,
        num_images=line.num_images,
        image_bytes=line.image_bytes,
        label_bytes=line.label_bytes,
        total_bytes=line.image_bytes + line.label_bytes,
        top1_mean=line.top1_mean,
        top1_std=line.top1_std,
        num_seeds=line.num_seeds,
        num_diverged=line.num_diverged,
        real_num_images=real and real.num_images,
        real_bytes=real and real.image_bytes,
        real_top1_mean=real and real.top1_mean,
        real_top1_std=real and real.top1_std,
        full_top1_mean=full and full.top1_mean,
        teacher_seconds=teacher,
        images_seconds=line.images_seconds,
        labels_seconds=line.labels_seconds,
        train_seconds=line.train_seconds,
        device_seconds=round(sum(spent) + line.train_seconds, 3),
        processor_seconds=round(sum(known), 3) if len(known) == len(cores) else None,
        real_train_seconds=real and real.train_seconds,
        num_classes=line.num_classes,
    )


_EXPENDABLE = ("processor s", "n", "real images", "images", "device s", "budget")
"""Columns that a narrow terminal leaves out, in this order."""
_PLANNED = ("method", "labels", "budget_bytes", "why", "ipc", "most_bytes", "folder")


def write_tables(lines: Sequence[Line], folder: Path) -> None:
    """Write ``comparison.csv`` with every column, and ``comparison.md``."""
    atomic.write_text(folder / CSV, as_csv(lines))
    atomic.write_text(folder / MARKDOWN, as_markdown(lines))


def text_in(folder: Path) -> str:
    """Return the content of ``comparison.csv``; '' if there is none."""
    path = folder / CSV
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def has_figures(folder: Path) -> bool:
    """Return whether all figures are there."""
    return all((folder / f"{name}.{ending}").is_file() for name in (BYTES, SECONDS) for ending in drawn.ENDINGS)


def as_csv(lines: Sequence[Line]) -> str:
    """Return all columns as CSV."""
    return table.csv_of(Line, lines)


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the results as a Markdown table, followed by notes."""
    header, rows = cells(lines)
    return "\n".join([table.markdown(header, rows, left=1), *(f"{note}\n" for note in notes(lines))])


def plan_cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of what was chosen, before the work."""
    header = ["method", "budget", "ipc", "bytes at most", "why"]
    rows = []
    for line in lines:
        most = readable_bytes(line.most_bytes) if line.ipc else "-"
        why = line.why if line.ipc else f"impossible: {line.why}"
        rows.append([line.title, readable_bytes(line.budget_bytes), str(line.ipc or "-"), most, why])
    return header, rows


def cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the results that there are."""
    columns: dict[str, Callable[[Line], str]] = {
        "method": lambda line: line.title,
        "student": lambda line: line.student,
        "budget": lambda line: readable_bytes(line.budget_bytes),
        "bytes": lambda line: readable_bytes(line.total_bytes or 0),
        "images": lambda line: str(line.num_images),
        "top-1 %": lambda line: table.percent(line.top1_mean, line.top1_std),
        "n": lambda line: str(line.num_seeds),
        "real images": lambda line: "-" if line.real_num_images is None else str(line.real_num_images),
        "their top-1 %": lambda line: table.percent(line.real_top1_mean, line.real_top1_std),
        "gain": _gain,
        "device s": lambda line: f"{line.device_seconds or 0:,.0f}",
        "processor s": lambda line: "-" if line.processor_seconds is None else f"{line.processor_seconds:,.0f}",
    }
    done = [line for line in lines if line.state == "done"]
    if len({line.student for line in done}) < 2:
        del columns["student"]
    return list(columns), [[cell(line) for cell in columns.values()] for line in done]


def for_terminal(lines: Sequence[Line], width: int) -> Table:
    """Return the results for a terminal of this width; a narrow one shows fewer columns than the CSV."""
    return table.fitted(*cells(lines), width, _EXPENDABLE)


def notes(lines: Sequence[Line]) -> list[str]:
    """Return notes below the table: what the columns mean, what all real images have, and what there is not."""
    found = [
        "Bytes: images and labels as stored. Real images: as many as fit into the same bytes, with hard labels. "
        "Device s: wall seconds of teachers (if the method or its labels need them), images, labels and one student; "
        "processor s: the time that all cores spent on it, without waiting."
    ]
    if full := sorted({(line.student, line.full_top1_mean) for line in lines if line.full_top1_mean is not None}):
        every = ", ".join(f"{mean:.1f} % ({student})" for student, mean in full)
        found.append(f"All real images: {every}.")
    done = [line for line in lines if line.state == "done"]
    if any(line.teacher_seconds is None for line in done):
        found.append("The time of teachers that were trained elsewhere is not known and not counted.")
    over = [line for line in done if (line.total_bytes or 0) > line.budget_bytes]
    found += [f"{line.title} takes {readable_bytes(line.total_bytes or 0)}, more than its budget." for line in over]
    missing: dict[tuple[str, State, str], list[str]] = {}
    for line in lines:
        if line.state != "done":
            reason = "" if line.state == "to do" else f": {line.why.rstrip('.')}"
            missing.setdefault((line.title, line.state, reason), []).append(readable_bytes(line.budget_bytes))
    found += [f"{title} at {_listed(at)} {_WORDS[state]}{why}." for (title, state, why), at in missing.items()]
    return found


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _gain(line: Line) -> str:
    """Return by how many points the set is better than real images of as many bytes."""
    if line.top1_mean is None or line.real_top1_mean is None:
        return "-"
    return f"{line.top1_mean - line.real_top1_mean:+.1f}"


def draw(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Draw accuracy against bytes and against seconds, as PNG and SVG; returns their paths, none without results."""
    done = [line for line in lines if line.state == "done" and line.top1_mean is not None]
    if not done:
        return []
    figures = {
        BYTES: _figure(done, "bytes of images and labels", "total_bytes", ("real_bytes", _REAL), readable_bytes),
        SECONDS: _figure(
            done, "seconds: teacher, images, labels, one student", "device_seconds",
            ("real_train_seconds", f"{_REAL}: one student"), lambda seconds: f"{seconds:g}",
        ),
    }  # fmt: skip
    each = figures.items()
    return [file for name, figure in each for file in drawn.write(figure, folder / name, dpi=120, tight=False)]


def _figure(
    done: Sequence[Line], label: str, axis: str, real: tuple[str, str], readable: Callable[[int], str]
) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    plot = figure.subplots()
    several = len({line.student for line in done}) > 1
    for place, (title, student) in enumerate(dict.fromkeys((line.title, line.student) for line in done)):
        own = [line for line in done if (line.title, line.student) == (title, student)]
        name = f"{title}, {student}" if several else title
        _curve(plot, _points(own, axis, "top1"), name, color=f"C{place}", marker=_MARKERS[place % len(_MARKERS)])
    for place, student in enumerate(dict.fromkeys(line.student for line in done)):
        own = [line for line in done if line.student == student]
        name = f"{real[1]}, {student}" if several else real[1]
        style = ("--", ":", "-.")[place % 3]
        _curve(plot, _points(own, real[0], "real_top1"), name, color="black", marker=".", linestyle=style)
    full = {line.full_top1_mean for line in done if line.full_top1_mean is not None}
    if full and not several:
        plot.axhline(max(full), color="0.7", linewidth=0.8)
        plot.annotate("all real images", (0.01, max(full)), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    if len(counts := {line.num_classes for line in done if line.num_classes}) == 1:
        guess = 100 / counts.pop()
        plot.axhline(guess, color="0.45", linewidth=0.8, linestyle="--", zorder=0.5)
        plot.annotate("chance", (0.99, guess), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    plot.set_xscale("log")
    plot.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.set_xlabel(label)
    plot.set_ylabel("top-1 %, mean ± standard deviation over students")
    plot.grid(alpha=0.3, which="both", linewidth=0.5)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _points(lines: Sequence[Line], axis: str, values: str) -> list[Point]:
    """Return the points of a curve, each once, from left to right."""
    found = {(getattr(line, axis), getattr(line, f"{values}_mean"), getattr(line, f"{values}_std")) for line in lines}
    return sorted((point for point in found if None not in point[:2]), key=lambda point: point[0])


def _curve(plot: "Axes", points: Sequence[Point], name: str, **style: str) -> None:
    if points:
        x, y, spread = ([point[place] for point in points] for place in range(3))
        heights = [one or 0.0 for one in spread]
        plot.errorbar(x, y, heights, label=name, capsize=2, linewidth=1.2, markersize=5, **style)  # type: ignore[arg-type]
