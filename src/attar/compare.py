"""Compare methods at several sizes: for each, as many images as the bytes allow, and real images of as many bytes."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from attar import pipeline
from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Log, readable_bytes
from attar.core.printable import one_line
from attar.data.load import load
from attar.plan import forecast
from attar.plan.budget import Sizes
from attar.recipes.compared import Contender
from attar.report import compared, table
from attar.report.compared import Line
from attar.report.page import write
from attar.stages.workspace import Workspace

BASELINES = "baselines"
"""Folder of real images and of scores that all runs share."""

Cell = tuple[Contender, Line]
"""A method, and what was planned for it at one size."""


def planned(contenders: Sequence[Contender], budgets: Sequence[int], out: Path, log: Log) -> list[Cell]:
    """Choose the images per class for every method and budget; sizes come first, so small runs are done first.

    Opens the real data; makes nothing. Raises AttarError when nothing fits at all.
    """
    first = contenders[0].recipe
    space = Workspace(out, first.seed, first.data, first.execution, log)
    sizes = {one.title: _sizes(space, one) for one in contenders}
    cells = [(one, _line(one, budget, sizes[one.title])) for budget in budgets for one in contenders]
    if not any(line.ipc for _, line in cells):
        least = min(cells, key=lambda cell: cell[1].most_bytes)
        raise AttarError(
            f"No budget holds one image per class; the least is {readable_bytes(least[1].most_bytes)}, for "
            f"{least[0].title}. Raise --budgets."
        )
    return cells


def _sizes(space: Workspace, one: Contender) -> Sizes:
    recipe = one.recipe
    return Sizes(space, recipe.method, recipe.recover, recipe.relabel if one.labels == "soft" else None)


def _line(one: Contender, budget: int, sizes: Sizes) -> Line:
    choice = sizes.choose(budget)
    return Line(
        method=one.name,
        labels=one.labels,
        budget_bytes=budget,
        state="to do" if choice.ipc else "impossible",
        why=choice.why,
        ipc=choice.ipc,
        most_bytes=choice.most_bytes,
        folder=one.folder(budget),
    )


def run(cells: Sequence[Cell], out: Path, log: Log) -> list[Line]:
    """Run every method at every size that is possible, and write tables and figures into ``out``; returns the lines.

    Finished work is kept, so the same call continues. Runs share teachers and baselines. A run that fails is reported,
    and the others go on.
    """
    found, before = [[line] for _, line in cells], compared.text_in(out)
    with ranks.group():
        for place, (one, line) in enumerate(cells):
            if line.ipc:
                log.say(f"compare   {place + 1} of {len(cells)}: {one.title} at {readable_bytes(line.budget_bytes)}")
                found[place] = _result(one, line, out, log)
                if ranks.is_first():
                    compared.write_tables([line for lines in found for line in lines], out)
        lines = [line for lines in found for line in lines]
        if ranks.is_first():
            compared.write_tables(lines, out)
            if compared.text_in(out) != before or not compared.has_figures(out):
                compared.draw(lines, out)
            if compared.text_in(out) != before or not page_of(out).is_file():
                _write_page(lines, out)
    return lines


def page_of(out: Path) -> Path:
    """Return the path of the page that compares the runs; there is none with fewer than two finished runs."""
    return out / write.REPORT / write.INDEX


def _write_page(lines: Sequence[Line], out: Path) -> None:
    runs = list(dict.fromkeys(out / line.folder for line in lines if line.state == "done"))
    if len(runs) > 1:
        write.comparison(runs, page_of(out).parent)
    else:
        page_of(out).unlink(missing_ok=True)  # left by an earlier comparison


def _result(one: Contender, line: Line, out: Path, log: Log) -> list[Line]:
    """Make one run; returns its lines, or one that says what failed."""
    folder = out / line.folder
    try:
        _share_teachers(one, folder, out)
        pipeline.run(one.recipe_of(line.ipc, str(out / BASELINES)), folder, quiet=log.quiet)
        return compared.measured(line, folder, one.asks_teacher) if ranks.is_first() else [line]
    except Exception as error:
        if ranks.world_size() > 1:  # the other processes wait for this one
            raise
        reason = one_line(str(error)) if isinstance(error, AttarError) else f"{type(error).__name__}: {error}"
        log.warn(f"{one.title} at {readable_bytes(line.budget_bytes)} failed: {reason}")
        return [replace(line, state="failed", why=reason)]


def _share_teachers(one: Contender, folder: Path, out: Path) -> None:
    """Let the run's ``squeeze`` be the one of the comparison, by a link; experts of which only ends are kept differ."""
    if ranks.is_first() and not (folder / "squeeze").exists():
        kept = one.recipe.recover.needs().snapshots
        name = "squeeze-ends" if kept == "ends" else "squeeze"
        folder.mkdir(parents=True, exist_ok=True)
        (out / name).mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # where links are not allowed, the run trains its own
            (folder / "squeeze").symlink_to(Path("..") / name, target_is_directory=True)
    ranks.wait()


def expected_seconds(cells: Sequence[Cell], log: Log) -> tuple[float, list[float | None]]:
    """Return the seconds that this device needs for what all runs share, and for each run; measures some steps.

    Shared are teachers, experts and students of all real images. None: not known, or impossible.
    """
    shared, each = 0.0, list[float | None]()
    first = cells[0][0].recipe
    real = load(first.data, first.seed, Log(quiet=True))
    for one, line in cells:
        if not line.ipc:
            each.append(None)
            continue
        log.say(f"plan      timing {one.title} at {readable_bytes(line.budget_bytes)}")
        recipe = one.recipe_of(line.ipc, "")
        own, others = forecast.parts(pipeline.work_of(recipe, real))
        shared = max(shared, others)
        each.append(own)
    return shared, each


def print_plan(
    cells: Sequence[Cell], console: Console, seconds: tuple[float, list[float | None]] | None = None
) -> None:
    """Print what was chosen and why, with the expected time if it was measured."""
    header, rows = compared.plan_cells([line for _, line in cells])
    if seconds is not None:
        times = ["not known" if one is None else forecast.readable_seconds(one) for one in seconds[1]]
        times = [time if line.ipc else "-" for time, (_, line) in zip(times, cells, strict=True)]
        header = [*header[:-1], "time", header[-1]]
        rows = [[*row[:-1], time, row[-1]] for row, time in zip(rows, times, strict=True)]
    console.print(table.grid(header, rows))
    if seconds is not None:
        total = seconds[0] + sum(one or 0.0 for one in seconds[1])
        shared = forecast.readable_seconds(seconds[0])
        words = f"Teachers and students of all real images, made once: about {shared}"
        least = "more than " * ("not known" in [row[-2] for row in rows])
        console.print(
            f"{words}. Altogether: {least}about {forecast.readable_seconds(total)}, in one process.", soft_wrap=True
        )


def print_results(lines: Sequence[Line], out: Path, console: Console) -> None:
    """Print the results and where they are written."""
    console.print(compared.for_terminal(lines, console.width))
    for note in compared.notes(lines):
        console.print(note, soft_wrap=True, markup=False)
    console.print(
        f"Table and figures: {out / compared.CSV}, {compared.BYTES}.png, {compared.SECONDS}.png", markup=False
    )
    if page_of(out).is_file():
        console.print(f"Page: {page_of(out)}", soft_wrap=True, markup=False)
