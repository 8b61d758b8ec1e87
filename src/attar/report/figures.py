"""Pictures of a run as PNG and SVG files: its images beside real ones, their change during optimisation, and curves."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.printable import one_line
from attar.report import curves
from attar.report.table import Line, accuracy, title_of
from attar.stages.distilled import Distilled
from attar.stages.run import Run
from attar.store import atomic, units
from attar.store.units import UnitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_CLASSES, SHOWN_SLOTS = 10, 10
_CELL_INCHES = 0.8
_HALF = 0.48
"""Half the side of an image, where a cell's side is 1; the rest is the gap between images."""


def write_all(run: Path, folder: Path, lines: list[Line]) -> list[Path]:
    """Draw ``grid``, ``accuracy`` and, if pixels were optimised, ``film`` and ``curves``; returns the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    distilled = Distilled(run / "distilled")
    written = [*_save(grid(distilled), folder / "grid"), *write_scores(lines, folder)]
    first = first_unit(run)
    if first is not None and first.snapshots:
        written += _save(film(first, distilled), folder / "film")
        written += _save(drawn_curves(curves.of_unit(first.curves, Run(run).images.settings)), folder / "curves")
    return written


def write_scores(lines: list[Line], folder: Path) -> list[Path]:
    """Draw ``accuracy``: the top-1 of every line that has one; returns the files' paths."""
    shown = [line for line in lines if line.top1_mean is not None]
    return _save(accuracies(shown), folder / "accuracy") if shown else []


def grid(distilled: Distilled) -> "Figure":
    """Draw up to ten images of up to ten classes."""
    shown = list(range(min(SHOWN_CLASSES, len(distilled.classes))))
    rows = [distilled.images[distilled.labels == label][:SHOWN_SLOTS] for label in shown]
    return _matrix(rows, [_title(distilled, label) for label in shown], [])


def film(unit: UnitResult, distilled: Distilled) -> "Figure":
    """Draw the images of one unit after increasing numbers of iterations."""
    steps = sorted(unit.snapshots)
    places = range(min(SHOWN_CLASSES, len(unit.labels)))
    rows = [torch.stack([unit.snapshots[step][place] for step in steps]) for place in places]
    titles = [_title(distilled, int(unit.labels[place])) for place in places]
    return _matrix(rows, titles, [str(step) for step in steps])


def drawn_curves(found: list[curves.Curve]) -> "Figure":
    """Draw what was recorded in each iteration, and the crop curriculum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(found), 3.6), layout="constrained")
    for axis, curve in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        axis.plot(curve.steps, curve.values, linewidth=1.0)
        axis.set_title(curve.title, fontsize=9, parse_math=False)
        axis.set_xlabel("iteration", fontsize=8)
        axis.set_ylabel(curve.axis, fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
        if curve.is_logarithmic:
            axis.set_yscale("log")
    return figure


def accuracies(lines: list[Line]) -> "Figure":
    """Draw the top-1 of every training set with its standard deviation, the run's own sets in colour."""
    from matplotlib.figure import Figure

    several_runs, several = len({line.run for line in lines}) > 1, len({line.student for line in lines}) > 1
    figure = Figure(figsize=(8.0, 1.0 + 0.34 * len(lines)), layout="constrained")
    axis = figure.subplots()
    colours = ["#0b6e69" if line.row.startswith("distilled") else "#9aa0a6" for line in lines]
    means, spreads = [line.top1_mean or 0.0 for line in lines], [line.top1_std or 0.0 for line in lines]
    axis.barh(range(len(lines)), means, xerr=spreads, color=colours, height=0.62, error_kw={"capsize": 2, "lw": 1})
    for place, (line, mean, spread) in enumerate(zip(lines, means, spreads, strict=True)):
        axis.text(mean + spread + 1, place, accuracy(line), va="center", fontsize=8)
    names = [title_of(line, several_runs) + (f" ({line.student})" if several else "") for line in lines]
    axis.set_yticks(range(len(lines)), [one_line(name) for name in names], fontsize=9, parse_math=False)
    axis.set_xlim(0, min(118.0, 1.18 * max(map(sum, zip(means, spreads, strict=True)))))
    axis.set_xlabel("top-1 %, mean ± standard deviation over students", fontsize=8)
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False, labelsize=8)
    return figure


def _matrix(rows: list[UInt8[Tensor, "column 3 height width"]], left: list[str], top: list[str]) -> "Figure":
    """Draw images in rows and columns in a single axis, because one axis per image takes seconds to lay out."""
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    margin = 0.12 * max((len(name) for name in left), default=0)
    figure = Figure(figsize=(columns * _CELL_INCHES + margin, len(rows) * _CELL_INCHES + 0.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)  # type: ignore[union-attr]
    axis = figure.subplots()
    axis.set_frame_on(False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            cell = (column - _HALF, column + _HALF, row + _HALF, row - _HALF)
            axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest", extent=cell)
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(left)), left, fontsize=10, parse_math=False)
    axis.set_xticks(range(len(top)), top, fontsize=10)
    axis.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    return figure


def _title(distilled: Distilled, label: int) -> str:
    name = distilled.classes[label]
    return one_line(distilled.info.titles.get(name, name).split(",")[0])[:24]


def first_unit(run: Path) -> UnitResult | None:
    """Return the first unit made in this run; None if the images were made elsewhere."""
    if not (run / "recover" / "units").is_dir():
        return None
    return units.first(run / "recover" / "units")


def _save(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG; ``path`` has no ending."""
    from matplotlib import rc_context

    written = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    for file in written:
        ending = file.suffix.removeprefix(".")
        with atomic.replace(file) as temporary, rc_context({"svg.hashsalt": file.name}):  # the same file every time
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(temporary, format=ending, dpi=80, metadata=metadata)
    return written
