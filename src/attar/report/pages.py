"""The files of a run's report: its tables, as CSV for programs and as Markdown for people."""

from pathlib import Path

from attar.core.printable import markdown
from attar.report import architectures, per_class, table
from attar.report.table import Line
from attar.store import atomic


def write_all(run: Path, lines: list[Line], folder: Path) -> None:
    """Write ``table.csv``, ``table.md``, ``per-class.csv`` and, for several students, ``architectures.csv``."""
    atomic.write_text(folder / "table.csv", table.as_csv(lines))
    atomic.write_text(folder / "per-class.csv", per_class.as_csv(run))
    side_by_side = folder / "architectures.csv"
    if len(architectures.students_of(lines)) > 1:
        atomic.write_text(side_by_side, architectures.as_csv(lines))
    else:
        side_by_side.unlink(missing_ok=True)  # of an evaluation with more students
    notes = [f"Device-seconds of the stages: {spent(run)}.", markdown(per_class.extremes(run)) + "."]
    parts = [tables(lines), *notes]
    atomic.write_text(folder / "table.md", "\n\n".join(part.strip() for part in parts) + "\n")


def tables(lines: list[Line]) -> str:
    """The result table in Markdown, and below it that of several students side by side."""
    crossed = architectures.as_markdown(lines)
    return table.as_markdown(lines) + (f"\n{architectures.CAPTION}:\n\n{crossed}" if crossed else "")


def spent(run: Path) -> str:
    """Device-seconds of every stage, in words."""
    return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in table.stage_seconds(run).items())
