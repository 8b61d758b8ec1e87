"""DWA as published (Du et al., 2024, arXiv 2409.17612): CIFAR, Tiny-ImageNet and ImageNet-1K.

There is no script for CIFAR-10; its settings are those of CIFAR-100. The script for Tiny-ImageNet does not run as
released (it knows no normalisation of that dataset); its settings are on its command line.
"""

from dataclasses import replace

from attar.methods.dwa import Config
from attar.recipes import settings
from attar.recipes.published import Published, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import PAPER_STORAGE, entry, with_training

# The CIFAR script neither crops nor flips.
CIFAR = Config(
    learning_rate=0.25, bn_weight=0.01, iterations=1000, jitter=4, crop="none", flip=False, start="real",
    adjust_steps=12, adjust_length=0.015, variance_weight=11.0, **PAPER_STORAGE,
)  # fmt: skip
TINY = Config(
    learning_rate=0.1, bn_weight=0.01, iterations=2000, jitter=4, start="real", unit_classes=200,
    adjust_steps=12, adjust_length=0.015, variance_weight=11.0, **PAPER_STORAGE,
)  # fmt: skip
# Ten batches of 100 classes: the script never takes a batch's adjustment back, so it adds up over them.
IMAGENET_1K = Config(
    learning_rate=0.25, bn_weight=0.01, iterations=2000, jitter=32, start="real",
    adjust_steps=15, adjust_length=0.015, adjust_onwards=True, variance_weight=2.0, **PAPER_STORAGE,
)  # fmt: skip

_OF_CIFAR100 = settings.CIFAR100.data.changed(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
_OWN = "arXiv 2409.17612, table shown in its repository"
_SMALL = ("resnet18", "a ConvNet")  # which ConvNet it is, was not at hand
_ROWS = {
    "cifar10": (settings.CIFAR10, CIFAR, "cifar"),
    "cifar100": (replace(settings.CIFAR100, data=_OF_CIFAR100), CIFAR, "cifar"),
    "tiny-imagenet": (with_training(settings.TINY_IMAGENET, epochs=100), TINY, "dwa-tiny"),
    "imagenet-1k": (settings.IMAGENET_1K, IMAGENET_1K, "cda"),
}


def _entry(dataset: str, ipc: int, published: Published, cost: str = "not published") -> BuiltInRecipe:
    setting, config, protocol = _ROWS[dataset]
    return entry("dwa", dataset, ipc, setting, config, protocol, published, cost)


RECIPES = {
    "dwa/cifar10-ipc10": _entry("cifar10", 10, row(_OWN, 32.6, 45.0, students=_SMALL)),
    "dwa/cifar10-ipc50": _entry("cifar10", 50, row(_OWN, 53.1, 63.3, students=_SMALL)),
    "dwa/cifar100-ipc10": _entry("cifar100", 10, row(_OWN, 39.6, 47.6, students=_SMALL)),
    "dwa/cifar100-ipc50": _entry("cifar100", 50, row(_OWN, 60.9, 59.0, students=_SMALL)),
    "dwa/tiny-imagenet-ipc50": _entry("tiny-imagenet", 50, row(_OWN, 52.8, 53.7, 54.7)),
    "dwa/tiny-imagenet-ipc100": _entry("tiny-imagenet", 100, row(_OWN, 56.0, 56.9, 57.4)),
    "dwa/imagenet-1k-ipc10": _entry(
        "imagenet-1k", 10, row(_OWN, 37.9, 43.0, 46.9), "30 GPU hours, read from a figure of E2D"
    ),
    "dwa/imagenet-1k-ipc50": _entry(
        "imagenet-1k", 50, row(_OWN, 55.2, 62.3, 63.3), "112 GPU hours, read from a figure of E2D"
    ),
    "dwa/imagenet-1k-ipc100": _entry("imagenet-1k", 100, row(_OWN, 59.2, 65.7, 66.7)),
}
