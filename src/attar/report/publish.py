"""Write the readable results of finished stages: tables, pictures, and the card of the distilled set."""

from collections.abc import Collection
from pathlib import Path

from attar.report import card, figures, pages, table
from attar.report.page import write
from attar.report.table import Line
from attar.stages.run import Run, Stage


def publish(out: Path, stages: Collection[Stage]) -> list[Line]:
    """Write the files that these stages of the run in ``out`` changed; returns the result table.

    The table is empty if the run is not evaluated.
    """
    run, lines = Run(out), list[Line]()
    if run.is_done("evaluate"):
        lines = table.lines(out)
        pages.write_all(out, lines, out / "report")
    if {"relabel", "evaluate"} & set(stages) and run.is_done("relabel"):
        card.write(out / "distilled", lines, run.images.kept_classes)
        if "evaluate" in stages:
            figures.write_all(out, out / "report", lines)
            write.run_page(out, lines, out / "report" / write.INDEX)
    return lines
