"""Networks by name: attar's own, torchvision's, timm's, and factories in code outside."""

import difflib
import fnmatch
from typing import Any, Literal

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_builder, list_models

from attar.core import plugin
from attar.core.errors import AttarError
from attar.core.randomness import seed_of, seeded
from attar.models import answers, factory
from attar.models.choices import Stem
from attar.models.small import NETWORKS

Source = Literal["attar", "torchvision", "timm", "factory"]

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""How timm writes the name of a network that lies on the Hugging Face Hub."""
LARGEST_SMALL_IMAGE = 112
"""Side in pixels up to which 'auto' takes the small stem for a ResNet: the standard one shrinks an image fourfold at
once."""
_STEMS = ("resnet", "densenet", "mobilenetv2", "shufflenetv2", "efficientnet")
"""Modules of ``torchvision.models`` whose networks can have a small stem."""


def build(name: str, num_classes: int, image_size: int, *, stem: Stem = "auto", seed: int) -> nn.Module:
    """The network of this name, on the CPU, with fresh weights that depend on ``seed`` and ``name`` alone.

    ``name`` is looked up among attar's own networks, then torchvision's, then timm's; 'torchvision/NAME' and
    'timm/NAME' say which, 'hf-hub:timm/NAME' is 'timm/NAME', and 'package.module:factory' is code outside (see
    ``factory.call``). ``image_size`` is the side in pixels. The small stem is a first convolution of stride 1
    (3x3 in ResNets and DenseNets) and no pooling after it, for torchvision's ResNets, DenseNets, MobileNetV2s,
    ShuffleNetV2s and EfficientNets. Raises AttarError on an unknown name and on a network that cannot be built for
    these images.
    """
    name = plain_name(name)
    source, bare = locate(name)
    small = resolve_stem(name, image_size, stem) == "small"
    with seeded(seed_of(seed, "init", name)):
        if source == "factory":
            return factory.call(bare, num_classes, image_size)
        if source == "attar":
            return NETWORKS[bare](num_classes, image_size)
        try:
            module = (_from_torchvision if source == "torchvision" else _from_timm)(bare, num_classes, image_size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise answers.unfit(name, image_size, error) from error
        if small:
            _make_stem_small(module)
    return module


def available(pattern: str = "") -> list[str]:
    """Names that ``build`` knows, attar's own first; ``pattern`` is a part of the name, or has wildcards (``*?[``)."""
    import timm

    own, vision = list(NETWORKS), [f"torchvision/{name}" for name in list_models(torchvision.models)]
    names = [*own, *vision, *(f"timm/{name}" for name in timm.list_models())]
    if not any(character in pattern for character in "*?["):
        return [name for name in names if pattern in name]
    return [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    ]


def check_forward(module: nn.Module, image_size: int, num_classes: int, *, name: str = "") -> None:
    """Raise AttarError unless the network turns two square images of this side into ``num_classes`` logits each.

    Runs on a copy, so that neither its mode, its statistics nor its caches change; ``name`` is for the error.
    """
    name = name or type(module).__name__
    answer = answers.probe(module, image_size, name)
    if not isinstance(answer, Tensor):
        raise AttarError(
            f"{name} returns {answers.described(answer)}; return the logits alone, a tensor of images x {num_classes}."
        )
    if tuple(answer.shape) != (2, num_classes):
        raise answers.other_shape(answer, num_classes, name)
    if answers.are_probabilities(answer):
        raise answers.ends_in_softmax(name)


def batchnorm_layers(module: nn.Module) -> list[nn.Module]:
    """The 2d BatchNorm layers that keep running statistics, in the order of registration.

    timm's ``BatchNormAct2d`` is one of them, being a ``BatchNorm2d`` with the activation inside.
    """
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm) and layer.track_running_stats
    ]


def has_batchnorm(module: nn.Module) -> bool:
    """Whether there are BatchNorm statistics to match."""
    return bool(batchnorm_layers(module))


def resolve_stem(name: str, image_size: int, stem: Stem) -> Literal["small", "standard"]:
    """Which stem ``build`` gives this network: 'auto' is small for ResNets and small images alone.

    Raises AttarError when a small stem is asked for and there is none.
    """
    source, bare = locate(name)
    family = get_model_builder(bare).__module__.rpartition(".")[2] if source == "torchvision" else ""
    if stem == "small" and family not in _STEMS:
        raise AttarError(
            f"{name} has no stem to make small; leave the stem at auto, or choose a torchvision ResNet, DenseNet, "
            f"MobileNetV2, ShuffleNetV2 or EfficientNet."
        )
    small = stem == "small" or (stem == "auto" and family == "resnet" and image_size <= LARGEST_SMALL_IMAGE)
    return "small" if small else "standard"


def locate(name: str) -> tuple[Source, str]:
    """Where a network comes from and its name there; raises AttarError, with the nearest names, when nowhere."""
    name = plain_name(name)
    prefix, slash, bare = name.partition("/")
    if slash and prefix in ("torchvision", "timm"):
        if prefix == "torchvision" and bare in list_models(torchvision.models):
            return "torchvision", bare
        if prefix == "timm" and _timm_knows(bare):
            return "timm", bare
    elif is_outside(name):
        return "factory", name
    elif name in NETWORKS:
        return "attar", name
    elif name in list_models(torchvision.models):
        return "torchvision", name
    elif _timm_knows(name):
        return "timm", name
    known = available()
    if not slash:
        known = list(dict.fromkeys(known_name.rpartition("/")[2] for known_name in known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise plugin.unknown("network", name, near or NETWORKS)  # a thousand names would not be a mend


def plain_name(name: str) -> str:
    """A network's name without timm's prefix for the Hugging Face Hub; raises AttarError on another owner than timm."""
    for prefix in HUB_PREFIXES:
        if name.startswith(prefix):
            plain = name.removeprefix(prefix)
            if not plain.startswith("timm/"):
                raise AttarError(
                    f"{name} is not among timm's own networks on the Hub; download its weights, and give the network's "
                    "name with --squeeze.architecture and the file with --squeeze.weights."
                )
            return plain
    return name


def is_outside(name: str) -> bool:
    """Whether a network's name is the path of code outside attar: only what a user typed may be built by it."""
    return ":" in name


def timm_arguments(name: str, image_size: int) -> dict[str, Any]:
    """Arguments for a timm network: the image size where its weights depend on it, as in ViTs."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def _from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    arguments: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        arguments = {"image_size": image_size}
    elif name == "maxvit_t":
        arguments = {"input_size": (image_size, image_size)}
    return get_model(name, weights=None, num_classes=num_classes, **arguments)


def _from_timm(name: str, num_classes: int, image_size: int) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=num_classes, **timm_arguments(name, image_size))


def _timm_knows(name: str) -> bool:
    import timm

    return timm.is_model(name)


def _make_stem_small(module: nn.Module) -> None:
    """Give the first convolution stride 1 and take away the pooling after it, as for CIFAR."""
    layers: dict[str, Any] = dict(module.named_modules())
    for name in ("conv1", "features.conv0"):
        if isinstance(layers.get(name), nn.Conv2d):  # ResNet and DenseNet, 7x7
            conv = nn.Conv2d(3, layers[name].out_channels, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            module.set_submodule(name, conv)
    for name in ("conv1.0", "features.0.0"):
        if isinstance(layers.get(name), nn.Conv2d):  # ShuffleNetV2, MobileNetV2 and EfficientNet, 3x3
            layers[name].stride = (1, 1)
    for name in ("maxpool", "features.pool0"):
        if name in layers:
            module.set_submodule(name, nn.Identity())
