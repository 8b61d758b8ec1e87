"""The loop shared by all methods that optimise pixels, and the parts it is composed of."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attar.core.compiling import Amount, out_of_memory
from attar.core.errors import AttarError
from attar.ops import schedule, views
from attar.synthesis import curriculum
from attar.synthesis.method import Inversion
from attar.synthesis.objective import Objective, Terms, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.task import Task

DrawView = Callable[[int], views.View | None]
"""From the iteration to the views through which the teacher sees the images: one for all, one for each unit or one for
each image; None is the image as it is."""
Pixels = Float[Tensor, "image 3 height width"]
SMALLEST = 8
"""Smallest side in pixels of a view that is shown smaller than the image; there is nothing to be seen on less."""


def optimise(task: Task, config: Inversion, start: Pixels, draw_view: DrawView) -> Pixels:
    """Minimise cross-entropy plus weighted BatchNorm distance over the pixels; returns them in [0, 1].

    ``start`` is in normalised units. Adam with a cosine to zero; after each step the pixels are clamped to what an
    image can show. Source: SRe2L (arXiv 2306.13092), section 3.2, and the published loop of CDA.
    Raises AttarError when the teacher cannot be shown one of ``view_sizes``.
    """
    network = task.teachers[0]
    paint = network.normalisation.grey() if config.grey else network.normalisation
    pixels = (start[:, :1] if config.grey else start).to(task.device, copy=True).requires_grad_()
    low, high = (edge[:, : pixels.shape[1]] for edge in paint.bounds(pixels))
    sizes = torch.tensor(task.unit_sizes, device=task.device)
    unit_of = torch.arange(len(sizes), device=task.device).repeat_interleave(sizes)
    average = F.one_hot(unit_of, len(sizes)).T / sizes[:, None]
    optimiser = torch.optim.Adam([pixels], lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=True)
    best, lowest = pixels.detach().clone(), torch.full((len(sizes),), torch.inf, device=task.device)
    shown = shown_sizes(config, task.size)
    gradients = {size: _gradient(task, config, size) for size in dict.fromkeys(shown)}
    for iteration, size in enumerate(shown):
        for group in optimiser.param_groups:
            group["lr"] = schedule.cosine(config.learning_rate, iteration, config.iterations)
        view = draw_view(iteration)
        if view is None and size != task.size:
            view = views.whole(*task.size)
        parts = (None, None, None) if view is None else view.scaled(task.size, size).to(task.device).parts()
        pixels.grad, terms = gradients[size](pixels, *parts, size, task.labels, average)
        with torch.no_grad():
            if config.keep == "best" and size == shown[-1]:  # before the step: it is these pixels that have this loss
                better = terms.loss < lowest
                best = torch.where(better[unit_of, None, None, None], pixels, best)
                lowest = torch.where(better, terms.loss, lowest)
            optimiser.step()
            pixels.clamp_(low, high)
        task.watch.step(iteration, lambda: paint.undo(pixels.detach()), **vars(terms))
    final = best if config.keep == "best" else pixels.detach()
    return paint.undo(final).clamp(0, 1)


def shown_sizes(config: Inversion, full: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width in pixels at which the teacher is shown the views, for each iteration, by ``view_sizes``.

    Rounded to whole pixels and to no multiple of anything, for convolutions and pooling take what they get. Raises
    AttarError when a size is too small to show anything.
    """
    blocks = [(round(full[0] * part), round(full[1] * part)) for part in config.view_sizes]
    for part, size in zip(config.view_sizes, blocks, strict=True):
        if size != full and min(size) < SMALLEST:
            raise AttarError(
                f"Views at {part:g} of {full[0]} x {full[1]} pixels are {size[0]} x {size[1]}, too small for a teacher "
                f"to see anything; raise --recover.view-sizes so that no side is below {SMALLEST}."
            )
    return [blocks[iteration * len(blocks) // config.iterations] for iteration in range(config.iterations)]


def _gradient(task: Task, config: Inversion, size: tuple[int, int]) -> Callable[..., tuple[Pixels, Terms]]:
    """The pixel gradient for views of this size, prepared once for all tasks of the run."""
    network = task.teachers[0]
    parts = (config.bn_weight, config.first_bn_multiplier, config.grey)

    def prepare() -> Objective:
        example = torch.zeros(2, 3, *task.size, device=task.device)
        observed = Observed(network.module, example, network.precision)
        paint = network.normalisation.grey() if config.grey else network.normalisation
        return Objective(
            observed, config.bn_weight, network.normalisation, paint, config.first_bn_multiplier
        ).to(task.device)

    def compile_for(count: int) -> Callable[..., tuple[Pixels, Terms]]:
        if size != task.size:
            _check_fits(objective.observed, size, task)
        area = size[0] * size[1] / (task.size[0] * task.size[1])  # to which the work of convolutions is proportional
        iterations = shown_sizes(config, task.size).count(size)
        observed, num_calls = objective.observed, iterations * task.num_alike
        images = area * count * num_calls
        amount = Amount(observed.operations * images, observed.num_values * images, observed.num_layers, num_calls)
        return network.compiler(pixel_gradient, objective, amount, observed.narrow)

    objective = network.kept(("objective", *parts), prepare)
    count = len(task.labels)
    return network.kept(("gradient", *parts, count, size), lambda: compile_for(count))


def _check_fits(observed: Observed, size: tuple[int, int], task: Task) -> None:
    """Refuse, before the first iteration, a size that the teacher does not take."""
    try:
        with torch.no_grad():
            observed(torch.zeros(1, 3, *size, device=task.device))
    except Exception as error:  # networks refuse in ways of their own
        if out_of_memory(error):
            raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AttarError(
            f"The teacher cannot be shown {size[0]} x {size[1]} pixels ({first}); use another --recover.view-sizes, "
            f"or 1.0 for the images' own {task.size[0]} x {task.size[1]}."
        ) from None


def noise(task: Task) -> Pixels:
    """Standard normal noise in normalised units, the start of SRe2L and CDA."""
    streams = zip(task.unit_sizes, task.streams("noise"), strict=True)
    return torch.cat([torch.randn((count, 3, *task.size), generator=stream) for count, stream in streams])


def shared_crops(
    task: Task, config: Inversion, ramp: curriculum.Curriculum = "none", milestone: float = 0.0
) -> DrawView:
    """One random view an iteration for each whole unit, its crops at least as large as the curriculum says."""
    streams = task.streams("views")
    reach = (-config.jitter if config.jitter_both_ways else 0, config.jitter + 1)

    def draw(iteration: int) -> views.View:
        smallest = curriculum.lower_bound(iteration, config.iterations, ramp, milestone, config.min_crop)
        choice = views.ViewChoice(crop=config.crop, min_scale=smallest, flip=config.flip)
        view = choice.draw(1, *task.size, *streams)
        return replace(view, shift=torch.cat([torch.randint(*reach, (1, 2), generator=each) for each in streams]))

    return draw
