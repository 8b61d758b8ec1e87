"""DELT as published (Shen et al., 2024, arXiv 2411.19946): CIFAR-10, Tiny-ImageNet and ImageNet-1K.

The released scripts are for ImageNet-1K; the other datasets have the same settings here. Units of a hundred images hold
all images of a few classes. With one image per class there is one round. The paper reports the best of several
evaluations on the test images.
"""

from attar.methods.delt import Config
from attar.recipes import settings
from attar.recipes.published import row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import PAPER_STORAGE, entry
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOLS

_OWN = "arXiv 2411.19946"
_SETTINGS = {
    "cifar10": settings.CIFAR10,
    "tiny-imagenet": settings.TINY_IMAGENET,
    "imagenet-1k": settings.IMAGENET_1K,
}
_COSTS = {
    "cifar10": "5 min (0.083 h) on an RTX 4090 at 50 images per class, measured by the authors",
    "tiny-imagenet": "3.4 h on an RTX 4090 at 50 images per class, measured by the authors",
    "imagenet-1k": "17.6 h on an RTX 4090 at 50 images per class, measured by the authors",
}


def _config(dataset: str, ipc: int) -> Config:
    classes = min(10 if dataset == "cifar10" else 100, max(1, 100 // ipc))
    pool = {"cifar10": 5000, "tiny-imagenet": 500, "imagenet-1k": 1300}[dataset]
    return Config(
        unit_classes=classes, unit_slots=min(ipc, 100), iterations=4000, rounds=8, round_iterations=500, patch_pool=pool,
        **PAPER_STORAGE,
    )  # fmt: skip


def _protocol(dataset: str, ipc: int) -> Protocol:
    """Return the protocol with the published batch size: by images per class, and doubled on ImageNet-1K."""
    chosen = PROTOCOLS["delt"]
    batch = {1: 10, 10: 50, 50: 100, 100: 100}[ipc] * (2 if dataset == "imagenet-1k" else 1)
    batch = 100 if dataset == "tiny-imagenet" else batch
    return chosen.changed(training=chosen.training.changed(batch_size=batch))


def _row(dataset: str, ipc: int, *top1: float, shown: float | None = None) -> BuiltInRecipe:
    config, protocol = _config(dataset, ipc), _protocol(dataset, ipc)
    published = row(_OWN, *top1, students=("resnet18", "resnet101"))
    if shown is not None:
        published += row(f"{_OWN}, table shown in its repository", shown, said="in the repository")
    return entry("delt", dataset, ipc, _SETTINGS[dataset], config, protocol, published, _COSTS[dataset])


RECIPES = {
    "delt/cifar10-ipc1": _row("cifar10", 1, 24.0, 20.4),
    "delt/cifar10-ipc10": _row("cifar10", 10, 43.0, 37.4),
    "delt/cifar10-ipc50": _row("cifar10", 50, 64.9, 54.1),
    "delt/tiny-imagenet-ipc1": _row("tiny-imagenet", 1, 9.3, 5.6),
    "delt/tiny-imagenet-ipc10": _row("tiny-imagenet", 10, 43.0, 42.8),
    "delt/tiny-imagenet-ipc50": _row("tiny-imagenet", 50, 55.7, 58.5),
    "delt/imagenet-1k-ipc10": _row("imagenet-1k", 10, 46.1, 48.5, shown=45.8),
    "delt/imagenet-1k-ipc50": _row("imagenet-1k", 50, 59.2, 66.1),
    "delt/imagenet-1k-ipc100": _row("imagenet-1k", 100, 62.4, 67.6),
}
