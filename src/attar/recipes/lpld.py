"""LPLD as published (Xiao & He, 2024, arXiv 2410.15919), its labels pruned to a fortieth: Tiny-ImageNet, ImageNet-1K.

The paper draws batches of labels with replacement and drops the last batch; attar draws whole epochs of labels.
"""

from attar.methods.lpld import Config
from attar.recipes import settings
from attar.recipes.recipe import BuiltInRecipe, Recipe
from attar.recipes.settings import PAPER_STORAGE, entry
from attar.stages.protocols import PROTOCOLS

TINY = Config(learning_rate=0.1, bn_weight=0.05, jitter=4, **PAPER_STORAGE)
IMAGENET_1K = Config(learning_rate=0.25, bn_weight=0.01, jitter=32, **PAPER_STORAGE)
PRUNED = 40
"""Labels are made for one in this many epochs."""


def _pruned(made: BuiltInRecipe) -> BuiltInRecipe:
    def build() -> Recipe[Config]:
        recipe = made.build()
        pool = max(1, round(recipe.relabel.epochs / PRUNED))
        return recipe.changed(relabel=recipe.relabel.changed(pool_epochs=pool))

    return BuiltInRecipe(made.aim, made.cost, build)


def _tiny(ipc: int, aim: str) -> BuiltInRecipe:
    chosen = PROTOCOLS["tiny"]
    protocol = chosen.changed(training=chosen.training.changed(batch_size=64))
    return _pruned(entry("lpld", "tiny-imagenet", ipc, settings.TINY_IMAGENET, TINY, protocol, aim, "not published"))


def _imagenet_1k(ipc: int, aim: str) -> BuiltInRecipe:
    return _pruned(entry("lpld", "imagenet-1k", ipc, settings.IMAGENET_1K, IMAGENET_1K, "cda", aim, "not published"))


RECIPES = {
    "lpld/tiny-imagenet-ipc50": _tiny(50, "38.4 % with ResNet-18 and 11 MB of labels"),
    "lpld/tiny-imagenet-ipc100": _tiny(100, "46.1 % with ResNet-18 and 22 MB of labels"),
    "lpld/imagenet-1k-ipc10": _imagenet_1k(10, "20.2 % with ResNet-18 and 0.14 GB of labels"),
    "lpld/imagenet-1k-ipc50": _imagenet_1k(50, "46.7 % with ResNet-18 and 0.71 GB of labels"),
    "lpld/imagenet-1k-ipc100": _imagenet_1k(100, "54.0 % with ResNet-18 and 1.43 GB of labels"),
    "lpld/imagenet-1k-ipc200": _imagenet_1k(200, "59.6 % with ResNet-18 and 2.85 GB of labels"),
}
