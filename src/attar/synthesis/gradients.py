"""Compute gradients of a task's pixels: choose the images of each teacher, the compiled function and its tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attar.core.compiling import Amount, out_of_memory
from attar.core.errors import AttarError
from attar.ops.pixels import Normalisation
from attar.synthesis.canvas import Canvas, Images
from attar.synthesis.committee import Share
from attar.synthesis.method import Stretch
from attar.synthesis.objective import Metrics, Objective, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.task import Task
from attar.synthesis.terms import State, Term
from attar.synthesis.views import Records, Size, Views

SMALLEST = 8
"""Smallest side in pixels of a resized view; smaller views show nothing useful."""
Function = Callable[..., tuple[Images, Metrics, Tensor | None, tuple[State, ...]]]


@dataclass(frozen=True)
class _Part:
    """The images of a task that one teacher sees, and the terms' tensors for them."""

    task: Task
    """The task restricted to these images and units."""
    images: Int[Tensor, " part"] | None
    """Indices into the images that take part; None: all."""
    units: Int[Tensor, " part"] | None
    labels: Int[Tensor, " image"]
    """Labels of the images that the teacher sees."""
    average: Float[Tensor, "unit image"]
    constants: tuple[State, ...]


class Gradients:
    """Computes the gradient of a task's loss through its teachers."""

    def __init__(self, task: Task, loss: tuple[Term, ...], canvas: Canvas, views: Views) -> None:
        self._task, self._loss, self._canvas, self._views = task, loss, canvas, views
        self.units: Normalisation = canvas.units(task.teachers[0].normalisation)
        """Units of the pixels."""
        self._parts: dict[tuple[int, int | None], _Part] = {}
        self._states: dict[int, tuple[State, ...]] = {}
        self._calls: dict[tuple[int, Size, Size], float] = {}

    def prepare(self, stretches: Sequence[Stretch], sizes: Sequence[Size], shown: Sequence[Size]) -> None:
        """Prepare all functions for pixels of these sizes, with views of these sizes.

        Raises AttarError when a teacher does not accept one of the sizes.
        """
        calls: dict[tuple[int, int, Size, Size], float] = {}
        for stretch, size, seen in zip(stretches, sizes, shown, strict=True):
            places = taking_part(self._task, stretch.slots)
            count = (len(self._task.labels) if places is None else len(places)) * self._canvas.shown
            for teacher, passes in enumerate(stretch.teachers[: len(self._task.teachers)]):
                if passes:
                    key = (teacher, count, size, seen)
                    calls[key] = calls.get(key, 0) + stretch.iterations * passes
        for (teacher, _, size, seen), number in calls.items():
            self._calls[teacher, size, seen] = self._calls.get((teacher, size, seen), 0) + number
        for key, number in calls.items():
            self._function(*key, number)

    def __call__(
        self, pixels: Images, shares: Sequence[Share], iteration: int, slots: int | None, shown: Size
    ) -> tuple[Images, Metrics]:
        """Return the gradient of the pixels that take part, and each unit's metrics as weighted means over the
        teachers."""
        size = (pixels.shape[-2], pixels.shape[-1])
        drawn = _of_those(self._views.draw(iteration, size, shown), self._task, slots, self._canvas.shown)
        if len(shares) == 1 and shares[0].units is None and shares[0].weight is None:
            return self._share(pixels, shares[0], drawn, slots, shown)
        gradient, total = torch.zeros_like(pixels), dict[str, Tensor]()
        for share in shares:
            part = self._part(share, slots)
            slope, metrics = self._share(pixels, share, drawn, slots, shown)
            weight = torch.ones_like(metrics["loss"]) if share.weight is None else share.weight
            slope = slope * weight[part.task.unit_of][:, None, None, None]
            gradient = gradient + slope if part.images is None else gradient.index_add(0, part.images, slope)
            for name, value in metrics.items():
                before = total.get(name, torch.zeros(len(self._task.unit_sizes), device=self._task.device))
                value = weight * value
                total[name] = before + value if part.units is None else before.index_add(0, part.units, value)
        return gradient, total

    def _share(
        self, pixels: Images, share: Share, drawn: Records, slots: int | None, shown: Size
    ) -> tuple[Images, Metrics]:
        part, teacher = self._part(share, slots), share.teacher
        own = pixels if part.images is None else pixels[part.images]
        records = _records(drawn, part, len(self._task.unit_sizes), self._canvas.shown)
        size = (pixels.shape[-2], pixels.shape[-1])
        calls = self._calls.get((teacher, size, shown), 1.0)  # read if the teacher sees some of the units only
        function = self._function(teacher, len(part.labels), size, shown, calls)
        states = self._states.get(teacher)
        if states is None:
            states = self._objective(teacher).begin(part.task, teacher)
        found = function(own, records, shown, part.labels, part.average, part.constants, states)
        gradient, metrics, each, self._states[teacher] = found
        for term, before, after in zip(self._loss, states, self._states[teacher], strict=True):
            if before.keys() != after.keys():
                raise TypeError(f"The term '{term.name}' returned a state with other keys than it began with.")
        if each is not None and part.images is None and part.units is None:
            self._views.receive(each)
        return gradient, metrics

    def state(self) -> State:
        """Return the terms' states, for a checkpoint."""
        return {
            f"{teacher}.{place}.{key}": value
            for teacher, states in self._states.items()
            for place, state in enumerate(states)
            for key, value in state.items()
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        found: dict[int, list[State]] = {}
        for name, value in state.items():
            teacher, place, key = name.split(".", 2)
            own = found.setdefault(int(teacher), [{} for _ in self._loss])
            own[int(place)][key] = value.to(self._task.device)
        self._states = {teacher: tuple(states) for teacher, states in found.items()}

    def _part(self, share: Share, slots: int | None) -> _Part:
        """Return a teacher's part of the task for this number of slots; the units of its shares never change."""
        key = (share.teacher, slots)
        if key not in self._parts:
            self._parts[key] = self._made(share, slots)
        return self._parts[key]

    def _made(self, share: Share, slots: int | None) -> _Part:
        task, places = self._task, taking_part(self._task, slots)
        task = task if places is None else images_of(task, places)
        images = None
        if share.units is not None:
            images = torch.isin(task.unit_of, share.units).nonzero()[:, 0]
            task = images_of(task, images)
        labels, unit_of = (values.repeat_interleave(self._canvas.shown) for values in (task.labels, task.unit_of))
        sizes = torch.tensor(task.unit_sizes, device=task.device) * self._canvas.shown
        average = F.one_hot(unit_of, len(sizes)).T / sizes[:, None]
        constants = self._objective(share.teacher).constants(task, share.teacher)
        return _Part(task, images, share.units, labels, average, constants)

    def _parts_of_objective(self) -> tuple[Any, ...]:
        return (self._loss, self.units, self._canvas, self._views.show, self._views.uses_losses)

    def _objective(self, teacher: int) -> Objective:
        """Compiled teacher functions, prepared once for all tasks of the run."""
        task, network = self._task, self._task.teachers[teacher]

        def make() -> Objective:
            example = torch.zeros(2, 3, *task.size, device=task.device)
            taps = tuple(dict.fromkeys(tap for term in self._loss for tap in term.taps))
            observed = Observed(network.module, example, network.precision, taps)
            loss, *others = self._parts_of_objective()
            return Objective(observed, loss, network.normalisation, *others).to(task.device)

        return network.kept(("objective", *self._parts_of_objective()), make)

    def _function(self, teacher: int, count: int, size: Size, shown: Size, calls: float = 1.0) -> Function:
        """Return the pixel gradient of ``count`` images by a teacher, prepared once for all tasks of the run."""
        task, network = self._task, self._task.teachers[teacher]

        def compiled() -> Function:
            objective = self._objective(teacher)
            observed = objective.observed
            if shown != task.size:
                _check_fits(observed, shown, task)
            area = shown[0] * shown[1] / (task.size[0] * task.size[1])  # the work of convolutions is proportional to it
            num_calls = calls * task.num_alike
            images = area * count * num_calls
            amount = Amount(observed.operations * images, observed.num_values * images, observed.num_layers, num_calls)
            what = f"gradients of pixels{network.compiler.by}"
            return network.compiler(pixel_gradient, objective, amount, observed.narrow, what)

        return network.kept(("gradient", *self._parts_of_objective(), count, size, shown), compiled)


def images_of(task: Task, places: Int[Tensor, " part"]) -> Task:
    """Restrict the task to the images at these indices, in order; units without images are left out."""
    unit_of, sizes = task.unit_of[places], list[int]()
    left = unit_of.unique().tolist()
    for unit in left:
        sizes.append(int((unit_of == unit).sum()))

    def streams(*names: Any) -> tuple[torch.Generator, ...]:
        every = task.streams(*names)
        return tuple(every[unit] for unit in left)

    labels, slots = task.labels[places], task.slots[places.cpu()]
    return replace(task, labels=labels, slots=slots, unit_sizes=tuple(sizes), streams=streams)


def taking_part(task: Task, slots: int | None) -> Int[Tensor, " part"] | None:
    """Return the indices of a task's images in the first ``slots`` slots of their unit; None: all."""
    if slots is None:
        return None
    first = torch.cat([own.min().expand(len(own)) for own in task.slots.split(list(task.unit_sizes))])
    return (task.slots - first < slots).nonzero()[:, 0].to(task.device)


def shown_size(stretch: Stretch, full: Size) -> Size:
    """Return height and width in pixels of the views that teachers see.

    Sizes are rounded to whole pixels and to no other multiple, because convolutions and pooling accept any size. Raises
    AttarError when a size is too small.
    """
    size = (round(full[0] * stretch.side), round(full[1] * stretch.side))
    if size != full and min(size) < SMALLEST:
        raise AttarError(
            f"Views at {stretch.side:g} of {full[0]} x {full[1]} pixels are {size[0]} x {size[1]}, too small for a "
            f"teacher to see anything; raise --recover.view-sizes or --recover.block-sizes so that no side is below "
            f"{SMALLEST}."
        )
    return size


def _of_those(drawn: Records, task: Task, slots: int | None, shown: int) -> Records:
    """Return the records of the images that take part; records that images share stay as they are."""
    places = taking_part(task, slots)
    total = len(task.labels) * shown
    if places is None or total <= len(task.unit_sizes):
        return drawn
    index = (places.cpu()[:, None] * shown + torch.arange(shown)).flatten()
    return tuple(record[index] if len(record) == total else record for record in drawn)


def _records(drawn: Records, part: _Part, num_units: int, shown: int) -> Records:
    """Return a part's records on the device; records are shared, per unit or per image."""
    found = []
    for record in drawn:
        if part.units is not None and len(record) == num_units > 1:
            record = record[part.units.cpu()]
        elif part.images is not None and len(record) > num_units:
            record = record[(part.images.cpu()[:, None] * shown + torch.arange(shown)).flatten()]
        found.append(record.to(part.task.device))
    return tuple(found)


def _check_fits(observed: Observed, size: Size, task: Task) -> None:
    """Raise an error before the first iteration if the teacher does not accept the size."""
    try:
        with torch.no_grad():
            observed(torch.zeros(1, 3, *size, device=task.device))
    except Exception as error:  # each network raises its own kind of error
        if out_of_memory(error):
            raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AttarError(
            f"The teacher cannot be shown {size[0]} x {size[1]} pixels ({first}); use another --recover.view-sizes, "
            f"or 1.0 for the images' own {task.size[0]} x {task.size[1]}."
        ) from None
