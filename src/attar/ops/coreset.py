"""Coresets: real images chosen out of each class, by what a teacher sees in them or without looking."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.features import penultimate
from attar.ops.method import Coreset
from attar.ops.pixels import from_bytes
from attar.ops.task import RealImages, Task

_BATCH_PIXELS, _LARGEST_BATCH = 2**24, 1024
Choose = Callable[[Float[Tensor, "image feature"], int], list[int]]
"""Picks so many images by their features; the first of more are those of fewer."""


def coreset(task: Task, config: Coreset, choose: Choose) -> Float[Tensor, "image 3 height width"]:
    """The task's slots of what ``choose`` picks from each class, in [0, 1].

    Features are the penultimate ones of the first teacher, of whole images, in float32 whatever the network's precision
    is, for a choice cannot be rounded. A class is looked at once, whoever asks for its slots and in which order.
    Raises AttarError when a class has fewer images than are asked of it.
    """
    network = task.teachers[0]

    def places(label: int) -> list[int]:
        enough(_real(task), label, config.ipc)
        features = class_features(task, label)
        return choose(F.normalize(features, dim=1) if config.normalise_features else features, config.ipc)

    chosen = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        key = (choose, label, config.ipc, config.normalise_features)
        chosen.append(network.kept(key, lambda label=label: places(label))[slot])
    return gather(task, chosen)


def class_features(task: Task, label: int) -> Float[Tensor, "image feature"]:
    """Penultimate features of all images of a class, in their order, float64 on the device.

    Only one batch of images is held at a time; its size follows from theirs alone.
    """
    real, network, (height, width) = _real(task), task.teachers[0], task.size
    batch = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (height * width)))
    parts = []
    for start in range(0, real.count(label), batch):
        images = real.take(label, range(start, min(start + batch, real.count(label)))).to(task.device)
        found = penultimate(network.module, network.normalisation.apply(from_bytes(images)))
        if found.fallback:
            warnings.warn(f"images are compared by the teacher's logits, for {found.fallback}", stacklevel=2)
        parts.append(found.values.double())
    return torch.cat(parts)


def gather(task: Task, places: Sequence[int]) -> Float[Tensor, "image 3 height width"]:
    """Real images in [0, 1], on the device: of each of ``task.labels`` the one at this place of its class."""
    labels, by_class, images = task.labels.tolist(), {}, {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    for label, positions in by_class.items():
        taken = _real(task).take(label, [places[position] for position in positions])
        images |= dict(zip(positions, taken, strict=True))
    return from_bytes(torch.stack([images[position] for position in range(len(labels))]).to(task.device))


def enough(real: RealImages, label: int, ipc: int) -> None:
    """Raise AttarError unless the class has so many images."""
    refuse_fewer(real.class_name(label), real.count(label), ipc)


def refuse_fewer(name: str, count: int, ipc: int) -> None:
    """Raise AttarError when a class of this name has fewer than ``ipc`` images."""
    if ipc > count:
        raise AttarError(
            f"Class '{name}' has {count} training images but {ipc} are asked for; use --recover.ipc {count} or less."
        )


def _real(task: Task) -> RealImages:
    assert task.real is not None  # needs.real_images
    return task.real
