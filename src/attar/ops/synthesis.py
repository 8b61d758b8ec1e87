"""The loop shared by all methods that optimise pixels, and the parts it is composed of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attar.ops import curriculum, schedule, views
from attar.ops.batchnorm import StatisticsLoss
from attar.ops.task import MethodConfig, Task

DrawView = Callable[[int], views.View | None]
"""From the iteration to the view through which the teacher sees the images; None is the image as it is."""
Pixels = Float[Tensor, "image 3 height width"]


class Inversion(MethodConfig):
    """Optimise pixels until a teacher recognises them and its BatchNorm statistics are met (SRe2L and its line)."""

    iterations: int = pydantic.Field(default=4000, ge=1)
    """Optimisation steps of each unit."""
    learning_rate: float = pydantic.Field(default=0.25, gt=0)
    """Adam's step size at the start, in units of the normalised input; falls to 0 along half a cosine."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's two decay rates."""
    bn_weight: float = pydantic.Field(default=0.01, ge=0)
    """Weight of the BatchNorm statistics against the cross-entropy (r_bn)."""
    first_bn_multiplier: float = pydantic.Field(default=10.0, ge=0)
    """Extra weight of the first BatchNorm layer."""
    crop: Literal["resized", "none"] = "resized"
    """Look at the images through random resized crops, or always at the whole image."""
    min_crop: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a crop, as a fraction of the image."""
    flip: bool = True
    """Mirror half of the views left to right; off where a mirrored object is another one (digits)."""
    jitter: int = pydantic.Field(default=32, ge=0)
    """Largest circular shift of a view, in pixels, along each axis."""
    jitter_both_ways: bool = False
    """Shift by -jitter to jitter, not only 0 to jitter."""
    grey: bool = False
    """Optimise grey images, for grey data: one value a pixel, shown to the teacher in all three channels."""
    keep: Literal["last", "best"] = "last"
    """Keep the last iterate, as published, or the one of lowest loss."""


def optimise(task: Task, config: Inversion, start: Pixels, draw_view: DrawView) -> Pixels:
    """Minimise cross-entropy plus weighted BatchNorm distance over the pixels; returns them in [0, 1].

    ``start`` is in normalised units. Adam with a cosine to zero; after each step the pixels are clamped to what an
    image can show. Source: SRe2L (arXiv 2306.13092), section 3.2, and the published loop of CDA.
    """
    network = task.teachers[0]
    paint = network.normalisation.grey() if config.grey else network.normalisation
    pixels = (start[:, :1] if config.grey else start).to(task.device, copy=True).requires_grad_()
    low, high = (edge[:, : pixels.shape[1]] for edge in paint.bounds(pixels))
    optimiser = torch.optim.Adam([pixels], lr=config.learning_rate, betas=config.betas, eps=1e-8)
    best, lowest = pixels.detach().clone(), torch.full((), torch.inf, device=task.device)
    with StatisticsLoss(network.module, config.first_bn_multiplier) as statistics:
        for iteration in range(config.iterations):
            for group in optimiser.param_groups:
                group["lr"] = schedule.cosine(config.learning_rate, iteration, config.iterations)
            view = draw_view(iteration)
            whole = network.normalisation.apply(paint.undo(pixels)) if config.grey else pixels
            seen = whole if view is None else views.apply(whole, view)
            with task.autocast():
                logits = network.module(seen)
            cross_entropy = F.cross_entropy(logits.float(), task.labels)
            distance = statistics.distance()
            loss = cross_entropy + config.bn_weight * distance
            optimiser.zero_grad()
            loss.backward()
            with torch.no_grad():
                if config.keep == "best":  # before the step, for these pixels are the ones that have this loss
                    better = loss < lowest
                    best, lowest = torch.where(better, pixels, best), torch.where(better, loss, lowest)
                optimiser.step()
                pixels.clamp_(low, high)
            task.watch.step(
                iteration,
                lambda: paint.undo(pixels.detach()),
                loss=loss.detach(),
                cross_entropy=cross_entropy.detach(),
                bn_distance=distance.detach(),
                view_accuracy=(logits.detach().argmax(1) == task.labels).float().mean(),
            )
    final = best if config.keep == "best" else pixels.detach()
    return paint.undo(final).clamp(0, 1)


def noise(task: Task) -> Pixels:
    """Standard normal noise in normalised units, the start of SRe2L and CDA."""
    return torch.randn((len(task.labels), 3, *task.size), generator=task.stream("noise"))


def shared_crops(
    task: Task, config: Inversion, ramp: curriculum.Curriculum = "none", milestone: float = 0.0
) -> DrawView:
    """One random view an iteration for the whole batch, its crops at least as large as the curriculum says."""
    generator = task.stream("views")
    reach = (-config.jitter if config.jitter_both_ways else 0, config.jitter + 1)

    def draw(iteration: int) -> views.View:
        smallest = curriculum.lower_bound(iteration, config.iterations, ramp, milestone, config.min_crop)
        choice = views.ViewChoice(crop=config.crop, min_scale=smallest, flip=config.flip)
        view = choice.draw(1, *task.size, generator)
        return replace(view, shift=torch.randint(*reach, (1, 2), generator=generator))

    return draw
