"""DD-Ranking 0.2.0's names: datasets and their class order, networks, and settings of its evaluator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.core.errors import AttarError
from attar.data.titles import are_wordnet_ids
from attar.models import build
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.ops.views import ViewChoice
from attar.stages.dataset_info import DatasetInfo
from attar.stages.protocol import Protocol
from attar.training.choices import Optimisation

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SUBSETS = {
    "ImageNette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "ImageWoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "ImageMeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "ImageSquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "ImageFruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "ImageYellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
"""Classes of ImageNet-1K, by index, in the evaluator's order."""
_OF_CIFAR100 = {"aquarium_fish", "maple_tree", "sweet_pepper", "willow_tree"}
_OF_TINY = {"n02058221", "n04597913", "n07875152", "n09193705"}
"""Albatross, wooden spoon, potpie, alp: no other set of 200 ImageNet classes in use has all of them."""
_NETWORKS = {
    **{f"resnet{depth}": f"ResNet-{depth}-BN" for depth in (18, 34, 50)},
    **{f"vgg{depth}": f"VGG-{depth}" for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": f"VGG-{depth}-BN" for depth in (11, 13, 16, 19)},
    "alexnet": "AlexNet",
}
"""torchvision's networks by the evaluator's names."""
_SMALL = (32, 64)
"""Sides in pixels at which the evaluator replaces the first layer of torchvision's networks."""
FULL_DATA_PERCENT = {"ImageNet1K-ResNet-18-BN": 56.5, "TinyImageNet-ResNet-18-BN": 46.4}
"""Top-1 on all real data, where the evaluator has its own table of it."""
_CIFAR_COLOURS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the evaluator's normalisation, where it ignores the configuration's."""
TEST_INTERVAL = 20
"""Epochs between two tests of a student trained with soft labels; the evaluator reports the best of them."""


@dataclass(frozen=True)
class Dataset:
    """One of the evaluator's datasets."""

    name: str
    order: tuple[int, ...]
    """The run's label of each of the evaluator's classes."""
    size: int | None
    """Side in pixels of the real images in the evaluator; None: any side in the configuration."""


@dataclass(frozen=True)
class DDNetwork:
    """One of the evaluator's networks."""

    name: str
    torchvision: bool
    """Use torchvision's network, not the evaluator's own."""


@dataclass(frozen=True)
class Setup:
    """The run's training protocol, as far as the evaluator needs it."""

    protocol: Protocol
    views: ViewChoice
    mix: MixChoice
    resize: int
    """Shorter side of validation images before the central crop, in pixels."""
    num_seeds: int


def dataset_of(info: DatasetInfo) -> Dataset:
    """Return the evaluator's dataset with these classes; raises AttarError if there is none."""
    names, count = info.classes, len(info.classes)
    by_name = tuple(sorted(range(count), key=lambda label: names[label]))
    if set(names) == set(CIFAR10):
        return Dataset("CIFAR10", by_name, 32)
    if count == 100 and (info.name == "cifar100" or set(names) >= _OF_CIFAR100):
        return Dataset("CIFAR100", by_name, 32)
    if are_wordnet_ids(names):
        if count == 200 and (info.name == "tiny-imagenet" or set(names) >= _OF_TINY):
            return Dataset("TinyImageNet", by_name, 64)
        known = _imagenet()
        if set(names) == set(known):
            return Dataset("ImageNet1K", by_name, None)
        for subset, indices in SUBSETS.items():
            wanted = [known[index] for index in indices]
            if set(names) == set(wanted):
                return Dataset(subset, tuple(names.index(name) for name in wanted), None)
    elif count == 1000 and info.name == "imagenet-1k":  # class names in words, in ImageNet's order
        return Dataset("ImageNet1K", tuple(range(1000)), None)
    raise AttarError(
        f"DD-Ranking scores only CIFAR10, CIFAR100, TinyImageNet, ImageNet1K and {', '.join(SUBSETS)}, not the {count} "
        f"classes of {info.name}; 'attar report RUN --ranking' computes the same scores for any dataset."
    )


def network_of(architecture: str, stem: str, size: int) -> DDNetwork | None:
    """Return the evaluator's network with exactly these layers, for images of ``size`` pixels; None if none exists."""
    source, bare = build.locate(architecture)
    if source == "attar" and bare.startswith("convnet") and bare.removeprefix("convnet").isdigit():
        depth = int(bare.removeprefix("convnet"))
        return DDNetwork(f"ConvNet-{depth}-BN", False) if size >= 2**depth and size != 28 else None
    if source != "torchvision" or bare not in _NETWORKS:
        return None
    small = size in _SMALL
    if (bare.startswith("resnet") and (stem == "small") != small) or (bare == "alexnet" and small):
        return None
    return DDNetwork(_NETWORKS[bare], True)


def student_of(architecture: str, stem: build.Stem, size: int) -> DDNetwork | None:
    """Return the evaluator's network for a student: ``network_of``, or a torchvision or timm network by its own
    name."""
    source, bare = build.locate(architecture)
    resolved = build.resolve_stem(architecture, size, stem)
    found = network_of(architecture, resolved, size)
    by_its_name = source in ("torchvision", "timm") and bare not in _NETWORKS and resolved == "standard"
    if found is None and by_its_name and not (source == "timm" and build.timm_arguments(bare, size)):
        return DDNetwork(bare, True)
    return found


def settings(
    dataset: Dataset, info: DatasetInfo, setup: Setup, student: DDNetwork, teacher: DDNetwork
) -> dict[str, Any]:
    """Return the evaluator's configuration, shared by all its metrics; paths are relative to the export's folder."""
    protocol, training = setup.protocol, setup.protocol.training
    adam = training.optimizer != "sgd"
    return {
        "dataset": dataset.name,
        "real_data_path": "./real",
        "ipc": info.ipc,
        "im_size": [info.size, info.size],
        "model_name": student.name,
        "stu_use_torchvision": student.torchvision,
        "use_torchvision": student.torchvision,
        "tea_use_torchvision": teacher.torchvision,
        "teacher_dir": "./teacher_models",
        "teacher_model_names": [teacher.name],
        "label_type": "soft",
        "soft_label_mode": "M",
        **_loss(protocol),
        "data_aug_func": None if setup.mix.kind == "none" else setup.mix.kind,
        "aug_params": {"cutmix": {"beta": setup.mix.alpha}, "mixup": {"lambda": setup.mix.alpha}}.get(setup.mix.kind),
        "use_aug_for_hard": False,
        "use_zca": False,
        "custom_train_trans": [*_crops(setup.views, info.size), *_normalised(info)],
        "custom_val_trans": [
            {"name": "Resize", "args": {"size": setup.resize}},
            {"name": "CenterCrop", "args": {"size": info.size}},
            *_normalised(info),
        ],
        "optimizer": "adamw" if adam else "sgd",
        "default_lr": training.learning_rate,
        "lr_scheduler": "cosine" if training.cosine_stretch == 2 else "cosineannealing",
        "weight_decay": training.weight_decay,
        "momentum": 0.9 if adam else training.momentum,
        "step_size": None,
        "num_epochs": training.epochs,
        "syn_batch_size": training.batch_size,
        "batch_size": training.batch_size,
        "real_batch_size": 256,
        "num_eval": setup.num_seeds,
        "random_data_format": "image",
        "random_data_path": "./random_images",
        "eval_full_data": False,
        "num_workers": 4,
        "save_path": "./results/scores.csv",
        "device": "cuda",
        "dist": False,
    }


def _loss(protocol: Protocol) -> dict[str, Any]:
    if protocol.loss == "mse":
        weights = {"mse_weight": 1.0, "ce_weight": protocol.hard_weight}
        return {"soft_label_criterion": "mse_gt", "loss_fn_kwargs": weights}
    kept = {"temperature": protocol.temperature, "scale_loss": protocol.temperature_squared}
    return {"soft_label_criterion": "kl", "loss_fn_kwargs": kept}


def unexpressed(dataset: Dataset, info: DatasetInfo, setup: Setup) -> list[str]:
    """Return the differences between the evaluator's training and the run's, one sentence per difference."""
    protocol, training = setup.protocol, setup.protocol.training
    found = []
    if training.rate_moves == "step":
        found.append("The learning rate decreases once per epoch; attar's decreases with every step.")
    if training.schedule != "cosine" or training.cosine_stretch not in (1, 2):
        found.append(
            f"The learning rate follows a cosine to 0, not the schedule '{training.schedule}' with a cosine stretch of "
            f"{training.cosine_stretch:g}."
        )
    if protocol.hard_weight and protocol.loss == "soft":
        found.append(f"The cross-entropy with the class labels (weight {protocol.hard_weight:g}) is left out.")
    if setup.mix.kind != "none" and not setup.mix.shared_by:
        found.append(f"{setup.mix.kind} draws one mix for the whole batch; attar draws one per image.")
    if info.labels.mode == "stored":
        found.append(
            f"The teacher labels new views in every epoch. The run's {info.labels.epochs} epochs of stored labels, "
            "which have the same distribution, are not exported."
        )
    if info.labels.mode == "given":
        found.append("The teacher labels every view; the soft labels that the method learned are not exported.")
    if info.labels.committee.batchnorm == "train":
        batch = info.labels.committee.batchnorm_batch
        found.append(
            f"The teacher labels with its running BatchNorm statistics; the run used the statistics of batches of "
            f"{batch} images."
        )
    if training.optimizer not in ("sgd", "adamw"):
        found.append(f"The optimiser '{training.optimizer}' is replaced by AdamW.")
    found += [f"The evaluator has no setting for the protocol's {key} = {value}." for key, value in _others(setup)]
    if training.epochs % TEST_INTERVAL:
        last = training.epochs - training.epochs % TEST_INTERVAL
        what = f"the last test is after epoch {last}" if last else "it never tests and every accuracy is 0"
        found.append(f"It tests students only every {TEST_INTERVAL} epochs: with {training.epochs} epochs {what}.")
    if dataset.size not in (None, info.size):
        found.append(
            f"With hard labels it tests on real images of {dataset.size} pixels; the exported images have {info.size}."
        )
    mean, std = _CIFAR_COLOURS if dataset.name.startswith("CIFAR") else _IMAGENET_COLOURS
    if any(abs(mine - its) > 0.005 for mine, its in zip((*info.mean, *info.std), (*mean, *std), strict=True)):
        found.append(
            f"For tests of students with hard labels, and for training without augmentation, it normalises images with "
            f"its own constants (mean {mean}, std {std}), not with the run's."
        )
    return found


def _crops(views: ViewChoice, size: int) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    if views.crop == "resized":
        drawn.append({"name": "RandomResizedCrop", "args": {"size": size, "scale": [views.min_scale, 1.0]}})
    elif views.crop == "padded":
        drawn.append({"name": "RandomCrop", "args": {"size": size, "padding": views.padding}})
    if views.flip:
        drawn.append({"name": "RandomHorizontalFlip", "args": {"p": 0.5}})
    return drawn


def _normalised(info: DatasetInfo) -> list[dict[str, Any]]:
    normalise = {"name": "Normalize", "args": {"mean": list(info.mean), "std": list(info.std)}}
    return [{"name": "ToTensor"}, normalise]


_COVERED = {
    *("name", "version", "loss", "temperature", "temperature_squared", "hard_weight"),
    *("mix.kind", "mix.alpha", "mix.shared_by", "training.schedule", "training.cosine_stretch", "training.rate_moves"),
    *(f"training.{key}" for key in ("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "momentum")),
    *(f"views.{key}" for key in ("crop", "min_scale", "padding", "flip")),
}
"""Protocol keys that ``settings`` or another sentence already describes."""


def _others(setup: Setup) -> list[tuple[str, Any]]:
    """Return the protocol's other settings, except defaults that change nothing."""
    own = {name: field.default for name, field in Protocol.model_fields.items() if not field.is_required()}
    parts = {"training": Optimisation(), "views": LookChoice(), "mix": MixChoice()}
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}  # as in JSON
    neutral = dict(_leaves(own | {name: part.plain() for name, part in parts.items()}))
    values = setup.protocol.plain() | {"views": setup.views.plain(), "mix": setup.mix.plain()}
    return [
        (k, value) for k, value in _leaves(values) if k not in _COVERED and (k not in neutral or neutral[k] != value)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def _imagenet() -> list[str]:
    """Return the WordNet ids of ImageNet-1K, in ImageNet's order."""
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()
