"""Coresets: real images chosen from each class, by a teacher's features or without a teacher."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.features import Extractor
from attar.ops.pixels import from_bytes
from attar.synthesis.coreset_choices import Coreset
from attar.synthesis.task import RealImages, Task

_BATCH_PIXELS, _LARGEST_BATCH = 2**24, 1024
_CLASSES_TOGETHER = 10
"""Largest number of small classes in a batch: the number that a baseline's unit has, which one process makes."""
Choose = Callable[[Float[Tensor, "image feature"], int], list[int]]
"""Picks a number of images by their features; a smaller pick is a prefix of a larger one."""


def coreset(task: Task, config: Coreset, choose: Choose) -> Float[Tensor, "image 3 height width"]:
    """Return the images of the task's slots that ``choose`` picks from each class, in [0, 1].

    Features are the first teacher's penultimate features of whole images, in float32 for any network precision, because
    a choice must not depend on rounding. Features of a class are computed the same way for any slots and any order of
    requests. Raises AttarError when a class has too few images.
    """
    network, labels = task.teachers[0], task.labels.tolist()
    chosen = network.kept((choose, config.ipc, config.normalise_features), dict[int, list[int]])
    for label in dict.fromkeys(labels):
        enough(_real(task), label, config.ipc)
    for label in dict.fromkeys(labels):
        if label not in chosen:
            for each, features in class_features(task, label).items():
                compared = F.normalize(features, dim=1) if config.normalise_features else features
                chosen[each] = choose(compared, config.ipc) if config.ipc <= len(features) else []
    return gather(task, [chosen[label][slot] for label, slot in zip(labels, task.slots.tolist(), strict=True)])


def class_features(task: Task, label: int) -> dict[int, Float[Tensor, "image feature"]]:
    """Return the penultimate features of all images of a class, in order, float64 on the device.

    Small classes share a batch, and the features of all classes in it are returned. Batches depend only on the classes'
    numbers of images, not on the task. Only one batch of images is in memory at a time; its size depends on the image
    size.
    """
    real, network, (height, width) = _real(task), task.teachers[0], task.size
    batch = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (height * width)))
    together = _beside(real, label, batch)
    wanted = [(each, index) for each in together for index in range(real.count(each))]
    extract = network.kept(Extractor, lambda: Extractor(network.module))
    parts = []
    for start in range(0, len(wanted), batch):
        images = _images(real, wanted[start : start + batch]).to(task.device)
        found = extract(network.normalisation.apply(from_bytes(images)))
        if found.fallback:
            warnings.warn(f"images are compared by the teacher's logits, for {found.fallback}", stacklevel=2)
        parts.append(found.values.double())
    features = torch.cat(parts).split([real.count(each) for each in together])
    return dict(zip(together, features, strict=True))


def _beside(real: RealImages, label: int, batch: int) -> list[int]:
    """Return the classes that share a batch with this one: neighbours in its block of ten that fit into one batch."""
    start = label - label % _CLASSES_TOGETHER
    together, total = [], 0
    for each in range(start, min(start + _CLASSES_TOGETHER, real.num_classes)):
        if total + real.count(each) > batch and together:
            if label in together:
                break
            together, total = [], 0
        together.append(each)
        total += real.count(each)
    return together


def _images(real: RealImages, wanted: Sequence[tuple[int, int]]) -> UInt8[Tensor, "image 3 height width"]:
    """Load images by class and index in the class; images of one class are consecutive."""
    by_class: dict[int, list[int]] = {}
    for label, index in wanted:
        by_class.setdefault(label, []).append(index)
    return torch.cat([real.take(label, indices) for label, indices in by_class.items()])


def gather(task: Task, places: Sequence[int]) -> Float[Tensor, "image 3 height width"]:
    """Return real images in [0, 1], on the device: for each label, the image at this index of its class."""
    labels, by_class, images = task.labels.tolist(), {}, {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    for label, positions in by_class.items():
        taken = _real(task).take(label, [places[position] for position in positions])
        images |= dict(zip(positions, taken, strict=True))
    return from_bytes(torch.stack([images[position] for position in range(len(labels))]).to(task.device))


def enough(real: RealImages, label: int, ipc: int) -> None:
    """Raise AttarError when the class has fewer than ``ipc`` images."""
    refuse_fewer(real.class_name(label), real.count(label), ipc)


def refuse_fewer(name: str, count: int, ipc: int, each: int = 1) -> None:
    """Raise AttarError when the class ``name`` has too few real images for ``ipc`` images that take ``each`` apiece."""
    if ipc * each <= count:
        return
    if count < each:
        fix = "add images to the class, or use another method"
    else:
        fix = f"use --recover.ipc {count // each} or less"
    apiece = f" ({each} for each image)" if each > 1 else ""
    raise AttarError(f"Class '{name}' has {count} training images but {ipc * each} are needed{apiece}; {fix}.")


def _real(task: Task) -> RealImages:
    assert task.real is not None  # needs
    return task.real
