"""What 'attar report' and the end of a run print, and the files that 'attar report' writes."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.printable import one_line
from attar.report import architectures, comparable, figures, pages, per_class, ranking, reliability, table
from attar.report.page import write
from attar.report.publish import write_report
from attar.report.table import Line
from attar.stages.run import Run
from attar.store import atomic

WIDTH = 100
"""Characters of a line where there is no terminal."""


def report(runs: Sequence[Path], csv: Path | None, out: Path | None) -> None:
    """Write the files of these runs' reports, and print their tables.

    ``csv`` is a file for the table with every column; ``out`` is a folder for pages that open without a network.
    Raises AttarError when no run is evaluated.
    """
    runs = evaluated(runs)
    names = table.names_of(runs)
    tables = {run: table.lines(run) for run in runs}
    rows = [replace(line, run=names[run]) for run, lines in tables.items() for line in lines]
    for run, lines in tables.items():
        write_report(run, lines, _note)
    if csv:
        atomic.write_text(csv, table.as_csv(rows))
        atomic.write_json(csv.with_suffix(".json"), {names[run]: Run(run).plain() for run in runs})
    if out:
        write.pages(runs, out)
        pages.write_tables(rows, out, comparable.sentences(runs))
        figures.write_scores(rows, out)
    print_tables(runs, rows)
    if out:
        _console().print(f"Page: {out / write.INDEX}", soft_wrap=True, markup=False)


def evaluated(runs: Sequence[Path]) -> list[Path]:
    """Return the evaluated runs and warn about the others; a single run is returned without a check."""
    if len(runs) == 1:
        return list(runs)
    found = [run for run in dict.fromkeys(runs) if (run / "evaluate" / "manifest.json").is_file()]
    if not found:
        raise AttarError(
            f"None of {', '.join(map(str, runs))} is evaluated; run 'attar evaluate' with this --out first."
        )
    for run in runs:
        if run not in found:
            _note(f"{run} is left out, because it is not evaluated")
    return found


def _note(text: str) -> None:
    print(f"attar: {one_line(text)}", file=sys.stderr)


def print_tables(runs: Sequence[Path], rows: list[Line]) -> None:
    """Print the tables of evaluated runs, their best and worst classes, their costs, and where their pages are."""
    console = _console()
    students, judged = sorted({row.student for row in rows if not table.shows_teacher(row)}), table.protocols(rows)
    by = {0: "", 1: f"protocol {' '.join(judged)}; "}.get(len(judged), "protocols as in the table; ")
    console.print(
        f"Students {', '.join(students)}; {by}{reliability.measured_on(rows)}, last epoch, "
        f"{reliability.of_students(rows)}",
        markup=False,
    )
    console.print(table.for_terminal(rows, console.width))
    for sentence in comparable.sentences(runs):
        console.print(f"warning: {sentence}", style="yellow", soft_wrap=True, markup=False)
    crossed = architectures.for_terminal(rows, console.width)
    if crossed is not None:
        console.print(architectures.CAPTION)
        console.print(crossed)
    names = table.names_of(runs)
    for run in runs:
        about = f"{run}: " if len(runs) > 1 else ""
        own = rows if len(runs) == 1 else [row for row in rows if row.run == names[run]]
        console.print(about + per_class.extremes(run, own), soft_wrap=True, markup=False)
        console.print(f"{run}: {pages.elapsed(run)}", soft_wrap=True, markup=False)
        console.print(f"{about}Page: {run / 'report' / write.INDEX}", soft_wrap=True, markup=False)
        for text in pages.warnings(run):
            console.print(f"{about}warning: {text}", style="yellow", soft_wrap=True, markup=False)


def print_rankings(runs: Sequence[Path], path: Path | None) -> None:
    """Print DD-Ranking's scores of evaluated runs; ``path`` is a CSV file for them."""
    runs = evaluated(runs)
    names = table.names_of(runs)
    rows = [replace(line, run=names[run]) for run in runs for line in ranking.rankings(run)]
    if path:
        atomic.write_text(path, ranking.as_csv(rows))
    console = _console()
    console.print(ranking.for_terminal(rows, console.width))
    for sentence in ranking.hints(rows):
        console.print(sentence, soft_wrap=True, markup=False)


def _console() -> SafeConsole:
    console = SafeConsole(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console
