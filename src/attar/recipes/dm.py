"""DM as published (arXiv 2110.04181): CIFAR-10, CIFAR-100 and Tiny-ImageNet, students with hard labels.

The teacher, a ConvNet trained on all real images, is used for the rows of herding, k-centre and full data only; without
these rows none is trained. The published pixels may leave [0, 1] and are float32; attar's are 8 bits.
"""

from dataclasses import replace

from attar.methods.dm import Config
from attar.recipes import settings
from attar.recipes.published import note, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import Setting, hard_rows, lasting, with_convnet

_STORED = "the paper stores float32 beyond [0, 1], this 8 bits"
_WORK = {"cifar10": 5, "cifar100": 50, "tiny-imagenet": 430}
"""10^15 floating-point operations: 20,000 times 256 real images of each class through a ConvNet."""


def _entry(dataset: str, ipc: int, setting: Setting, top1: float) -> dict[str, BuiltInRecipe]:
    name, num_classes = f"dm/{dataset}-ipc{ipc}", {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200}[dataset]
    config = Config(ipc=ipc, unit_classes=min(num_classes, 100), unit_slots=ipc)
    return {
        name: BuiltInRecipe(
            row("arXiv 2110.04181", top1, students=(setting.student,), labels="hard") + note(_STORED),
            f"not measured; about {_WORK[dataset]} PFLOP for making the images",
            lambda: hard_rows(setting.recipe(name, "dm", lasting(config), "dm")),
        )
    }


_CIFAR10 = with_convnet(settings.CIFAR10, "convnet3_in")
_CIFAR100 = with_convnet(
    replace(
        settings.CIFAR100,
        data=settings.CIFAR100.data.changed(mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    ),
    "convnet3_in",
)
_TINY = with_convnet(settings.TINY_OF_MATCHING, "convnet4_in")
RECIPES = {
    **_entry("cifar10", 1, _CIFAR10, 26.0),
    **_entry("cifar10", 10, _CIFAR10, 48.9),
    **_entry("cifar10", 50, _CIFAR10, 63.0),
    **_entry("cifar100", 1, _CIFAR100, 11.4),
    **_entry("cifar100", 10, _CIFAR100, 29.7),
    **_entry("cifar100", 50, _CIFAR100, 43.6),
    **_entry("tiny-imagenet", 1, _TINY, 3.9),
    **_entry("tiny-imagenet", 10, _TINY, 12.9),
    **_entry("tiny-imagenet", 50, _TINY, 24.1),
}
