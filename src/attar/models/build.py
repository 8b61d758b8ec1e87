"""Build networks by name: attar's own, torchvision's, timm's, and those of the user's own code."""

import difflib
import fnmatch
from typing import Any, Literal

from torch import Tensor, nn

from attar.core import plugin
from attar.core.errors import AttarError
from attar.core.randomness import seed_of, seeded
from attar.models import factory, network_output
from attar.models.choices import Stem
from attar.models.small import NETWORKS

Source = Literal["attar", "torchvision", "timm", "factory"]

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""Prefixes of timm's names for networks on the Hugging Face Hub."""
LARGEST_SMALL_IMAGE = 112
"""Largest image side in pixels for which 'auto' gives a ResNet the small stem; the standard stem shrinks images
fourfold."""
_STEMS = ("resnet", "densenet", "mobilenetv2", "shufflenetv2", "efficientnet")
"""Modules of ``torchvision.models`` whose networks can have a small stem."""


def build(name: str, num_classes: int, image_size: int, *, stem: Stem = "auto", seed: int) -> nn.Module:
    """Build the network of this name on the CPU, with random weights that depend only on ``seed`` and ``name``.

    ``name`` is searched in attar's own networks, then in torchvision's, then in timm's. 'torchvision/NAME' and
    'timm/NAME' select one of them, 'hf-hub:timm/NAME' means 'timm/NAME', and 'package.module:factory' is the user's own
    code (see ``factory.call``). ``image_size`` is the side in pixels. The small stem is a first convolution of stride 1
    (3x3 in ResNets and DenseNets) without pooling after it, for torchvision's ResNets, DenseNets, MobileNetV2s,
    ShuffleNetV2s and EfficientNets. Raises AttarError on an unknown name, and if the network cannot be built for these
    images.
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
            raise network_output.size_error(name, image_size, error) from error
        if small:
            _make_stem_small(module)
    return module


def available(pattern: str = "") -> list[str]:
    """Return the names that ``build`` knows, attar's first; ``pattern`` is a substring or has wildcards (``*?[``)."""
    import timm

    names = [
        *NETWORKS,
        *(f"torchvision/{name}" for name in _torchvisions()),
        *(f"timm/{name}" for name in timm.list_models()),
    ]
    if not any(character in pattern for character in "*?["):
        return [name for name in names if pattern in name]
    return [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    ]


def check_forward(module: nn.Module, image_size: int, num_classes: int, *, name: str = "") -> None:
    """Raise AttarError unless the network returns ``num_classes`` logits for each of two square images of this side.

    Uses a copy, so that the network's mode, statistics and caches do not change; ``name`` is for the error.
    """
    name = name or type(module).__name__
    answer = network_output.probe(module, image_size, name)
    if not isinstance(answer, Tensor):
        raise AttarError(
            f"{name} returns {network_output.described(answer)}; return only the logits, a tensor of images x "
            f"{num_classes}."
        )
    if tuple(answer.shape) != (2, num_classes):
        raise network_output.shape_error(answer, num_classes, name)
    if network_output.are_probabilities(answer):
        raise network_output.softmax_error(name)


def batchnorm_layers(module: nn.Module) -> list[nn.Module]:
    """Return the 2d BatchNorm layers with running statistics, in the order of registration.

    This includes timm's ``BatchNormAct2d``, a ``BatchNorm2d`` that contains the activation.
    """
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm) and layer.track_running_stats
    ]


def has_batchnorm(module: nn.Module) -> bool:
    """Return whether the network has BatchNorm statistics to match."""
    return bool(batchnorm_layers(module))


def resolve_stem(name: str, image_size: int, stem: Stem) -> Literal["small", "standard"]:
    """Return the stem that ``build`` gives this network; 'auto' is small only for ResNets with small images.

    Raises AttarError when a small stem is requested but the network cannot have one.
    """
    source, bare = locate(name)
    family = ""
    if source == "torchvision":
        from torchvision.models import get_model_builder

        family = get_model_builder(bare).__module__.rpartition(".")[2]
    if stem == "small" and family not in _STEMS:
        raise AttarError(
            f"{name} cannot have a small stem; set the stem to auto, or choose a torchvision ResNet, DenseNet, "
            f"MobileNetV2, ShuffleNetV2 or EfficientNet."
        )
    small = stem == "small" or (stem == "auto" and family == "resnet" and image_size <= LARGEST_SMALL_IMAGE)
    return "small" if small else "standard"


def locate(name: str) -> tuple[Source, str]:
    """Return a network's source and its name there; raises AttarError with similar names if it is unknown."""
    name = plain_name(name)
    prefix, slash, bare = name.partition("/")
    if slash and prefix in ("torchvision", "timm"):
        if prefix == "torchvision" and bare in _torchvisions():
            return "torchvision", bare
        if prefix == "timm" and _timm_knows(bare):
            return "timm", bare
    elif is_outside(name):
        return "factory", name
    elif name in NETWORKS:
        return "attar", name
    elif name in _torchvisions():
        return "torchvision", name
    elif _timm_knows(name):
        return "timm", name
    known = available()
    if not slash:
        known = list(dict.fromkeys(known_name.rpartition("/")[2] for known_name in known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise plugin.unknown("network", name, near or NETWORKS)  # listing a thousand names would not help


def plain_name(name: str) -> str:
    """Return a network's name without timm's prefix for the Hugging Face Hub; raises AttarError for other owners."""
    for prefix in HUB_PREFIXES:
        if name.startswith(prefix):
            plain = name.removeprefix(prefix)
            if not plain.startswith("timm/"):
                raise AttarError(
                    f"{name} is not one of timm's own networks on the Hub; download its weights, then name the network "
                    "with --squeeze.architecture and the file with --squeeze.weights."
                )
            return plain
    return name


def is_outside(name: str) -> bool:
    """Return whether a network's name refers to code outside attar; such names are used only if the user typed them."""
    return ":" in name


def timm_arguments(name: str, image_size: int) -> dict[str, Any]:
    """Return the arguments for a timm network: the image size, if its weights depend on it as in ViTs."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def _torchvisions() -> list[str]:
    """Return the names of torchvision's networks."""
    import torchvision  # a second or two; runs with attar's own networks do without

    return torchvision.models.list_models(torchvision.models)


def _from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    from torchvision.models import get_model

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
    """Set the first convolution's stride to 1 and remove the pooling after it, as for CIFAR."""
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
