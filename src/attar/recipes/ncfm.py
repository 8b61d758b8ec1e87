"""NCFM as published (arXiv 2502.20653): CIFAR-10, CIFAR-100 and Tiny-ImageNet, students with hard labels.

Settings are those of the released configurations. The released loop steps the optimiser once after each class, with the
gradients of all other classes at zero, so that its AdamW takes larger steps the more classes there are; attar takes one
step for all classes. The published accuracies are the best of several evaluations on the test images.
"""

from dataclasses import replace

from attar.methods.ncfm import Config
from attar.recipes import settings
from attar.recipes.published import note, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import Setting, hard_rows, lasting, with_convnet
from attar.stages.choices import Experts
from attar.training.choices import Optimisation

_STEPS = "the authors' loop takes a step after each class, this one for all"
_CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200}
_WORK = {"cifar10": 21, "cifar100": 100, "tiny-imagenet": 850}
"""10^15 floating-point operations: 20,000 times 1,024 real images of each class (500 on CIFAR-100 and Tiny-ImageNet)."""


def _with_experts(setting: Setting, architecture: str) -> Setting:
    """Return the dataset with ConvNets, and twenty trained ones whose first and last weights are kept."""
    experts = Experts(
        number=20,
        architecture=architecture,
        training=Optimisation(
            epochs=60, batch_size=128, learning_rate=0.01, schedule="multistep", rate_moves="epoch", weight_decay=5e-4
        ),
        dsa=("colour", "crop"),
    )
    found = with_convnet(setting, architecture)
    return replace(found, squeeze=found.squeeze.changed(experts=experts))


def _entry(
    dataset: str, ipc: int, top1: float, protocol: str = "ncfm", optimizer: str = "adamw"
) -> dict[str, BuiltInRecipe]:
    name, setting = f"ncfm/{dataset}-ipc{ipc}", _SETTINGS[dataset]
    rate = (
        0.01 if optimizer == "sgd" else 0.001
    )  # the released code takes a tenth of its configurations' rate for AdamW
    config = Config(ipc=ipc, unit_classes=_CLASSES[dataset], unit_slots=ipc, image_learning_rate=rate)
    config = config.changed(optimizer=optimizer)
    return {
        name: BuiltInRecipe(
            row("arXiv 2502.20653, Table 1", top1, students=(setting.student,), labels="hard") + note(_STEPS),
            f"not measured; about {_WORK[dataset]} PFLOP for making the images",
            lambda: hard_rows(setting.recipe(name, "ncfm", lasting(config), protocol)),
        )
    }


_SETTINGS = {
    "cifar10": _with_experts(settings.CIFAR10, "convnet3_in"),
    "cifar100": _with_experts(settings.CIFAR100, "convnet3_in"),
    "tiny-imagenet": _with_experts(settings.TINY_OF_MATCHING, "convnet4_in"),
}
RECIPES = {
    **_entry("cifar10", 1, 49.5),
    **_entry("cifar10", 10, 71.8),
    **_entry("cifar10", 50, 77.4),
    **_entry("cifar100", 1, 34.4),
    **_entry("cifar100", 10, 48.7, optimizer="sgd"),
    **_entry("cifar100", 50, 54.7),
    **_entry("tiny-imagenet", 1, 18.2),
    **_entry("tiny-imagenet", 10, 26.8, protocol="ncfm-tiny-ipc10"),
    **_entry("tiny-imagenet", 50, 29.6, protocol="ncfm-tiny-ipc50"),
}
