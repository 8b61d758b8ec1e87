"""Pictures of a run as PNG and SVG files: its images beside real ones, their change during optimisation, and curves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.log import readable_bytes
from attar.core.printable import one_line
from attar.report import curves, drawn, reliability
from attar.report.page.gallery import RealImages, real_images
from attar.report.page.svg import decades
from attar.report.table import Line, accuracy, held_bytes, is_real, shows_teacher, spent_seconds, student_of, title_of
from attar.stages.distilled import Distilled
from attar.stages.rows import REAL_SETS
from attar.stages.run import Run
from attar.store import units
from attar.store.units import UnitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("grid", "accuracy", "accuracy-cost", "film", "curves")
"""The figures that a run's report may have."""
Matrix = tuple[list[UInt8[Tensor, "column 3 height width"]], list[str], Mapping[float, str]]
"""Images in rows and columns, the names of the rows, and headings by column."""
SHOWN_CLASSES, SHOWN_SLOTS, SHOWN_BESIDE = 10, 10, 7
_CELL_INCHES = 0.8
_LONGEST = 24
"""Characters of a class's name in a figure; a longer one ends in dots."""
_CHANCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 0.9, "zorder": 0.5}
"""Style of the line of chance."""
_CELL_PIXELS, _GAP = 64, 0.04
"""Least pixels of an image's side, and the gap between images as a fraction of it."""


def write_all(run: Path, folder: Path, lines: list[Line], *, again: bool = True) -> list[Path]:
    """Draw ``grid``, ``accuracy`` and, if pixels were optimised, ``film`` and ``curves``; returns the files' paths.

    Without ``again``, files of figures that would not change are kept. Figures that only an earlier report had are
    removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown, distilled = drawn.Figures(folder, again=again), Distilled(run / "distilled")
    beside = None if distilled.info.method in REAL_SETS else real_images(run)
    shown.save("grid", _matrix, *grid(distilled, beside))
    for name, (draw, scored) in _of_scores(lines).items():
        shown.save(name, draw, scored)
    first = first_unit(run)
    if first is not None and first.snapshots:
        shown.save("film", _matrix, *film(first, distilled))
        shown.save("curves", drawn_curves, curves.of_unit(first.curves, Run(run).images.settings))
    shown.finish(NAMES)
    return shown.written


def write_scores(lines: list[Line], folder: Path) -> list[Path]:
    """Draw ``accuracy`` and ``accuracy-cost``, of every line that has an accuracy; returns the files' paths."""
    found = _of_scores(lines).items()
    return [file for name, (draw, scored) in found for file in drawn.write(draw(scored), folder / name)]


def _of_scores(lines: list[Line]) -> dict[str, tuple[Callable[[list[Line]], "Figure"], list[Line]]]:
    """Return the figures of scores by name: how each is drawn, and of which lines; none without an accuracy."""
    scored = [line for line in lines if line.top1_mean is not None]
    return {"accuracy": (accuracies, scored), "accuracy-cost": (cost, scored)} if scored else {}


def grid(distilled: Distilled, real: RealImages | None = None) -> Matrix:
    """Return up to ten images of up to ten classes; beside real ones, up to seven of each."""
    shown = range(min(SHOWN_CLASSES, len(distilled.classes)))
    titles = [_title(distilled, label) for label in shown]
    most = SHOWN_SLOTS if real is None else SHOWN_BESIDE
    rows = [distilled.images[distilled.labels == label][:most] for label in shown]
    if real is None or real.pixels.shape[1:] != distilled.images.shape[1:]:
        return rows, titles, {}
    own = max(len(row) for row in rows)
    cells = [torch.full((own + 1, *distilled.images.shape[1:]), 255, dtype=torch.uint8) for _ in shown]
    for row, images in zip(cells, rows, strict=True):
        row[: len(images)] = images
    beside = [real.pixels[real.labels == label][:most] for label in shown]
    heads = {(own - 1) / 2: "distilled", own + 1 + (max(map(len, beside)) - 1) / 2: f"real, {real.title}"}
    return [torch.cat(pair) for pair in zip(cells, beside, strict=True)], titles, heads


def film(unit: UnitResult, distilled: Distilled) -> Matrix:
    """Return the images of one unit after increasing numbers of iterations."""
    steps = sorted(unit.snapshots)
    places = range(min(SHOWN_CLASSES, len(unit.labels)))
    rows = [torch.stack([unit.snapshots[step][place] for step in steps]) for place in places]
    titles = [_title(distilled, int(unit.labels[place])) for place in places]
    return rows, titles, {place: f"{step:,}" for place, step in enumerate(steps)}


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
        if curves.is_logarithmic([curve]):
            axis.set_yscale("log")
    return figure


def accuracies(lines: list[Line]) -> "Figure":
    """Draw the top-1 of every training set with its standard deviation, the run's own sets in colour."""
    from matplotlib.figure import Figure

    several_runs = len({line.run for line in lines}) > 1
    several = len({line.student for line in lines if not shows_teacher(line)}) > 1
    figure = Figure(figsize=(8.0, 1.0 + 0.34 * len(lines)), layout="constrained")
    axis = figure.subplots()
    colours = ["#0b6e69" if line.row.startswith("distilled") else "#9aa0a6" for line in lines]
    means, spreads = ([line.top1_mean or 0.0 for line in lines], [line.top1_std or 0.0 for line in lines])
    shown = spreads if any(spreads) else None
    axis.barh(range(len(lines)), means, xerr=shown, color=colours, height=0.62, error_kw={"capsize": 2, "lw": 1})
    for place, (line, mean, spread) in enumerate(zip(lines, means, spreads, strict=True)):
        axis.text(mean + spread + 1, place, accuracy(line), va="center", fontsize=8)
    names = [title_of(line, several_runs) + (f" ({student_of(line)})" if several else "") for line in lines]
    axis.set_yticks(range(len(lines)), [one_line(name) for name in names], fontsize=9, parse_math=False)
    axis.set_xlim(0, min(118.0, 1.18 * max(map(sum, zip(means, spreads, strict=True)))))
    if (guess := reliability.chance(lines)) is not None:
        axis.axvline(guess, **_CHANCE)
        axis.annotate("chance", (guess, 1), xycoords=("data", "axes fraction"), fontsize=7, ha="center", va="bottom")
    axis.set_xlabel(f"top-1 %, {reliability.of_students(lines)}", fontsize=8)
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False, labelsize=8)
    return figure


def cost(lines: list[Line]) -> "Figure":
    """Draw the top-1 against bytes and against seconds; real images are hollow marks."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    several_runs = len({line.run for line in lines}) > 1
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = list(dict.fromkeys(line.run if several_runs else title_of(line, False) for line in lines))
    found: tuple[list[float], list[float]] = ([], [])
    for line in lines:
        title = line.run if several_runs else title_of(line, False)
        colour = f"C{titles.index(title) % 10}"
        style = {"color": colour, "markerfacecolor": "white" if is_real(line) else colour, "capsize": 2, "fmt": "o"}
        for axis, value, values in zip(axes, (held_bytes(line), spent_seconds(line)), found, strict=True):
            values.append(value)
            axis.errorbar(value, line.top1_mean, line.top1_std or 0.0, **style)
    words: list[tuple[str, Callable[[float], str]]] = [
        ("bytes of images and labels", lambda value: readable_bytes(round(value))),
        ("seconds: teachers, images, labels, one student", lambda value: f"{value:,g}"),
    ]
    for axis, (label, readable), values in zip(axes, words, found, strict=True):
        axis.set_xscale("log")
        if positive := [value for value in values if value > 0]:
            low, high = min(positive) / 1.6, max(positive) * 1.6
            axis.set_xlim(low, high)
            axis.xaxis.set_major_locator(FixedLocator(decades(low, high)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _, readable=readable: readable(value)))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label, fontsize=8)
        axis.grid(alpha=0.3, linewidth=0.5)
        axis.tick_params(labelsize=8)
    for axis in axes if (guess := reliability.chance(lines)) is not None else ():
        axis.axhline(guess, **_CHANCE)
        axis.annotate("chance", (0.99, guess), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    axes[0].set_ylabel("top-1 %", fontsize=8)
    handles = [axes[0].plot([], [], "o", color=f"C{place % 10}")[0] for place in range(len(titles))]
    figure.legend(
        handles, [one_line(title).replace("$", "\\$") for title in titles], fontsize=8, loc="outside right upper"
    )
    return figure


def _matrix(rows: list[UInt8[Tensor, "column 3 height width"]], left: list[str], top: Mapping[float, str]) -> "Figure":
    """Draw images in rows and columns as one picture, which is fast; ``top`` are headings by column."""
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    margin = 0.15 * max((len(name) for name in left), default=0)
    figure = Figure(figsize=(columns * _CELL_INCHES + margin, len(rows) * _CELL_INCHES + 0.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)  # type: ignore[union-attr]
    axis = figure.subplots()
    axis.set_frame_on(False)
    side = max(row.shape[-1] for row in rows)
    times = -(-_CELL_PIXELS // side)
    edge = max(1, round(_GAP * side * times / 2))
    cell = side * times + 2 * edge
    canvas = np.full((len(rows), cell, columns, cell, 3), 255, dtype=np.uint8)
    for place, row in enumerate(rows):
        for column, image in enumerate(row.permute(0, 2, 3, 1).numpy()):
            canvas[place, edge:-edge, column, edge:-edge] = image.repeat(times, 0).repeat(times, 1)
    picture = canvas.reshape(len(rows) * cell, columns * cell, 3)
    axis.imshow(picture, interpolation="antialiased", extent=(-0.5, columns - 0.5, len(rows) - 0.5, -0.5))
    axis.set_yticks(range(len(left)), left, fontsize=10, parse_math=False)
    axis.set_xticks(list(top), list(top.values()), fontsize=10)
    axis.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    return figure


def _title(distilled: Distilled, label: int) -> str:
    name = distilled.classes[label]
    title = one_line(distilled.info.titles.get(name, name).split(",")[0])
    return title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…"


def first_unit(run: Path) -> UnitResult | None:
    """Return the first unit made in this run; None if the images were made elsewhere."""
    if not (run / "recover" / "units").is_dir():
        return None
    return units.first(run / "recover" / "units")
