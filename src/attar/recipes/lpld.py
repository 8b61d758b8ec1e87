"""LPLD as published (Xiao & He, 2024, arXiv 2410.15919), its labels pruned to a fortieth: Tiny-ImageNet, ImageNet-1K.

The paper draws batches of labels with replacement and drops the last batch; attar draws whole epochs of labels,
2.5 become 3 on Tiny-ImageNet and 7.5 become 8 on ImageNet-1K.
"""

import math

from attar.methods.lpld import Config
from attar.recipes import settings
from attar.recipes.published import Published, row
from attar.recipes.recipe import BuiltInRecipe, Recipe
from attar.recipes.settings import PAPER_STORAGE, entry
from attar.stages.protocols import PROTOCOLS

TINY = Config(learning_rate=0.1, bn_weight=0.05, jitter=4, jitter_both_ways=True, **PAPER_STORAGE)
IMAGENET_1K = Config(learning_rate=0.25, bn_weight=0.01, jitter=32, **PAPER_STORAGE)
PRUNED = 40
"""Labels are made for one in this many epochs, rounded up."""


def _pruned(made: BuiltInRecipe) -> BuiltInRecipe:
    def build() -> Recipe[Config]:
        recipe = made.build()
        pool = math.ceil(recipe.relabel.epochs / PRUNED)
        return recipe.changed(relabel=recipe.relabel.changed(pool_epochs=pool))

    return BuiltInRecipe(made.published, made.cost, build)


def _row(top1: float, label_bytes: int) -> Published:
    return row("arXiv 2410.15919, table in its repository", top1, label_bytes=label_bytes)


def _tiny(ipc: int, published: Published) -> BuiltInRecipe:
    chosen = PROTOCOLS["tiny"]
    protocol = chosen.changed(training=chosen.training.changed(batch_size=64))
    return _pruned(
        entry("lpld", "tiny-imagenet", ipc, settings.TINY_IMAGENET, TINY, protocol, published, "not published")
    )


def _imagenet_1k(ipc: int, published: Published) -> BuiltInRecipe:
    return _pruned(
        entry("lpld", "imagenet-1k", ipc, settings.IMAGENET_1K, IMAGENET_1K, "cda", published, "not published")
    )


RECIPES = {
    "lpld/tiny-imagenet-ipc50": _tiny(50, _row(38.4, 11_000_000)),
    "lpld/tiny-imagenet-ipc100": _tiny(100, _row(46.1, 22_000_000)),
    "lpld/imagenet-1k-ipc10": _imagenet_1k(10, _row(20.2, 140_000_000)),
    "lpld/imagenet-1k-ipc50": _imagenet_1k(50, _row(46.7, 710_000_000)),
    "lpld/imagenet-1k-ipc100": _imagenet_1k(100, _row(54.0, 1_430_000_000)),
    "lpld/imagenet-1k-ipc200": _imagenet_1k(200, _row(59.6, 2_850_000_000)),
}
