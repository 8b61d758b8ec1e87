"""The loop shared by all methods that optimise pixels; its parts are in the other files of this folder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attar.synthesis.canvas import Canvas, canvas_of
from attar.synthesis.choices import Pixels
from attar.synthesis.committee import Committee, One
from attar.synthesis.gradients import Gradients, shown_size, taking_part
from attar.synthesis.leaves import Leaves
from attar.synthesis.method import Stretch, UnitShape
from attar.synthesis.stretches import Between, resized
from attar.synthesis.task import Task
from attar.synthesis.terms import State, Term
from attar.synthesis.views import Views


def optimise(
    task: Task,
    config: Pixels,
    start: Float[Tensor, "image 3 height width"],
    views: Views,
    loss: Sequence[Term],
    *,
    teachers: Committee | None = None,
    canvas: Canvas | None = None,
    stretches: Sequence[Stretch] = (),
    between: Between | None = None,
) -> Float[Tensor, "image 3 height width"]:
    """Minimise the sum of the terms over the pixels; returns them in [0, 1].

    ``start`` is in the first teacher's normalised units. Adam's learning rate falls to zero along a cosine; after each
    step the pixels are clamped to the valid range. ``teachers`` chooses the teachers of each iteration, by default the
    first teacher alone; ``stretches`` are by default those of ``config.cost``. With ``between``, the images themselves
    are resized to the view size: ``between`` makes a stretch's first pixels from those of the stretch before, and Adam
    restarts. Source: SRe2L (arXiv 2306.13092), section 3.2, and the published loop of CDA. Raises AttarError when a
    teacher does not accept one of the sizes.
    """
    committee, canvas = teachers or One(), canvas or canvas_of(config)
    stretches = tuple(stretches) or config.cost(shape_of(task))
    shown = [shown_size(stretch, task.size) for stretch in stretches]
    sizes = [size if between else task.size for size in shown]
    gradients = Gradients(task, tuple(loss), canvas, views)
    gradients.prepare(stretches, sizes, shown)
    begun = canvas.begin(start).to(task.device, copy=True)
    total, iteration = sum(stretch.iterations for stretch in stretches), 0
    leaves = Leaves(begun, config, gradients.units, total)
    best = Best(task) if config.keep == "best" else None
    finished, saved = task.checkpoint.load() or (0, dict[str, Tensor]())

    def state() -> State:
        kept = {"leaves": leaves.state(), "terms": gradients.state(), "views": views.state()}
        if best is not None:
            kept["best"] = best.state()
        return {f"{part}.{key}": value.cpu().clone() for part, own in kept.items() for key, value in own.items()}

    def images() -> Tensor:
        return resized(gradients.units.undo(leaves.all()), task.size)

    for number, stretch in enumerate(stretches):
        end = iteration + stretch.iterations
        leaves.join(taking_part(task, stretch.slots), iteration)
        if between:
            leaves.restart(between(number, leaves.all(), begun, shown[number]))
        if iteration < finished <= end:  # earlier stretches only set when images joined
            parts = {part: _under(part, saved) for part in ("leaves", "terms", "views", "best")}
            leaves.restore(parts["leaves"])
            gradients.restore(parts["terms"])
            views.restore(parts["views"])
            if best is not None:
                best.restore(parts["best"])
        for current in range(max(iteration, finished), end):
            pixels = leaves.taking_part()
            gradient, metrics = gradients(pixels, committee.turn(current), current, stretch.slots, shown[number])
            if best is not None and number == len(stretches) - 1:
                best.compare(pixels, metrics["loss"])  # before the step, because the loss belongs to these pixels
            leaves.step(gradient, current)
            left = task.monitor.step(current, images, **metrics)
            task.checkpoint.offer(current + 1, state)
            if left:
                break
        iteration = end
    final = leaves.all() if best is None else best.images(leaves.all())
    return gradients.units.undo(final).clamp(0, 1)


class Best:
    """Keeps each unit's iterate with the lowest loss within one stretch."""

    def __init__(self, task: Task) -> None:
        self._unit_of = task.unit_of
        self._kept: Tensor | None = None
        self._lowest = torch.full((len(task.unit_sizes),), torch.inf, device=task.device)

    @torch.no_grad()
    def compare(self, pixels: Tensor, loss: Float[Tensor, " unit"]) -> None:
        """Keep the images of units whose loss is the lowest so far."""
        better = loss < self._lowest
        kept = pixels.detach().clone() if self._kept is None else self._kept
        self._kept = torch.where(better[self._unit_of, None, None, None], pixels.detach(), kept)
        self._lowest = torch.where(better, loss, self._lowest)

    def images(self, last: Tensor) -> Tensor:
        """Return the kept images; the last iterate if none was kept."""
        return last if self._kept is None else self._kept

    def state(self) -> State:
        """Return the state for a checkpoint."""
        return {"lowest": self._lowest} | ({} if self._kept is None else {"kept": self._kept})

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._lowest = state["lowest"].to(self._lowest.device)
        self._kept = state["kept"].to(self._lowest.device) if "kept" in state else None


def shape_of(task: Task) -> UnitShape:
    """Return the shape of a task's largest unit."""
    ends = torch.tensor(task.unit_sizes).cumsum(0).tolist()
    units = [slice(end - size, end) for end, size in zip(ends, task.unit_sizes, strict=True)]
    labels = task.labels.cpu()
    return UnitShape(
        num_classes=max(len(labels[unit].unique()) for unit in units),
        num_slots=max(len(task.slots[unit].unique()) for unit in units),
        size=task.size[0],
        num_teachers=len(task.teachers),
    )


def _under(part: str, state: State) -> State:
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
