"""Galleries: distilled images by class beside real ones, and the film of a unit's optimisation."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.printable import one_line
from attar.report.page import sheets
from attar.report.page.block import Block, of_json
from attar.stages.distilled import Distilled
from attar.stages.rows import REAL_SETS
from attar.stages.run import FOLDERS, Run, images_in
from attar.store import images as image_files
from attar.store.units import UnitResult

FILM_CLASSES = 10
_MOST_REAL_BYTES = 2 * 10**8
"""Baselines whose files take more are not opened for a page."""


@dataclass(frozen=True)
class RealImages:
    """Real images of a baseline."""

    pixels: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, " image"]
    title: str


def names_of(distilled: Distilled) -> list[str]:
    """Return the classes' names as a page shows them: the first English name, or the name itself."""
    titles = distilled.info.titles
    return [one_line(titles.get(name, name).split(",")[0])[:60] or "(no name)" for name in distilled.classes]


def real_images(run: Path) -> RealImages | None:
    """Return the real images of the run's first baseline that can be found; None without one, or if it is damaged."""
    done = Run(run)
    asked = done.asked.request.get("evaluate", {}) if done.is_done("evaluate") else {}
    shared = str(asked.get("baselines") or "")
    homes = [run / "baselines", *([Path(shared)] if shared else [])]
    size, found = done.images.settings.get("ipc"), list[tuple[str, Path]]()
    for home in homes:
        for name in REAL_SETS:
            places = [home / name, *home.glob(f"{name}-ipc{size}-*")]
            found += [(name, place) for place in places if (place / FOLDERS["recover"] / "manifest.json").is_file()]
    titles = {"random": "drawn at random", "herding": "chosen by herding", "kcentre": "chosen by k-centre"}
    for name, place in found[:1]:
        folder = place / FOLDERS["recover"]
        try:
            if images_in(folder).image_bytes > _MOST_REAL_BYTES:
                return None
            held = image_files.read(folder / "data")
        except AttarError:
            return None
        return RealImages(held.images, held.labels, titles[name])
    return None


def gallery(
    name: str, distilled: Distilled, real: RealImages | None, accuracies: dict[str, tuple[float, float | None]]
) -> list[Block]:
    """Return the blocks of a gallery: a description, and sheets with the pictures of some classes each.

    ``accuracies`` are the mean and the deviation by class name, in per cent.
    """
    count, size = len(distilled.classes), distilled.info.size
    beside = real is not None and real.pixels.shape[-1] == size
    per_class = int(torch.bincount(distilled.labels, minlength=count).max())
    form = sheets.frame(count, per_class, beside, size)
    own, columns, rows = form.own, form.columns, form.rows
    shown, places = _chosen(distilled.labels, count, own)
    pixels = distilled.images
    blocks, have = list[Block](), [min(own, amount) for amount in shown]
    have_real, real_places = [0] * count, dict[int, list[int]]()
    if beside and real is not None:
        amounts, real_places = _chosen(real.labels, count, own)
        have_real = [min(own, amount) for amount in amounts]
    for number, start in enumerate(range(0, count, rows)):
        labels = range(start, min(start + rows, count))
        cells = torch.zeros(len(labels), columns, 3, size, size, dtype=torch.uint8)
        for row, label in enumerate(labels):
            if places[label]:
                cells[row, : have[label]] = pixels[places[label]]
            if real is not None and have_real[label]:
                cells[row, own : own + have_real[label]] = real.pixels[real_places[label]]
        blocks.append(sheets.block(f"{name}-{number}", cells.flatten(0, 1), columns, form.side))
    scored = [accuracies.get(each) for each in distilled.classes]
    description = {
        "titles": names_of(distilled),
        "names": [one_line(each)[:60] for each in distilled.classes],
        "own": own,
        "columns": columns,
        "rows": rows,
        "have": have,
        "haveReal": have_real,
        "side": form.side,
        "real": real.title if beside and real is not None else "",
        "accuracy": [None if one is None else [round(one[0], 1), one[1]] for one in scored],
    }
    return [of_json(name, description), *blocks]


def film(name: str, unit: UnitResult, distilled: Distilled) -> list[Block]:
    """Return the blocks of a film: its steps, and a sheet with a row for each of up to ten images."""
    steps = sorted(unit.snapshots)
    first = {int(label): place for place, label in reversed(list(enumerate(unit.labels)))}
    places = sorted(first.values())[:FILM_CLASSES]
    cells = torch.stack([torch.stack([unit.snapshots[step][place] for step in steps]) for place in places])
    titles = names_of(distilled)
    description = {
        "steps": steps,
        "titles": [titles[int(unit.labels[place])] for place in places],
        "names": [distilled.classes[int(unit.labels[place])] for place in places],
        "side": min(cells.shape[-1], 224),
    }
    return [of_json(name, description), sheets.block(f"{name}-0", cells.flatten(0, 1), len(steps), 224)]


def _chosen(labels: Tensor, count: int, own: int) -> tuple[list[int], dict[int, list[int]]]:
    """Return how many images each class has, and the places of its first ones."""
    amounts = torch.bincount(labels, minlength=count).tolist()
    order = labels.argsort(stable=True).tolist()
    places, start = dict[int, list[int]](), 0
    for label, amount in enumerate(amounts):
        places[label] = order[start : start + min(own, amount)]
        start += amount
    return amounts, places
