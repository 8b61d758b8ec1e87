"""MTT as published (arXiv 2203.11932): CIFAR-10, CIFAR-100 and Tiny-ImageNet, students with hard labels.

Cells whose published settings whiten the images (ZCA) are left out: attar's images are pixels in [0, 1]. On CIFAR-10 the
authors give settings without whitening for 1 and 10 images per class, too, but no accuracy with them. Experts train for
as many epochs as the method reads; the published 50 begin with the same ones. The published accuracies are the best of
fifty evaluations on the test images.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from attar.methods.mtt import Config
from attar.recipes import settings
from attar.recipes.published import Published, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import Setting, hard_rows, lasting, with_convnet
from attar.stages.choices import Experts
from attar.synthesis.trajectory_choices import Trajectories

_BASE = {"student_learning_rate": 0.01, "rate_learning_rate": 1e-5, "image_learning_rate": 1000.0}
CELLS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "cifar10-ipc1": {**_BASE, "student_steps": 50, "max_start_epoch": 5, "rate_learning_rate": 1e-7},
        "cifar10-ipc10": {**_BASE, "student_steps": 30, "max_start_epoch": 15},
        "cifar10-ipc50": {**_BASE, "student_steps": 30, "max_start_epoch": 40, "student_learning_rate": 0.001},
        "cifar100-ipc10": {**_BASE, "student_steps": 20, "max_start_epoch": 20},
        "tiny-imagenet-ipc1": {
            **_BASE,
            "student_steps": 10,
            "max_start_epoch": 10,
            "rate_learning_rate": 1e-4,
            "image_learning_rate": 10000.0,
        },
        "tiny-imagenet-ipc10": {
            **_BASE,
            "student_steps": 20,
            "max_start_epoch": 40,
            "rate_learning_rate": 1e-4,
            "image_learning_rate": 10000.0,
            "batch_size": 200,
        },
        "tiny-imagenet-ipc50": {
            **_BASE,
            "student_steps": 20,
            "max_start_epoch": 40,
            "rate_learning_rate": 1e-4,
            "image_learning_rate": 10000.0,
            "batch_size": 300,
        },
    }
)
"""The published settings without whitening; all match two epochs of the experts."""
_DATA = {
    "cifar10": (settings.CIFAR10, "convnet3_in"),
    "cifar100": (settings.CIFAR100, "convnet3_in"),
    "tiny-imagenet": (settings.TINY_OF_MATCHING, "convnet4_in"),
}
_COST = "not measured; the authors name 1 to 5 hours on several GPUs for making the images, experts not counted"


def entry(method: str, cell: str, config: Trajectories, published: Published, cost: str) -> dict[str, BuiltInRecipe]:
    """Return the catalogue's entry of METHOD/CELL; ``config`` has the method's settings but the number of images."""
    dataset, _, ipc = cell.rpartition("-ipc")
    config = config.changed(ipc=int(ipc))
    setting = _with_experts(*_DATA[dataset], config.needs().expert_epochs)
    name = f"{method}/{cell}"
    return {
        name: BuiltInRecipe(published, cost, lambda: hard_rows(setting.recipe(name, method, lasting(config), "mtt")))
    }


def _with_experts(setting: Setting, architecture: str, epochs: int) -> Setting:
    """Return the dataset with ConvNets, and a hundred experts of so many epochs."""
    usual = Experts()
    experts = usual.changed(architecture=architecture, training=usual.training.changed(epochs=epochs))
    found = with_convnet(setting, architecture)
    return replace(found, squeeze=found.squeeze.changed(experts=experts))


def convnet_row(cell: str, top1: float, whitened: bool) -> Published:
    """Return the published figure of a cell; ``whitened`` says that it is one of whitened images."""
    student = _DATA[cell.rpartition("-ipc")[0]][1]
    unlike = "on whitened images; this recipe is without whitening" if whitened else ""
    return row("arXiv 2502.20653 (NCFM), Table 1", top1, students=(student,), labels="hard", unlike=unlike)


def _entry(cell: str, top1: float, whitened: bool = False) -> dict[str, BuiltInRecipe]:
    return entry("mtt", cell, Config(**CELLS[cell]), convnet_row(cell, top1, whitened), _COST)


RECIPES = {
    **_entry("cifar10-ipc1", 46.3, whitened=True),
    **_entry("cifar10-ipc10", 65.3, whitened=True),
    **_entry("cifar10-ipc50", 71.6),
    **_entry("cifar100-ipc10", 40.1),
    **_entry("tiny-imagenet-ipc1", 8.8),
    **_entry("tiny-imagenet-ipc10", 23.2),
    **_entry("tiny-imagenet-ipc50", 28.0),
}
