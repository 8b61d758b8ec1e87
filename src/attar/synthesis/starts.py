"""Starts: the pixels before the first iteration. Some methods stop here and use real images as they are.

``preparations`` chooses patches once per run and class: it scores crops from a pool of real images with a teacher and
ranks them. Images take patches in that order, so a run with more images per class starts with the patches of a run with
fewer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.pixels import from_bytes
from attar.synthesis import difficulty
from attar.synthesis.choices import Crops, Patches, Starts
from attar.synthesis.coreset import gather
from attar.synthesis.method import Preparation
from attar.synthesis.stretches import resized
from attar.synthesis.task import Context, Network, Task

Start = Float[Tensor, "image 3 height width"]
Box = tuple[int, int, int, int]
STEP = "patches"
"""Name of the preparation. Its tables: patches.place, (class, rank), the index of an image in its class, -1 after the
last; patches.box, (class, rank, 4), the crop as top, left, height, width."""
SMALLEST_CROP = 0.08
"""Smallest area of a scored crop, as a fraction of the image."""
_BATCH_PIXELS, _LARGEST_BATCH = 2**22, 256


def start_of(task: Task, config: Starts) -> Start:
    """Return the configured start, in the first teacher's normalised units."""
    if config.start == "noise":
        return noise(task)
    if config.start in ("easiest", "hardest"):
        images = difficulty.chosen(task, config.start, config.ipc)
    else:
        images = real(task) if config.start == "real" else patches(task, config)
    if config.start_flip and (not isinstance(config, Crops) or config.flip):
        images = torch.where(mirrored(task)[:, None, None, None], images.flip(-1), images)
    return task.teachers[0].normalisation.apply(images)


def noise(task: Task) -> Start:
    """Return standard normal noise in normalised units, the start of SRe2L and CDA."""
    streams = zip(task.unit_sizes, task.streams("noise"), strict=True)
    return torch.cat([torch.randn((count, 3, *task.size), generator=stream) for count, stream in streams])


def mirrored(task: Task) -> Bool[Tensor, " image"]:
    """Draw for each slot whether its start is mirrored; another division into units draws the same."""
    assert task.real is not None  # needs
    names = [
        (task.real.class_name(label), slot)
        for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True)
    ]
    drawn = [torch.rand((), generator=task.shared_stream("mirrored", name, slot)) for name, slot in names]
    return (torch.stack(drawn) < 0.5).to(task.device)


def real(task: Task) -> Start:
    """Draw a random real image of the class for each slot, without repeats while unused images remain; in [0, 1]."""
    assert task.real is not None  # needs
    places = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        count = task.real.count(label)
        order = torch.randperm(count, generator=task.shared_stream("start", task.real.class_name(label)))
        places.append(int(order[slot % count]))
    return gather(task, places)


def patches(task: Task, config: Patches) -> Start:
    """Return the patches of each slot, tiled into an image of the task's size; in [0, 1], on the device.

    Raises AttarError when a class has too few patches, or the tiles do not fill the image.
    """
    assert task.real is not None  # needs
    places, boxes = task.table(f"{STEP}.place"), task.table(f"{STEP}.box")
    num_tiles, size = config.tiles**2, tile_size(task.size, config.tiles)
    images = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        ranks = ranks_of(slot, config)
        available = int((places[label] >= 0).sum())
        if max(ranks) >= available:
            raise AttarError(
                f"Class '{task.real.class_name(label)}' has {available} patches, one of each real image in the pool, "
                f"and {config.ipc * num_tiles} are needed; lower --recover.ipc, or raise --recover.patch-pool if the "
                f"class has more images."
            )
        whole = from_bytes(task.real.take(label, [int(places[label, rank]) for rank in ranks]).to(task.device))
        parts = [cut(whole[number], boxes[label, rank].tolist(), size) for number, rank in enumerate(ranks)]
        rows = torch.stack(parts).unflatten(0, (config.tiles, config.tiles))
        images.append(rows.permute(2, 0, 3, 1, 4).reshape(3, *task.size))
    return torch.stack(images)


def ranks_of(slot: int, config: Patches) -> range:
    """Return the ranks of the patches of a slot's image, in the order of its tiles."""
    num_tiles = config.tiles**2
    if config.tile_ranks == "spread":
        return range(slot, num_tiles * config.ipc, config.ipc)
    return range(slot * num_tiles, (slot + 1) * num_tiles)


def preparations(config: Patches) -> tuple[Preparation, ...]:
    """Return the step that scores and ranks patches, if the method uses patches."""
    if not config.uses_patches():
        return ()
    return (
        Preparation(
            STEP,
            ranked,
            reads=("patch_rule", "patch_pool", "patch_crops", "tiles"),
            per_teacher=False,
            num_shown=lambda config, count: min(count, config.patch_pool) * max(1, config.patch_crops),
        ),
    )


@torch.no_grad()
def ranked(context: Context, config: Any) -> dict[str, Tensor]:
    """For each class, rank the pool's images and return a crop of each; the tables are described at ``STEP``.

    Every image of the pool keeps its crop with the lowest cross-entropy. 'lowest' ranks these crops from the lowest
    cross-entropy upwards (RDED, arXiv 2312.03526, section 4.2), 'highest' from the highest downwards. 'medium' ranks
    them by distance from the median rank of the true class's probability (DELT, arXiv 2411.19946).
    """
    places = torch.full((len(context.rows), config.patch_pool), -1)
    boxes = torch.zeros(len(context.rows), config.patch_pool, 4, dtype=torch.int64)
    for row, label in enumerate(context.rows):
        count, name = context.real.count(label), context.real.class_name(label)
        pool = torch.randperm(count, generator=context.stream("pool", name))[: config.patch_pool]
        drawn = crops(context.size, len(pool), config.patch_crops, context.stream("crops", name))
        entropy = _cross_entropy(context, label, pool, drawn, tile_size(context.size, config.tiles))
        lowest, best = entropy.min(1)
        order = lowest.argsort(descending=config.patch_rule == "highest", stable=True)
        if config.patch_rule == "medium":  # cross-entropy ranks images as probability does, in reverse
            rank = torch.arange(len(order))
            order = order[(rank - (len(order) - 1) / 2).abs().argsort(stable=True)]
        places[row, : len(pool)] = pool[order]
        boxes[row, : len(pool)] = drawn[torch.arange(len(pool)), best][order]
        context.advance(1)
    return {"place": places, "box": boxes}


def crops(size: tuple[int, int], count: int, each: int, stream: torch.Generator) -> Int[Tensor, "image crop 4"]:
    """Draw random square crops of ``count`` images, with area uniform from SMALLEST_CROP to 1; whole images if 0
    crops."""
    height, width = size
    if not each:
        return torch.tensor([0, 0, height, width]).expand(count, 1, 4).clone()
    draws = torch.rand(count, each, 3, generator=stream, dtype=torch.float64)
    area = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[..., 0]
    side = ((area * height * width).sqrt().round()).clamp(1, min(height, width))
    top, left = (draws[..., 1] * (height - side + 1)).floor(), (draws[..., 2] * (width - side + 1)).floor()
    return torch.stack([top, left, side, side], dim=-1).to(torch.int64)


def cut(image: Float[Tensor, "3 height width"], box: list[int], size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Crop an image and resize it."""
    top, left, height, width = box
    return resized(image[None, :, top : top + height, left : left + width], size)[0]


def tile_size(size: tuple[int, int], tiles: int) -> tuple[int, int]:
    """Return height and width of each of ``tiles`` x ``tiles`` patches; raises AttarError if they do not fill the
    image."""
    if size[0] % tiles or size[1] % tiles:
        raise AttarError(
            f"{tiles} x {tiles} patches do not fill an image of {size[0]} x {size[1]} pixels; use --recover.tiles 1."
        )
    return size[0] // tiles, size[1] // tiles


def _cross_entropy(
    context: Context, label: int, pool: Tensor, drawn: Tensor, size: tuple[int, int]
) -> Float[Tensor, "image crop"]:
    """Return the cross-entropy of each crop with its class, on the CPU; a small patch is placed in the image's
    middle."""
    batch, found = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (context.size[0] * context.size[1]))), []
    border = [context.size[1] - size[1], context.size[0] - size[0]]
    padding = [border[0] // 2, border[0] - border[0] // 2, border[1] // 2, border[1] - border[1] // 2]
    for part, boxes in zip(pool.split(batch), drawn.split(batch), strict=True):
        whole = from_bytes(context.real.take(label, part.tolist()).to(context.device))
        for place in range(boxes.shape[1]):
            seen = torch.stack(
                [cut(image, box, size) for image, box in zip(whole, boxes[:, place].tolist(), strict=True)]
            )
            logits = _logits(context.teacher, F.pad(context.teacher.normalisation.apply(seen), padding))
            classes = torch.full((len(seen),), label, device=context.device)
            found.append(F.cross_entropy(logits, classes, reduction="none").cpu())
    rows = iter(found)
    return torch.cat([torch.stack([next(rows) for _ in range(drawn.shape[1])], 1) for _ in pool.split(batch)])


def _logits(network: Network, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
    """Return logits in float32 for any network precision, because a choice must not depend on rounding."""
    return network.module(images).float()
