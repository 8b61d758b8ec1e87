"""CDA as published (Yin & Shen, 2023, arXiv 2311.18838): Tiny-ImageNet, ImageNet-1K, ImageNet-21K-P, and CIFAR."""

from attar.methods.cda import Config
from attar.recipes import settings
from attar.recipes.published import TIMM_RESNETS, Published, note, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import PAPER_STORAGE, entry

TINY = Config(learning_rate=0.4, bn_weight=0.05, jitter=4, iterations=4000, **PAPER_STORAGE)
IMAGENET_1K = Config(learning_rate=0.25, bn_weight=0.01, jitter=32, iterations=4000, **PAPER_STORAGE)
IMAGENET_21K = Config(learning_rate=0.05, bn_weight=0.25, jitter=32, iterations=2000, **PAPER_STORAGE)
# No CDA script for CIFAR is published: SRe2L's settings for it, with crops, flips and CDA's curriculum.
CIFAR = Config(learning_rate=0.25, bn_weight=0.01, jitter=4, iterations=1000, **PAPER_STORAGE)

_OWN = "arXiv 2311.18838, table shown in its repository"
_CVDD, _QUOTED = "arXiv 2501.07575, table shown in its repository", "as CV-DD quotes CDA"
_RD3 = "arXiv 2509.19743"
_DERIVED = "scaled from the authors' time"


def _tiny(ipc: int, published: Published, cost: str) -> BuiltInRecipe:
    return entry("cda", "tiny-imagenet", ipc, settings.TINY_IMAGENET, TINY, "tiny", published, cost)


def _imagenet_1k(ipc: int, published: Published, cost: str) -> BuiltInRecipe:
    return entry("cda", "imagenet-1k", ipc, settings.IMAGENET_1K, IMAGENET_1K, "cda", published, cost)


def _imagenet_21k(ipc: int, published: Published, cost: str) -> BuiltInRecipe:
    published += note("download the published teacher and set --squeeze.weights to its file")
    return entry("cda", "imagenet-21k", ipc, settings.IMAGENET_21K, IMAGENET_21K, "imagenet-21k", published, cost)


def _cifar(name: str, ipc: int, published: Published) -> BuiltInRecipe:
    setting = settings.CIFAR10 if name == "cifar10" else settings.CIFAR100
    config = CIFAR.changed(parallel_units=10) if name == "cifar10" else CIFAR  # ten classes do not fill a device
    return entry("cda", name, ipc, setting, config, "cifar", published, "not published for CDA")


RECIPES = {
    "cda/tiny-imagenet-ipc10": _tiny(10, row(_CVDD, 43.0, said=_QUOTED), f"0.9 h on an RTX 4090, {_DERIVED}"),
    "cda/tiny-imagenet-ipc50": _tiny(50, row(_OWN, 48.7, 49.7, 50.6), "4.5 h on an RTX 4090, measured by the authors"),
    "cda/tiny-imagenet-ipc100": _tiny(100, row(_OWN, 53.2, 54.4, 55.0), f"9 h on an RTX 4090, {_DERIVED}"),
    "cda/imagenet-1k-ipc10": _imagenet_1k(10, row(_RD3, 33.5, said="as RD3 quotes CDA"), f"6 h on an RTX 4090, {_DERIVED}"),
    "cda/imagenet-1k-ipc50": _imagenet_1k(50, row(_OWN, 53.5, 61.3, 61.6), "29 h on an RTX 4090, measured by the authors"),
    "cda/imagenet-1k-ipc100": _imagenet_1k(100, row(_OWN, 58.0, 65.1, 65.9), f"58 h on an RTX 4090, {_DERIVED}"),
    "cda/imagenet-1k-ipc200": _imagenet_1k(200, row(_OWN, 63.3, 67.6, 68.4), f"116 h on an RTX 4090, {_DERIVED}"),
    "cda/imagenet-21k-ipc10": _imagenet_21k(10, row(_OWN, 22.6, 32.4, 34.2, students=TIMM_RESNETS), f"27 h on 4 RTX 4090, {_DERIVED}"),
    "cda/imagenet-21k-ipc20": _imagenet_21k(20, row(_OWN, 26.4, 35.3, 36.1, students=TIMM_RESNETS), "55 h on 4 RTX 4090, measured by the authors"),
    "cda/cifar10-ipc10": _cifar("cifar10", 10, note("no row in CDA's paper")),
    "cda/cifar10-ipc50": _cifar("cifar10", 50, row(_RD3, 54.5, unlike="under RD3's protocol instead of this one")),
    "cda/cifar100-ipc10": _cifar("cifar100", 10, row(_CVDD, 49.8, said=_QUOTED)),
    "cda/cifar100-ipc50": _cifar("cifar100", 50, row(_CVDD, 64.4, said=_QUOTED)),
}  # fmt: skip
