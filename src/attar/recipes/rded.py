"""RDED as published (Sun et al., 2024, arXiv 2312.03526): CIFAR, Tiny-ImageNet and ImageNet-1K.

The published scripts use ImageNet's normalisation for every dataset, and report the best of several epochs.
"""

from attar.methods.rded import Config
from attar.recipes import settings
from attar.recipes.published import RESNETS, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import PAPER_STORAGE, entry
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOLS

_OWN, _CVDD = (f"arXiv {paper}, table shown in its repository" for paper in ("2312.03526", "2501.07575"))
WHOLE = Config(patch_pool=300, patch_crops=5, **PAPER_STORAGE)
TILED = WHOLE.changed(tiles=2, tile_ranks="spread")
_SETTINGS = {
    "cifar10": settings.CIFAR10,
    "cifar100": settings.CIFAR100,
    "tiny-imagenet": settings.TINY_IMAGENET,
    "imagenet-1k": settings.IMAGENET_1K,
}


def _protocol(dataset: str, ipc: int) -> Protocol:
    """Return the protocol with the published batch size.

    It depends on images per class, is doubled for at least 100 classes, and is 100 on Tiny-ImageNet.
    """
    chosen = PROTOCOLS["rded"]
    batch = {1: 10, 10: 50, 50: 100}[ipc] * (1 if dataset == "cifar10" else 2)
    batch = 100 if dataset == "tiny-imagenet" else batch
    return chosen.changed(training=chosen.training.changed(batch_size=batch))


def _row(dataset: str, ipc: int, top1: float, *quoted: float) -> BuiltInRecipe:
    config = TILED if dataset == "imagenet-1k" else WHOLE
    cost = "7 min at 10 images per class of ImageNet-1K on an RTX 4090, measured by the authors"
    protocol = _protocol(dataset, ipc)
    published = row(_OWN, top1) + row(_CVDD, *quoted, students=RESNETS[1:], said="as CV-DD quotes RDED")
    labels = {} if dataset == "imagenet-1k" else {"views": {"min_scale": 1.0, "patch_shuffle": 1}}
    return entry("rded", dataset, ipc, _SETTINGS[dataset], config, protocol, published, cost, labels=labels)


RECIPES = {
    "rded/cifar10-ipc1": _row("cifar10", 1, 22.9, 10.2, 18.7),
    "rded/cifar10-ipc10": _row("cifar10", 10, 37.1, 33.1, 33.7),
    "rded/cifar10-ipc50": _row("cifar10", 50, 62.1, 54.2, 51.6),
    "rded/cifar100-ipc1": _row("cifar100", 1, 11.0, 10.9, 10.8),
    "rded/cifar100-ipc10": _row("cifar100", 10, 42.6, 41.6, 41.1),
    "rded/cifar100-ipc50": _row("cifar100", 50, 62.6, 64.0, 63.4),
    "rded/tiny-imagenet-ipc1": _row("tiny-imagenet", 1, 9.7, 8.2, 3.8),
    "rded/tiny-imagenet-ipc10": _row("tiny-imagenet", 10, 41.9, 38.4, 22.9),
    "rded/tiny-imagenet-ipc50": _row("tiny-imagenet", 50, 58.2, 45.6, 41.2),
    "rded/imagenet-1k-ipc1": _row("imagenet-1k", 1, 6.6, 8.0, 5.9),
    "rded/imagenet-1k-ipc10": _row("imagenet-1k", 10, 42.0, 49.7, 48.3),
    "rded/imagenet-1k-ipc50": _row("imagenet-1k", 50, 56.5, 62.0, 61.2),
}
