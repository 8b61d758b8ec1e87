"""The files of a run's report: its tables, as CSV for programs and as Markdown for people."""

from collections.abc import Sequence
from pathlib import Path

from attar.core.printable import markdown
from attar.report import architectures, latex, per_class, table
from attar.report.table import Line
from attar.stages import health
from attar.stages.run import Run
from attar.store import atomic


def write_all(run: Path, lines: list[Line], folder: Path) -> None:
    """Write the table (CSV, Markdown, LaTeX), ``per-class.csv`` and, for several students, ``architectures.csv``."""
    atomic.write_text(folder / "table.csv", table.as_csv(lines))
    atomic.write_text(folder / "table.tex", latex.of_lines(lines))
    atomic.write_text(folder / "per-class.csv", per_class.as_csv(run))
    side_by_side = folder / "architectures.csv"
    if len(architectures.students_of(lines)) > 1:
        atomic.write_text(side_by_side, architectures.as_csv(lines))
    else:
        atomic.remove(side_by_side)  # left by an earlier evaluation with more students
    costs = f"{elapsed(run)}. The table's columns of seconds are wall seconds; table.csv has both."
    parts = [tables(lines), aims(lines), costs, markdown(per_class.extremes(run, lines)) + "."]
    if told := warnings(run):
        parts.append("Warnings:\n\n" + "\n".join(f"- {markdown(text)}" for text in told))
    atomic.write_text(folder / "table.md", "\n\n".join(part.strip() for part in parts if part) + "\n")


def write_tables(lines: list[Line], folder: Path, cautions: Sequence[str] = ()) -> None:
    """Write the table of several runs as CSV, Markdown and LaTeX; ``cautions`` say why runs cannot be compared."""
    atomic.write_text(folder / "table.csv", table.as_csv(lines))
    atomic.write_text(folder / "table.tex", latex.of_lines(lines))
    said = "".join(f"**{markdown(caution)}**\n\n" for caution in cautions)
    atomic.write_text(folder / "table.md", f"{said}{tables(lines)}\n{aims(lines)}".strip() + "\n")


def aims(lines: list[Line]) -> str:
    """Return in Markdown what the recipes of the runs aim at; '' if none says it."""
    found = {line.run: line.aim for line in lines if line.aim}
    several = len({line.run for line in lines}) > 1
    said = [f"{markdown(run)}: the" if several else "The" for run in found]
    return "\n\n".join(f"{who} recipe aims at: {markdown(aim)}." for who, aim in zip(said, found.values(), strict=True))


def tables(lines: list[Line]) -> str:
    """Return the result table in Markdown with notes on how to read it, then the table of several students."""
    crossed = architectures.as_markdown(lines)
    noted = "".join(f"\n{markdown(note)}\n" for note in table.notes(lines))
    return table.as_markdown(lines) + noted + (f"\n{architectures.CAPTION}:\n\n{crossed}" if crossed else "")


def warnings(run: Path) -> list[str]:
    """Return what the health checks of the run found, in the order of the stages."""
    return [text for stage in ("recover", "evaluate") for text in health.recorded(run / stage).values()]


def elapsed(run: Path) -> str:
    """Return the cost of every stage in words: wall seconds and, if measured, processor seconds."""
    parts = []
    for stage, elapsed in Run(run).elapsed().items():
        cores = "" if elapsed.processor_seconds is None else f" ({elapsed.processor_seconds:.1f})"
        parts.append(f"{stage} {elapsed.seconds:.1f} s{cores}")
    return f"Wall seconds (processor seconds) of all processes: {', '.join(parts)}"
