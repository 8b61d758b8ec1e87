"""Write the readable results of finished stages: tables, pictures, and the card of the distilled set."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from attar.report import card, figures, pages, table
from attar.report.page import write
from attar.report.table import Line
from attar.stages.run import Run, Stage
from attar.store import atomic


def publish(out: Path, stages: Collection[Stage], warn: Callable[[str], None]) -> list[Line]:
    """Write the files that these stages of the run in ``out`` changed; returns the result table.

    Figures that would not change are kept. The table is empty if the run is not evaluated. Where the folder cannot be
    written, a warning says so.
    """
    run = Run(out)
    lines = table.lines(out) if run.is_done("evaluate") else list[Line]()
    with _told_if_read_only(out, warn):
        if run.is_done("evaluate"):
            pages.write_all(out, lines, out / "report")
        if {"relabel", "evaluate"} & set(stages) and run.is_done("relabel"):
            card.write(out / "distilled", lines, run.images.kept_classes)
            if "evaluate" in stages:
                _draw(out, lines, again=False)
    return lines


def write_report(out: Path, lines: list[Line], warn: Callable[[str], None]) -> None:
    """Write tables, figures and page of an evaluated run; where its folder cannot be written, a warning says so."""
    with _told_if_read_only(out, warn):
        pages.write_all(out, lines, out / "report")
        _draw(out, lines, again=True)


@contextlib.contextmanager
def _told_if_read_only(out: Path, warn: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except atomic.NotWritableError as error:
        warn(f"the files in {out / 'report'} stay as they are: {str(error).partition(';')[0]}")


def _draw(out: Path, lines: list[Line], *, again: bool) -> None:
    figures.write_all(out, out / "report", lines, again=again)
    write.run_page(out, lines, out / "report" / write.INDEX)
