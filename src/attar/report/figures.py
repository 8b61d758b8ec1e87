"""Pictures of a run: its images, their change during optimisation, and the losses."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core.printable import one_line
from attar.stages.distilled import Distilled
from attar.store import atomic, units
from attar.store.units import UnitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_CLASSES, SHOWN_SLOTS = 10, 10
_CELL_INCHES = 0.8
_HALF = 0.48
"""Half the side of an image, where a cell's side is 1; the rest is the gap between images."""


def write_all(run: Path, folder: Path) -> list[Path]:
    """Draw ``grid.png`` and, if pixels were optimised, ``film.png`` and ``curves.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    distilled = Distilled(run / "distilled")
    written = [_save(grid(distilled), folder / "grid.png")]
    first = _first_unit(run)
    if first is not None and first.snapshots:
        written.append(_save(film(first, distilled), folder / "film.png"))
        written.append(_save(curves(first), folder / "curves.png"))
    return written


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


def curves(unit: UnitResult) -> "Figure":
    """Draw the metrics of each iteration."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(unit.curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(unit.curves), squeeze=False)[0]
    ordered = sorted(unit.curves.items(), key=lambda curve: (curve[0] != "loss", curve[0]))
    for axis, (name, values) in zip(axes, ordered, strict=True):
        axis.plot(range(1, len(values) + 1), values.numpy(), linewidth=0.8)
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_xlabel("iteration", fontsize=8)
        axis.tick_params(labelsize=7)
        if float(values.min()) > 0 and float(values.max()) > 20 * float(values.min()):
            axis.set_yscale("log")
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


def _first_unit(run: Path) -> UnitResult | None:
    """Return the first unit made in this run; None if the images were made elsewhere."""
    if not (run / "recover" / "units").is_dir():
        return None
    return units.first(run / "recover" / "units")


def _save(figure: "Figure", path: Path) -> Path:
    with atomic.replace(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    return path
