"""What a page shows of one run, gathered from its folder."""

import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.printable import one_line, printable
from attar.report import card, curves, figures, pages, per_class, table
from attar.report.page import gallery, labels
from attar.report.page.block import Block
from attar.report.table import Line
from attar.stages.distilled import Distilled
from attar.stages.rows import REAL_SETS
from attar.stages.run import Run

_NAME = re.compile(r"^name: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Content:
    """One run's page, before it is written."""

    run: Path
    name: str
    """Name of the run: that of its folder."""
    recipe_name: str
    recipe: str
    """The recipe with every setting; '' if the run has none yet."""
    aim: str
    """Published result that the recipe aims at, in words."""
    distilled: Distilled
    lines: list[Line]
    elapsed: dict[str, Elapsed]
    curves: list[curves.Curve]
    blocks: list[Block]
    """Data and pictures for the page's script."""
    has_film: bool
    real_title: str
    """How the real images beside the distilled ones were chosen; '' if there are none."""
    label_fault: str
    """Why no soft labels are shown; '' if they are."""
    has_soft_labels: bool = True
    """Whether students of the run are trained with soft labels."""
    warnings: list[str] = field(default_factory=list)
    """What the health checks of the run found."""
    accuracies: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """Mean and deviation by class name of the first row's students, in per cent."""

    @property
    def again(self) -> str:
        """The command, or the call in Python, that runs the saved recipe."""
        return card.again(self.recipe)

    @property
    def made_real(self) -> bool:
        """Whether the run's own images are unchanged real ones that a method chose."""
        return self.distilled.info.method in REAL_SETS


def gather(run: Path, name: str, lines: list[Line]) -> Content:
    """Read what the page of an evaluated run shows; raises AttarError when it is unfinished or damaged."""
    done, distilled = Run(run), Distilled(run / "distilled")
    recipe = (run / card.RECIPE).read_text(encoding="utf-8", errors="replace") if (run / card.RECIPE).is_file() else ""
    unit = figures.first_unit(run)
    filmed = unit is not None and bool(unit.snapshots)
    by_class = accuracies(run)
    real = None if distilled.info.method in REAL_SETS else gallery.real_images(run)
    blocks = gallery.gallery("gallery", distilled, real, by_class)
    if unit is not None and filmed:
        blocks += gallery.film("film", unit, distilled)
    titles = gallery.names_of(distilled)
    label_blocks, fault = list[Block](), ""
    soft = distilled.info.labels.mode != "none" and _has_soft_labels(lines)
    if soft:
        label_blocks, fault = labels.blocks("labels", distilled, titles)
    named = _NAME.search(recipe)
    return Content(
        run=run,
        name=one_line(name),
        recipe_name=one_line(named[1]) if named else "",
        recipe=printable(recipe),
        aim=table.aim_of(run),
        distilled=distilled,
        lines=lines,
        elapsed=done.elapsed(),
        curves=[] if unit is None else curves.of_unit(unit.curves, done.images.settings),
        blocks=[*blocks, *label_blocks],
        has_film=filmed,
        real_title="" if real is None else real.title,
        label_fault=one_line(fault),
        has_soft_labels=soft,
        warnings=[one_line(text) for text in pages.warnings(run)],
        accuracies=by_class,
    )


def accuracies(run: Path) -> dict[str, tuple[float, float | None]]:
    """Return mean and deviation by class name of the first row's first student; none if its training diverged."""
    try:
        found = per_class.first_row(run)
    except AttarError:
        return {}
    return {
        name: (round(statistics.fmean(values), 2), round(statistics.stdev(values), 2) if len(values) > 1 else None)
        for name, values in found.items()
    }


def _has_soft_labels(lines: list[Line]) -> bool:
    own = table.own_line(lines)
    return own is None or bool(own.label_bytes)
