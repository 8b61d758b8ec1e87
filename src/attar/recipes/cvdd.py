"""CV-DD as published (Cui et al., 2025, arXiv 2501.07575): CIFAR, Tiny-ImageNet and ImageNet-1K.

The priors are those of the released code: how well students learn from sets that each teacher made alone. The authors'
rule for choosing patches is unpublished; ``recover.patch_rule`` names attar's rule. The authors' mixed precision is
float16, attar's is bfloat16.
"""

from dataclasses import replace
from typing import Any

from attar.methods.cvdd import Config
from attar.recipes import settings
from attar.recipes.published import Published, row
from attar.recipes.recipe import BuiltInRecipe
from attar.recipes.settings import PAPER_STORAGE, Setting, entry, of_cvdd
from attar.stages.choices import Member
from attar.stages.protocol import Protocol

_NETWORKS = ("resnet18", "resnet50", "shufflenet_v2_x0_5", "mobilenet_v2", "densenet121")
_PRIORS = {
    "cifar10": (63.0, 65.3, 68.5, 67.6, 67.4),
    "cifar100": (64.0, 60.6, 51.6, 59.4, 56.4),
    "tiny-imagenet": (46.5, 28.3, 43.6, 44.8, 41.5),
    "imagenet-1k": (56.4, 42.3, 52.5, 44.2, 40.6),
}
_PAIR_OF_ONE = {"cifar10": (3, 4), "cifar100": (2, 3), "tiny-imagenet": (0, 3), "imagenet-1k": (0, 2)}
"""The two teachers that optimise sets of one image per class."""
_OWN, _FADRM = (f"arXiv {paper}, table shown in its repository" for paper in ("2501.07575", "2506.24125"))
_COST = "8.2 s per image on an RTX 4090 at 224 pixels, as FADRM measured"


def _setting(dataset: str) -> Setting:
    """The dataset with five teachers."""
    setting = settings.OF_CVDD[dataset]
    names = _NETWORKS
    if dataset == "imagenet-1k":
        names = tuple(name.replace("x0_5", "x1_0") for name in names)  # with the weights of squeeze, IMAGENET1K_V1
    members = tuple(Member(architecture=name) for name in names)
    return replace(setting, squeeze=setting.squeeze.changed(members=members))


def _config(dataset: str, ipc: int) -> Config:
    """At one image per class the two best teachers, at ten each pair once, at fifty random pairs."""
    members = _PAIR_OF_ONE[dataset] if ipc == 1 else ()
    priors = tuple(_PRIORS[dataset][number] for number in members or range(len(_NETWORKS)))
    return Config(
        learning_rate=0.25, bn_weight=0.01, iterations=4000, jitter=32 if dataset == "imagenet-1k" else 4,
        start="patches", patch_rule="medium", members=members, priors=priors, prior_temperature=5.0, voters=2,
        voters_chosen="random" if ipc == 50 else "in-turn",
        parallel_units=min(ipc, 10) if dataset == "cifar10" else 1,  # ten classes do not fill a device
        **PAPER_STORAGE,
    )  # fmt: skip


def _protocol(dataset: str, ipc: int) -> Protocol:
    """The protocol of CV-DD and SRe2L++; ten images in all are one batch."""
    protocol = of_cvdd(dataset, ipc)
    if (dataset, ipc) == ("cifar10", 1):  # ten images in all
        protocol = protocol.changed(training=protocol.training.changed(batch_size=10))
    return protocol


def _entry(dataset: str, ipc: int, *top1: float, later: float | None = None) -> BuiltInRecipe:
    committee: dict[str, Any] = {"policy": "weighted", "priors": _PRIORS[dataset], "prior_temperature": 10.0}
    if (dataset, ipc) == ("cifar10", 1):
        committee["batchnorm_batch"] = 5
    config, protocol = _config(dataset, ipc), _protocol(dataset, ipc)
    published = row(_OWN, *top1) + (row(_FADRM, later, said="in FADRM's table") if later else Published())
    return entry(
        "cvdd", dataset, ipc, _setting(dataset), config, protocol, published, _COST, labels={"committee": committee}
    )


RECIPES = {
    "cvdd/cifar10-ipc1": _entry("cifar10", 1, 26.1, 25.7, 24.2),
    "cvdd/cifar10-ipc10": _entry("cifar10", 10, 44.6, 44.7, 39.6),
    "cvdd/cifar10-ipc50": _entry("cifar10", 50, 70.1, 69.6, 69.3),
    "cvdd/cifar100-ipc1": _entry("cifar100", 1, 15.9, 15.5, 13.4, later=28.3),
    "cvdd/cifar100-ipc10": _entry("cifar100", 10, 53.6, 48.7, 52.5, later=62.7),
    "cvdd/cifar100-ipc50": _entry("cifar100", 50, 65.1, 64.8, 66.3, later=67.1),
    "cvdd/tiny-imagenet-ipc1": _entry("tiny-imagenet", 1, 10.1, 8.5, 9.1, later=30.6),
    "cvdd/tiny-imagenet-ipc10": _entry("tiny-imagenet", 10, 47.8, 43.8, 47.4),
    "cvdd/tiny-imagenet-ipc50": _entry("tiny-imagenet", 50, 54.1, 54.7, 54.1),
    "cvdd/imagenet-1k-ipc1": _entry("imagenet-1k", 1, 9.2, 10.0, 7.0),
    "cvdd/imagenet-1k-ipc10": _entry("imagenet-1k", 10, 46.0, 51.3, 51.7),
    "cvdd/imagenet-1k-ipc50": _entry("imagenet-1k", 50, 59.5, 63.9, 62.7),
}
