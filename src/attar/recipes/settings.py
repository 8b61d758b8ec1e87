"""Settings that the published recipes share per dataset: data, teacher, image storage and student training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from attar.data.choice import DataChoice
from attar.ops.choices import RealAugmentation, ViewChoice
from attar.recipes.published import RESNETS, Published
from attar.recipes.recipe import BuiltInRecipe, Recipe, recipe, relabel_section
from attar.stages.choices import Evaluate, Squeeze
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOLS, protocol_named
from attar.stages.rows import DISTILLED_HARD, EQUAL_BYTES, FULL, REAL_SETS, Row
from attar.synthesis.method import MethodConfig
from attar.training.choices import Optimisation

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
PAPER_STORAGE: dict[str, Any] = {"image_format": "jpeg", "jpeg_quality": 75, "rounding": "truncate"}
"""The published scripts truncate pixels to bytes and store JPEG at Pillow's default quality."""


def lasting(config: MethodConfig, *of_data: str) -> MethodConfig:
    """Return the same settings, marked with those to keep when ``--method`` names another method.

    These are the number, storage and units of images, and the settings in ``of_data``, which the data require of every
    method.
    """
    return config.with_set(config.model_fields_set & {*MethodConfig.model_fields, *of_data})


@dataclass(frozen=True)
class Setting:
    """A dataset as the papers use it."""

    data: DataChoice
    squeeze: Squeeze
    student: str
    full_data: Literal["train", "teacher"] = "teacher"
    """'train': train a student on all real data; 'teacher': use the teacher instead, where training would take days."""

    def recipe(
        self,
        name: str,
        method: str,
        config: MethodConfig,
        protocol: str | Protocol,
        labels: Mapping[str, Any] = MappingProxyType({}),
    ) -> Recipe[Any]:
        """Return the recipe of one method on this dataset.

        Labels are made for as many epochs as students train. ``labels`` are label options as plain values; they
        override those of the named protocol.
        """
        chosen = protocol_named(protocol) if isinstance(protocol, str) else protocol
        return recipe(
            name=name,
            method=method,
            data=self.data,
            squeeze=self.squeeze,
            recover=config,
            relabel=relabel_section(chosen.name, {"epochs": chosen.training.epochs, **labels}),
            evaluate=Evaluate(protocol=chosen, students=(self.student,), full_data=self.full_data),
        )


def entry(
    family: str,
    dataset: str,
    ipc: int,
    setting: Setting,
    config: MethodConfig,
    protocol: str | Protocol,
    published: Published,
    cost: str,
    method: str = "",
    labels: Mapping[str, Any] = MappingProxyType({}),
) -> BuiltInRecipe:
    """Return the catalogue's entry of FAMILY/DATASET-ipcIPC; ``config`` is the method's for this dataset, at any IPC.

    ``method`` is the method if the family's name is not a method's. ``labels`` are as in ``Setting.recipe``.
    """
    name, kept = f"{family}/{dataset}-ipc{ipc}", lasting(config.changed(ipc=ipc), "jitter")
    return BuiltInRecipe(published, cost, lambda: setting.recipe(name, method or family, kept, protocol, labels))


def with_training(setting: Setting, **training: Any) -> Setting:
    """Return the dataset with other settings of the teachers' training."""
    squeeze = setting.squeeze
    return replace(setting, squeeze=squeeze.changed(training=squeeze.training.changed(**training)))


def with_convnet(setting: Setting, architecture: str) -> Setting:
    """Return the dataset as papers on matching use it: a ConvNet learns from all real images and from the small sets.

    The teacher is trained as DC (arXiv 2006.05929) trains on all real images: SGD, a tenth of the rate from half of
    training on. It is used for the rows of herding, k-centre and full data only.
    """
    training = Optimisation(
        epochs=200, batch_size=256, learning_rate=0.01, schedule="step-tenth", rate_moves="epoch", weight_decay=5e-4
    )
    squeeze = setting.squeeze.changed(architecture=architecture, training=training, views=ViewChoice(crop="padded"))
    return replace(setting, squeeze=squeeze, student=architecture)


def hard_rows(whole: Recipe[Any]) -> Recipe[Any]:
    """Return a recipe whose students train with hard labels: no soft label is made, and no row asks for one."""
    shown = (DISTILLED_HARD, *(Row(name, "hard") for name in REAL_SETS), EQUAL_BYTES, FULL)
    return whole.changed(relabel=whole.relabel.changed(mode="none"), evaluate=whole.evaluate.changed(rows=shown))


def smoothed(epochs: int, *rows: tuple[float, float]) -> Protocol:
    """Return SRe2L++'s protocol with the settings of a table in a paper.

    ``rows`` are learning rate and length of the cosine for ResNet-18, ResNet-50 and ResNet-101; other students train as
    the first.
    """
    chosen, (rate, stretch) = PROTOCOLS["sre2l++"], rows[0]
    others = [(student, row) for student, row in zip(RESNETS[1:], rows[1:], strict=False)]
    return chosen.changed(
        training=chosen.training.changed(epochs=epochs, learning_rate=rate, cosine_stretch=stretch),
        learning_rates=tuple((student, own) for student, (own, _) in others if own != rate),
        cosine_stretches=tuple((student, own) for student, (_, own) in others if own != stretch),
    )


def of_cvdd(dataset: str, ipc: int) -> Protocol:
    """Return the protocol of CV-DD's table for CV-DD and SRe2L++, with the released settings of each student."""
    rate, low = 1e-3, 5e-4
    if dataset == "tiny-imagenet":
        return smoothed(300, (rate, 1.0 if ipc == 10 else 2.0), (rate, 1.0), (low, 2.0))
    long = {"cifar10": (), "cifar100": (10,), "imagenet-1k": (1, 10)}[dataset]
    both = (rate, 2.0 if ipc in long else 1.0)
    large = (low, 1.0) if dataset != "imagenet-1k" else (low if ipc == 50 else rate, 2.0)
    return smoothed(300, both, both, large)


def _cifar(source: str) -> Setting:
    # SRe2L's squeeze_cifar: 78.72 % on CIFAR-100 with CIFAR-10's normalisation.
    training = Optimisation(epochs=200, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
    return Setting(
        data=DataChoice(source=source, size=32, mean=CIFAR_MEAN, std=CIFAR_STD),
        squeeze=Squeeze(architecture="resnet18", training=training, views=ViewChoice(crop="padded")),
        student="resnet18",
    )


CIFAR10, CIFAR100 = _cifar("cifar10"), _cifar("cifar100")

# The 50-epoch teacher of zeyuanyin/tiny-imagenet: 59.57 %.
TINY_IMAGENET = Setting(
    data=DataChoice(source="tiny-imagenet", size=64, mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)),
    squeeze=Squeeze(
        architecture="resnet18",
        training=Optimisation(epochs=50, batch_size=256, learning_rate=0.2, warmup_epochs=5, weight_decay=1e-4),
    ),
    student="resnet18",
)

IMAGENET_1K = Setting(
    data=DataChoice(source="imagenet-1k", size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    squeeze=Squeeze(
        architecture="resnet18",
        weights="IMAGENET1K_V1",
        # How these weights were trained, for those who train a teacher themselves (--squeeze.weights '').
        training=Optimisation(
            epochs=90, batch_size=256, learning_rate=0.1, schedule="thirds-tenth", rate_moves="epoch", weight_decay=1e-4
        ),
    ),
    student="resnet18",
)

# The published teacher takes pixels in [0, 1] as they are; its 80 epochs are inferred from its name, "rn18E80". Optimiser,
# schedule, smoothing and augmentation (Cutout and RandAugment on whole pictures, no crops and no flips) are those of the
# dataset's authors (Ridnik et al., 2021, arXiv 2104.10972), whose training begins with ImageNet-1K weights; their batch is
# not stated. Their RandAugment has uniform strengths and hides a small square as one of its operations; attar's is timm's.
IMAGENET_21K = Setting(
    data=DataChoice(source="imagenet-21k-p", size=224, resize=224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    squeeze=Squeeze(
        architecture="timm/resnet18",
        training=Optimisation(
            epochs=80,
            batch_size=1024,
            optimizer="adam",
            learning_rate=3e-4,
            schedule="one-cycle",
            weight_decay=1e-4,
            decay_norms=False,
        ),
        views=ViewChoice(crop="none", flip=False),
        augmentation=RealAugmentation(cutout=0.5, randaugment_ops=2),
        label_smoothing=0.2,
    ),
    student="timm/resnet18",
)


def _of_cvdd(setting: Setting, mean: Any, std: Any, **training: Any) -> Setting:
    setting = with_training(setting, **training)
    squeeze = setting.squeeze.changed(views=ViewChoice(crop="padded"))
    return replace(setting, squeeze=squeeze, data=setting.data.changed(mean=mean, std=std))


_ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4, "batch_size": 512}
OF_CVDD = {
    "cifar10": _of_cvdd(CIFAR10, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), **_ADAM),
    "cifar100": _of_cvdd(CIFAR100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), **_ADAM),
    "tiny-imagenet": _of_cvdd(
        TINY_IMAGENET, IMAGENET_MEAN, IMAGENET_STD, learning_rate=0.01, batch_size=128, warmup_epochs=0
    ),
    "imagenet-1k": IMAGENET_1K,
}
"""Datasets as the repositories of CV-DD and FADRM use them, for sre2l++, cvdd, fadrm, fadrm+ and psm: their means and
deviations, and teachers trained on padded crops, on CIFAR with Adam."""

TINY_OF_MATCHING = replace(TINY_IMAGENET, data=TINY_IMAGENET.data.changed(mean=IMAGENET_MEAN, std=IMAGENET_STD))
"""Tiny-ImageNet as the released code of dm, mtt, ncfm and cim normalises it."""
