"""Find where a network is observed: the layers of each kind, their channel order, and layers that share one input."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.ops.features import classifier_of

Kind = Literal["batchnorm", "convolution", "patches", "tokens", "features"]
PATCH_SIDE = 4
NAMES: dict[Kind, str] = {
    "batchnorm": "BatchNorm layers with running statistics",
    "convolution": "convolutions",
    "patches": "convolutions",
    "tokens": "LayerNorm, RMSNorm, GroupNorm or InstanceNorm layers",
}


class Tap(NamedTuple):
    """One kind of observation point in a network."""

    kind: Kind
    """'batchnorm': inputs of BatchNorm layers with running statistics. 'convolution': inputs of convolutions, per
    channel. 'patches': inputs of convolutions, per square of the feature map, over all channels. 'tokens': inputs of
    LayerNorm, RMSNorm, GroupNorm and InstanceNorm layers, per channel. 'features': the output of one layer."""
    place: str = ""
    """For 'patches', the side of a square (4); for 'features', the layer's name in the network, or '' for the
    classifier's input. Empty for the other kinds."""


class Moments(NamedTuple):
    """Mean and mean square of each image's channels (or patches), float32, about the layout's centre."""

    first: Float[Tensor, "image channel"]
    second: Float[Tensor, "image channel"]


@dataclass(frozen=True)
class Layout:
    """Layers and channels of a tap's moments, in the order in which the layers are registered."""

    sizes: tuple[int, ...]
    """Number of channels of each layer."""
    places: tuple[int, ...]
    """Index of each layer among all modules of the network."""
    first: int
    """Index of the first layer of this kind, even if that layer takes no part."""
    centre: Float[Tensor, " channel"]
    """Centre of the moments: running means if the layers have them, else 0."""
    running: tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]] | None = None
    """Running mean and variance, for 'batchnorm'."""

    @property
    def num_channels(self) -> int:
        """Number of channels of all layers together."""
        return sum(self.sizes)

    def layer_of(self) -> Float[Tensor, "channel layer"]:
        """Return a matrix with 1 where a channel belongs to a layer, else 0."""
        if not self.sizes:
            return self.centre.new_zeros(0, 0)
        return torch.block_diag(*(torch.ones(size, 1) for size in self.sizes)).to(self.centre)


@dataclass(frozen=True)
class Site:
    """A layer whose input a tap measures."""

    name: str
    place: int
    shape: tuple[int, ...]
    """Shape of the layer's input for the example's images."""
    axis: int
    """Axis of the channels."""
    centre: Float[Tensor, " channel"] | None
    twin: str
    """The layer at which this input is measured: this layer, or another with the same input tensor."""

    @property
    def num_channels(self) -> int:
        """Number of channels of the layer's input."""
        return self.shape[self.axis]


def tracked_layers(network: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers over images that keep running statistics, in order of registration.

    Subclasses such as timm's ``BatchNormAct2d`` are included.
    """
    return [layer for layer in network.modules() if _is_tracked(layer)]


def sites_of(
    network: nn.Module, example: Float[Tensor, "image 3 height width"], taps: Sequence[Tap]
) -> dict[Tap, tuple[Site, ...]]:
    """Return the layers at which each moment tap measures, in order of registration.

    The network runs the example once. Layers that do not run, or whose input's first axis is not the images (windows of
    an image, for example), are left out. Layers that receive the same tensor are measured once: their ``twin`` is a
    measured BatchNorm layer, or else the first of them to run.
    """
    kinds: set[Kind] = {tap.kind for tap in taps}
    fed: dict[str, Any] = {}
    with _inputs(network) as events, torch.no_grad():
        network(example)
    for name, tensor, version in events:
        fed.setdefault(name, []).append((tensor, version))
    places = {name: (place, layer) for place, (name, layer) in enumerate(network.named_modules())}
    found: dict[str, Site] = {}
    first_to_see: dict[Any, str] = {}
    centres: dict[Any, Tensor] = {}
    order = sorted(fed, key=lambda name: not _is_tracked(places[name][1]))  # BatchNorm first, then as they ran
    for name in order:
        place, layer = places[name]
        tensor, version = fed[name][-1]
        if tensor.ndim < 2 or tensor.shape[0] != len(example):
            continue
        axis = _channel_axis(layer, tensor.ndim)
        same = (id(tensor), version, axis) if len(fed[name]) == 1 else (name,)
        running: Any = layer.running_mean if _is_tracked(layer) else None
        if running is not None:
            centres.setdefault(same, running)
        twin = name
        if any(_is_kind(layer, kind) for kind in kinds):
            twin = name if running is not None else first_to_see.setdefault(same, name)
            first_to_see.setdefault(same, name)
        centre = running if running is not None else centres.get(same)
        found[name] = Site(name, place, tuple(tensor.shape), axis, centre, twin)
    registered = sorted(found.values(), key=lambda site: site.place)
    chosen: dict[Tap, tuple[Site, ...]] = {}
    for tap in taps:
        if tap.kind != "features":
            mine = (site for site in registered if _is_kind(places[site.name][1], tap.kind))
            chosen[tap] = tuple(site for site in mine if tap.kind != "patches" or len(site.shape) == 4)
    return chosen


def layout_of(network: nn.Module, tap: Tap, sites: Sequence[Site]) -> Layout:
    """Return how the moments of these sites are concatenated; an empty layout for a network without such layers."""
    nowhere = len(list(network.modules()))
    first = next((place for place, layer in enumerate(network.modules()) if _is_kind(layer, tap.kind)), nowhere)
    layers = dict(network.named_modules())
    places = tuple(site.place for site in sites)
    if tap.kind == "patches":
        sizes = tuple(num_patches(site.shape, side_of(tap)) for site in sites)
        return Layout(sizes, places, first, torch.zeros(sum(sizes), device=_device(network)))
    sizes = tuple(site.num_channels for site in sites)
    empty = torch.zeros(0, device=_device(network))
    centres = [
        torch.zeros(site.num_channels, device=empty.device) if site.centre is None else site.centre.float()
        for site in sites
    ]
    centre = torch.cat([empty, *centres])
    if tap.kind != "batchnorm":
        return Layout(sizes, places, first, centre)
    variances: list[Any] = [layers[site.name].running_var for site in sites]
    return Layout(sizes, places, first, centre, (centre, torch.cat([empty, *(each.float() for each in variances)])))


def taps_of(config: Any, network: nn.Module) -> tuple[Tap, ...]:
    """Return the configured taps of a network; by default its BatchNorm layers, or else its other normalisation layers.

    ``config`` has the field 'observe', and 'patch_side' if patches are observed.
    """
    kinds: tuple[Kind, ...] = config.observe or (("batchnorm",) if is_observable(network, "batchnorm") else ("tokens",))
    return tuple(Tap(kind, str(config.patch_side) if kind == "patches" else "") for kind in kinds)


def side_of(tap: Tap) -> int:
    """Side of a patch in pixels of the feature map."""
    return int(tap.place) if tap.place else PATCH_SIDE


def num_patches(shape: Sequence[int], side: int) -> int:
    """Return the number of patches that cover a feature map."""
    return -(-shape[2] // side) * -(-shape[3] // side)


def feature_layer(
    network: nn.Module, place: str, example: Float[Tensor, "image 3 height width"]
) -> tuple[nn.Module, Literal["input", "output"]] | None:
    """Return the layer of a 'features' tap and whether its input or output is used; None if only logits are returned.

    Raises AttarError with similar names when the network has no layer of this name.
    """
    if not place:
        classifier = classifier_of(network, example)
        return None if classifier is None else (classifier, "input")
    layers = dict(network.named_modules())
    if place not in layers:
        near = difflib.get_close_matches(place, layers, n=3, cutoff=0.4) or [name for name in layers if name][:3]
        raise AttarError(f"The teacher has no layer named '{place}'; did you mean {' or '.join(near)}?")
    return layers[place], "output"


@contextmanager
def _inputs(network: nn.Module) -> Iterator[list[tuple[str, Tensor, int]]]:
    """Inside the context, append the name and input of each layer of a known kind that runs."""
    events: list[tuple[str, Tensor, int]] = []

    def noting(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                events.append((name, inputs[0], inputs[0]._version))

        return note

    kinds: tuple[Kind, ...] = ("batchnorm", "convolution", "tokens")
    handles = [
        layer.register_forward_pre_hook(noting(name))
        for name, layer in network.named_modules()
        if any(_is_kind(layer, kind) for kind in kinds)
    ]
    try:
        yield events
    finally:
        for handle in handles:
            handle.remove()


def _is_tracked(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)
        and layer.running_mean is not None
        and layer.running_var is not None
    )


def is_observable(network: nn.Module, kind: Kind) -> bool:
    """Return whether the network has a layer that a tap of this kind observes."""
    return any(_is_kind(layer, kind) for layer in network.modules())


def _is_kind(layer: nn.Module, kind: Kind) -> bool:
    """Return whether a tap of this kind observes the layer."""
    if kind == "batchnorm":
        return _is_tracked(layer)
    if kind == "tokens":
        return isinstance(layer, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.InstanceNorm2d)
    return kind != "features" and isinstance(layer, nn.Conv2d)


def _channel_axis(layer: nn.Module, num_axes: int) -> int:
    """Return the channel axis of a layer's input. LayerNorm2d (torchvision, timm) normalises the second axis of
    maps."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and not type(layer).__name__.endswith("2d"):
        return max(1, num_axes - len(layer.normalized_shape))
    return 1


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
