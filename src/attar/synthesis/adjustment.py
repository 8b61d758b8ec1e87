"""Directed weight adjustment: teachers whose weights are changed a little for each unit (DWA, arXiv 2409.17612).

Units whose images are optimised through different weights differ more from each other. The teacher itself stays as it
is; one copy of it is changed in place from unit to unit, so that functions compiled for the copy serve all of them.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.synthesis.canvas import canvas_of
from attar.synthesis.gradients import shown_size
from attar.synthesis.optimise import shape_of
from attar.synthesis.starts import start_of
from attar.synthesis.task import Network, Task
from attar.synthesis.views import views_of

Named = dict[str, Tensor]
"""Weights of a network by name."""
_BATCH_PIXELS = 2**22


def adjusted(task: Task, config: Any) -> Task:
    """Return the task of one unit with teachers that are adjusted for it.

    ``config`` is composed of the groups Pixels, Crops, Starts and Adjusted. The steps are taken on the unit's start
    through the view of its first iteration. Source: DWA (arXiv 2409.17612), section 3.2.
    """
    assert len(task.unit_sizes) == 1  # needs
    if not config.adjust_steps:
        return task
    before = task.earlier() if config.adjust_onwards else ()
    seen = [(first_views(each, config), each.labels) for each in (*before, task)]
    return replace(task, teachers=tuple(_adjusted(teacher, seen, config) for teacher in task.teachers))


def first_views(task: Task, config: Any) -> Float[Tensor, "image 3 height width"]:
    """Return what the first iteration shows of the task's images, in [0, 1]."""
    canvas = canvas_of(config)
    begun = canvas.begin(start_of(task, config)).to(task.device)
    pixels = canvas.units(task.teachers[0].normalisation).undo(begun.expand(-1, 3, -1, -1))
    views, size = views_of(task, config), shown_size(config.cost(shape_of(task))[0], task.size)
    records = tuple(record.to(task.device) for record in views.draw(0, task.size, size))
    average = torch.full((1, len(pixels)), 1 / len(pixels), device=task.device)
    return views.show(pixels, records, size, average)


def _adjusted(teacher: Network, seen: list[tuple[Tensor, Tensor]], config: Any) -> Network:
    """Return the teacher's copy with weights adjusted for these images and labels, one group after the other."""
    weights: Named = dict(teacher.module.named_parameters())
    for images, labels in seen:
        shown = teacher.normalisation.apply(images)
        weights = ascended(teacher.module, weights, shown, labels, config.adjust_steps, config.adjust_length)
    changed = teacher.kept("adjusted", lambda: replace(teacher, module=copy.deepcopy(teacher.module), _kept={}))
    with torch.no_grad():
        for name, weight in changed.module.named_parameters():
            weight.copy_(weights[name])
    changed.weights_changed()
    return changed


def ascended(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    images: Float[Tensor, "image 3 height width"],
    labels: Int[Tensor, " image"],
    num_steps: int,
    length: float,
) -> Named:
    """Return weights after steps of equal length towards a higher mean cross-entropy of the images.

    The direction of a step is the gradient of all weights, divided by its Euclidean norm; the steps' lengths add up to
    ``length``. ``images`` are in the network's units. The network is in evaluation mode and stays as it is.
    """
    found: Named = {name: weight.detach() for name, weight in weights.items()}
    for _ in range(num_steps):
        slope = _slope(network, found, images, labels)
        norm = torch.stack([each.square().sum() for each in slope.values()]).sum().sqrt()
        scale = length / num_steps / (norm + 1e-12)
        found = {name: weight + scale * slope[name] for name, weight in found.items()}
    return found


def _slope(network: nn.Module, weights: Named, images: Tensor, labels: Tensor) -> Named:
    """Return the gradient of the mean cross-entropy; images are shown in parts, because memory is limited."""
    leaves = {name: weight.requires_grad_() for name, weight in weights.items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    most = max(1, _BATCH_PIXELS // (images.shape[-2] * images.shape[-1]))
    with torch.enable_grad():
        for part, classes in zip(images.split(most), labels.split(most), strict=True):
            logits = torch.func.functional_call(network, leaves, (part,)).float()
            loss = F.cross_entropy(logits, classes, reduction="sum") / len(images)
            slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for name, slope in zip(leaves, slopes, strict=True):
                if slope is not None:
                    total[name] += slope
    for weight in weights.values():
        weight.requires_grad_(False)
    return total
