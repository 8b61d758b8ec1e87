"""Difficulty groups: rank the real images of a class by difficulty, and cut the class into one group for each slot.

An image is difficult when the inputs of a teacher's BatchNorm layers, measured on this image alone, are far from the
teacher's running statistics. Slot 0 gets the easiest group of every class, the last slot the hardest. A method can
start from an image of the slot's group, and match the statistics of the group. Source: PSM (arXiv 2609.34299).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.ops.pixels import from_bytes
from attar.synthesis.choices import Statistics
from attar.synthesis.coreset import gather
from attar.synthesis.method import Preparation
from attar.synthesis.observed import BATCHNORM, Observed
from attar.synthesis.taps import Layout, Moments, Tap, taps_of, tracked_layers
from attar.synthesis.task import Context, Network, Task

SCORE, ORDER, GROUPS = "difficulty", "order", "groups"
"""Names of the preparations. Tables: difficulty.score, (class, image), -1 after the last image; order.image, (class,
rank), the class's images from easy to hard, -1 after the last; groups.KIND.mean and groups.KIND.variance, (slot,
channel)."""
_SMALLEST_VARIANCE = 1e-5
_BATCH_PIXELS, _LARGEST_BATCH = 2**22, 256
Which = Literal["easiest", "hardest"]


def preparations(config: Any) -> tuple[Preparation, ...]:
    """Return the steps that rank images and measure groups, if the start or the target needs them."""
    if not config.uses_groups():
        return ()
    ranking = (
        Preparation(SCORE, scored),
        Preparation(ORDER, ordered, reads=(SCORE,), per_teacher=False, num_shown=lambda config, count: 0),
    )
    if not isinstance(config, Statistics) or config.target != "group":
        return ranking
    return (
        *ranking,
        Preparation(
            GROUPS,
            measured,
            reads=(ORDER, "ipc", "observe", "patch_side", "group_passes", "group_batch"),
            rows="slot",
            rows_per_job=1,
            num_shown=lambda config, count: count * max(1, config.group_passes),
        ),
    )


@torch.no_grad()
def scored(context: Context, config: Any) -> dict[str, Tensor]:
    """Return the difficulty of each image of each class for one teacher.

    It is the mean over BatchNorm layers of (|mean - running mean|_2 + |log variance - log running variance|_2) divided
    by the square root of the number of channels; mean and variance are those of the layer's input for this image.
    """
    observed = _observer(context, (BATCHNORM,))
    layout, widest = observed.layouts[BATCHNORM], max(map(context.real.count, range(context.real.num_classes)))
    scores = torch.full((len(context.rows), widest), -1.0)
    for row, label in enumerate(context.rows):
        found = [
            distance(observed(images)[1][BATCHNORM], layout).cpu()
            for images in _batches(context, label, range(context.real.count(label)))
        ]
        if found:
            scores[row, : context.real.count(label)] = torch.cat(found)
        context.advance(1)
    return {"score": scores}


def distance(moments: Moments, layout: Layout) -> Float[Tensor, " image"]:
    """Return each image's distance from the running statistics; ``moments`` are about the running means."""
    assert layout.running is not None  # BatchNorm
    away = moments.first
    variance = (moments.second - away.square()).clamp_min(_SMALLEST_VARIANCE)
    ratio = variance.log() - layout.running[1].clamp_min(_SMALLEST_VARIANCE).log()
    layer_of = layout.layer_of()
    norms = (away.square() @ layer_of).sqrt() + (ratio.square() @ layer_of).sqrt()
    return (norms / layer_of.sum(0).sqrt()).mean(1)


def ordered(context: Context, config: Any) -> dict[str, Tensor]:
    """Return each class's images from easy to hard: by rank in the class, averaged over the teachers."""
    scores = torch.stack([context.table(f"{SCORE}.score", teacher) for teacher in range(context.num_teachers)])
    order = torch.full((len(context.rows), scores.shape[2]), -1)
    for row, label in enumerate(context.rows):
        own = scores[:, label, : context.real.count(label)]
        ranks = own.argsort(dim=1, stable=True).argsort(dim=1).double().mean(0)
        order[row, : len(ranks)] = ranks.argsort(stable=True)
    return {"image": order}


def group(order: Int[Tensor, " rank"], slot: int, ipc: int) -> list[int]:
    """Return the images of a slot's group, from easy to hard: one of ``ipc`` equal parts of the class, at least one."""
    images = order[order >= 0].tolist()
    start = min(slot * len(images) // ipc, len(images) - 1)
    return images[start : max(start + 1, (slot + 1) * len(images) // ipc)]


def chosen(task: Task, which: Which, ipc: int) -> Float[Tensor, "image 3 height width"]:
    """Return the easiest or the hardest real image of each image's class and group, in [0, 1], on the device."""
    order, last = task.table(f"{ORDER}.image"), -1 if which == "hardest" else 0
    slots = zip(task.labels.tolist(), task.slots.tolist(), strict=True)
    return gather(task, [group(order[label], slot, ipc)[last] for label, slot in slots])


@torch.no_grad()
def measured(context: Context, config: Any) -> dict[str, Tensor]:
    """Return the statistics of each slot's group, over all classes.

    Without ``group_passes`` they are exact, with the teacher in evaluation mode. Otherwise they are the moving averages
    of the BatchNorm layers in training mode after so many passes through the group, in batches of ``group_batch``
    random images; other kinds of layers are measured with the BatchNorm layers of that network.
    """
    taps, order = taps_of(config, context.teacher.module), context.table(f"{ORDER}.image")
    found: dict[str, list[Tensor]] = {}
    for slot in context.rows:
        images = {label: group(order[label], slot, config.ipc) for label in range(context.real.num_classes)}
        network = context.teacher.module
        if config.group_passes:
            network = _adapted(context, network, images, config, slot)
        observed = _observer(context, taps, network)
        for tap, (mean, variance) in _moments(context, observed, images, taps).items():
            layout = observed.layouts[tap]
            if config.group_passes and layout.running is not None:
                mean, variance = layout.running
            found.setdefault(f"{tap.kind}.mean", []).append(mean)
            found.setdefault(f"{tap.kind}.variance", []).append(variance)
        context.advance(1)
    return {name: torch.stack(rows).float().cpu() for name, rows in found.items()}


def of_groups(
    task: Task, teacher: int, tap: Tap
) -> tuple[Float[Tensor, "unit channel"], Float[Tensor, "unit channel"]]:
    """Return mean and variance of the groups of each unit's slots together, on the CPU."""
    means, variances = (task.table(f"{GROUPS}.{tap.kind}.{key}", teacher).double() for key in ("mean", "variance"))
    units = task.slots.split(list(task.unit_sizes))
    mean = torch.stack([means[slots].mean(0) for slots in units])
    square = torch.stack([(variances[slots] + means[slots].square()).mean(0) for slots in units])
    return mean, square - mean.square()


def _moments(
    context: Context, observed: Observed, images: dict[int, list[int]], taps: Sequence[Tap]
) -> dict[Tap, tuple[Tensor, Tensor]]:
    """Return mean and variance of each tap over these images of each class."""
    sums: dict[Tap, Tensor] = {}
    for label, places in images.items():
        for batch in _batches(context, label, places):
            for tap, (first, second) in observed(batch)[1].items():
                part = torch.stack([first.double().sum(0), second.double().sum(0)])
                sums[tap] = sums[tap] + part if tap in sums else part
    count = sum(map(len, images.values()))
    found = {}
    for tap in taps:
        mean, square = sums[tap] / count
        found[tap] = (mean + observed.layouts[tap].centre, square - mean.square())
    return found


def _adapted(context: Context, network: nn.Module, images: dict[int, list[int]], config: Any, slot: int) -> nn.Module:
    """Return a copy whose BatchNorm layers have followed passes through these images in training mode."""
    adapted = copy.deepcopy(network).eval()
    for layer in tracked_layers(adapted):
        layer.train()
    every = [(label, place) for label, places in images.items() for place in places]
    for number in range(config.group_passes):
        order = torch.randperm(len(every), generator=context.stream("group", slot, number)).tolist()
        for start in range(0, len(order), config.group_batch):
            batch = sorted(every[place] for place in order[start : start + config.group_batch])
            if len(batch) == 1:
                continue  # one image may have one value for each channel, and no variance
            by_class: dict[int, list[int]] = {}
            for label, place in batch:
                by_class.setdefault(label, []).append(place)
            taken = torch.cat([context.real.take(label, places) for label, places in by_class.items()])
            adapted(context.teacher.normalisation.apply(from_bytes(taken.to(context.device))))
    return adapted.eval()


def _observer(context: Context, taps: Sequence[Tap], network: nn.Module | None = None) -> Observed:
    """Return the network, by default the teacher, observed in float32: a ranking must not depend on rounding."""
    example = torch.zeros(2, 3, *context.size, device=context.device)

    def observed() -> Observed:
        return Observed(network or context.teacher.module, example, "fp32", taps)

    teacher: Network = context.teacher
    same = network is None or network is teacher.module
    return teacher.kept((GROUPS, tuple(taps)), observed) if same else observed()


def _batches(context: Context, label: int, places: Sequence[int]) -> Iterator[Float[Tensor, "image 3 height width"]]:
    """Yield these images of a class in batches, in the teacher's units."""
    size = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (context.size[0] * context.size[1])))
    for start in range(0, len(places), size):
        images = context.real.take(label, list(places[start : start + size])).to(context.device)
        yield context.teacher.normalisation.apply(from_bytes(images))
