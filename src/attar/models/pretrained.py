"""Load pretrained networks: with torchvision's or timm's weights, or from a local checkpoint."""

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from attar.core import plugin
from attar.core.errors import AttarError, first_line
from attar.core.randomness import seeded
from attar.models import build, foreign, record
from attar.ops.pixels import Normalisation

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".th")
_SUBSETS = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
_WINTER21 = 10450
"""Number of classes of ImageNet-21K-P from the Winter 2021 release; timm has its class list but no name for it."""


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights, and facts about them."""

    module: nn.Module
    architecture: str
    """The name with which ``build`` makes the same network."""
    stem: Literal["small", "standard"]
    """The stem of the weights."""
    classes: tuple[str, ...] | None
    """Names of all its logits, in order: WordNet ids for ImageNet; None if unknown."""
    normalisation: Normalisation | None
    """Normalisation of its input; None if unknown."""
    image_size: int | None
    """Side of its input images in pixels; that of its training images if it takes any size; None if unknown.

    ``build`` with this architecture, stem and size makes a network that fits these weights.
    """


def pretrained(name: str, weights: str, num_classes: int, image_size: int, stem: build.Stem) -> Pretrained:
    """Load the network ``name`` with ``weights``: a path, torchvision's ('IMAGENET1K_V1'), 'pretrained' or a timm tag.

    Published weights keep the classes of their training, whatever ``num_classes`` is (see ``teacher.aligned``). A local
    checkpoint has the classes that it names; if it names none, ``num_classes`` classes. Raises AttarError on unknown
    weights, on a failed download, and on a checkpoint that does not fit.
    """
    name = build.plain_name(name)
    if is_local(weights):
        return _from_file(name, Path(weights).expanduser(), num_classes, image_size, stem)
    source, bare = build.locate(name)
    published = _torchvision_weights(bare) if source == "torchvision" else {}
    tags = [] if source in ("attar", "factory") or name.startswith("torchvision/") else _timm_tags(bare)
    short = weights.rpartition(".")[2]  # 'ResNet18_Weights.IMAGENET1K_V1' is torchvision's full name
    if short not in published and weights not in tags:
        known = [*published, *tags]
        if known:
            raise plugin.unknown(f"set of weights for {name}", weights, known)
        raise AttarError(f"{name} has no published weights; use a local file with --squeeze.weights PATH.")
    if stem == "small":
        raise AttarError(f"The weights '{weights}' have the standard stem; set --squeeze.stem standard or auto.")
    with seeded(0):
        try:
            if short in published:
                return _from_torchvision(bare, published[short])
            return _from_timm(bare, weights, image_size)
        except AttarError:
            raise
        except Exception as error:  # three download libraries, each with its own errors
            raise AttarError(
                f"Cannot download the weights '{weights}' of {name} ({first_line(error)}); "
                "use a local file with --squeeze.weights PATH."
            ) from error


def is_local(weights: str) -> bool:
    """Return whether this is a file and not the name of published weights; raises AttarError if it names a network."""
    path = Path(weights).expanduser()
    plain = build.plain_name(weights)
    if not path.exists() and (plain != weights or plain.startswith("timm/")):
        raise AttarError(
            f"'{weights}' is the name of a network, not of weights; write --squeeze.architecture {plain} "
            "--squeeze.weights pretrained."
        )
    return path.suffix in _SUFFIXES or "/" in weights or path.is_file()


def imagenet_classes(count: int) -> tuple[str, ...] | None:
    """Return the WordNet ids of the ImageNet variant with ``count`` classes, in the usual order; None if unknown."""
    from timm.data.imagenet_info import ImageNetInfo

    if count == _WINTER21:
        data = pkgutil.get_data("timm.data", "_info/imagenet21k_miil_w21_synsets.txt")
        assert data is not None
        return tuple(data.decode().split())
    return tuple(ImageNetInfo(_SUBSETS[count]).label_names()) if count in _SUBSETS else None


def _from_file(name: str, path: Path, num_classes: int, image_size: int, stem: build.Stem) -> Pretrained:
    state, classes = foreign.read_checkpoint(path)
    teacher = record.of_weights(path) if path.suffix == ".safetensors" else None
    if teacher is not None:
        image_size = teacher.image_size
        stem = teacher.stem if stem == "auto" else stem
    module = build.build(name, len(classes or ()) or num_classes, image_size, stem=stem, seed=0)
    foreign.load_into(module, state, path, whose="its list of names" if classes else "the data")
    return Pretrained(
        module,
        name,
        build.resolve_stem(name, image_size, stem),
        classes,
        Normalisation(teacher.mean, teacher.std) if teacher is not None else None,
        image_size if teacher is not None else None,
    )


def _from_torchvision(name: str, weights: "WeightsEnum") -> Pretrained:
    from torchvision.models import GoogLeNet, Inception3, get_model

    module = get_model(name, weights=weights)
    presets = weights.transforms()
    normalisation = Normalisation(_three(presets.mean), _three(presets.std))
    if isinstance(module, GoogLeNet | Inception3):
        # These two networks convert from ImageNet's normalisation themselves; build() makes them without this step.
        module.transform_input = False
        normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        module.aux_logits = False
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(module, head):
                setattr(module, head, None)
    categories = tuple(weights.meta["categories"])
    classes = imagenet_classes(1000) if len(categories) == 1000 else categories
    return Pretrained(module, f"torchvision/{name}", "standard", classes, normalisation, presets.crop_size[0])


def _from_timm(name: str, weights: str, image_size: int) -> Pretrained:
    import timm
    from timm.models import get_pretrained_cfg

    variant = name if weights == "pretrained" else f"{name.partition('.')[0]}.{weights}"
    config = get_pretrained_cfg(variant)
    assert config is not None
    if config.num_classes < 1:
        raise AttarError(f"The weights '{weights}' of timm/{name} have no classifier; choose others.")
    arguments = build.timm_arguments(variant, image_size)
    module = timm.create_model(variant, pretrained=True, **arguments)
    return Pretrained(
        module,
        f"timm/{variant}",
        "standard",
        imagenet_classes(config.num_classes),
        Normalisation(_three(config.mean), _three(config.std)),
        arguments.get("img_size", config.input_size[-1]),
    )


def _torchvision_weights(name: str) -> dict[str, "WeightsEnum"]:
    from torchvision.models import get_model_weights

    return dict(get_model_weights(name).__members__)


def _timm_tags(name: str) -> list[str]:
    """Return 'pretrained' and the tags of a timm network if it has published weights."""
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        return []
    configs = get_arch_pretrained_cfgs(architecture)
    tags = [variant.partition(".")[2] for variant, config in configs.items() if config.has_weights]
    return ["pretrained", *(tag for tag in tags if tag)] if tags else []


def _three(values: object) -> tuple[float, float, float]:
    red, green, blue = values  # pyright: ignore[reportGeneralTypeIssues]
    return float(red), float(green), float(blue)
