"""TESLA (arXiv 2211.10586): CIFAR-10 and CIFAR-100 as far as its settings need no whitening, and attar's own on digits.

The authors publish the settings of one cell without whitening, CIFAR-10 with 1 image per class; the other cells have
MTT's. The released code halves the gradient of the images, so its learning rate of 1000 is 500 here.
"""

from typing import Any

from attar.methods.tesla import Config
from attar.ops.choices import LookChoice
from attar.recipes import mtt
from attar.recipes.digits import digits
from attar.recipes.published import note
from attar.recipes.recipe import BuiltInRecipe, Recipe, recipe
from attar.recipes.settings import hard_rows, lasting

_COST = "not measured; the authors name 2 % more time than MTT at a sixth of its memory"


def _entry(cell: str, top1: float, whitened: bool = False) -> dict[str, BuiltInRecipe]:
    config = Config(**{**mtt.CELLS[cell], "image_learning_rate": 500.0})
    return mtt.entry("tesla", cell, config, mtt.convnet_row(cell, top1, whitened), _COST)


def _digits(name: str, ipc: int, **values: Any) -> Recipe[Any]:
    """Digits for a CPU: a ConvNet of two blocks for 8 pixels, no mirrored digits, students with hard labels."""
    base = digits()
    config = Config(
        ipc=ipc,
        image_learning_rate=1.0,
        student_steps=20,
        max_start_epoch=15,
        rate_learning_rate=1e-6,
        flip=False,
        grey=True,
        **values,
    )
    views = LookChoice(crop="none", flip=False, dsa=config.kinds(), dsa_combine="one")
    whole = recipe(
        name=name,
        method="tesla",
        data=base.data,
        squeeze=base.squeeze,
        recover=lasting(config, "flip", "grey"),
        relabel={"views": views.plain()},
        evaluate={"protocol": "mtt", "students": ("convnet2_in",)},
    )
    return hard_rows(whole)


RECIPES = {
    **_entry("cifar10-ipc1", 48.5),
    **_entry("cifar10-ipc10", 66.4, whitened=True),
    **_entry("cifar10-ipc50", 72.6),
    **_entry("cifar100-ipc10", 41.7),
    "tesla/digits-ipc1": BuiltInRecipe(
        note("no published row; measured 96.1 ± 0.3 %, random real images 72.2 ± 0.2 % (3 students each)"),
        "about 9 min of one CPU core, 8 of them for the images and 1 for experts, measured",
        lambda: _digits("tesla/digits-ipc1", 1, iterations=1000),
    ),
    "tesla/digits-ipc10": BuiltInRecipe(
        note("no published row; measured 98.8 ± 0.2 %, random real images 96.5 ± 0.3 % (3 students each)"),
        "about 5 min of one CPU core for experts and images, measured",
        lambda: _digits("tesla/digits-ipc10", 10, iterations=300, batch_size=25),
    ),
}
