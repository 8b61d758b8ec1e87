"""Where a network is observed: the layers of each kind, the order of their channels, and which see the same tensor."""

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
    """One kind of place at which a network is observed."""

    kind: Kind
    """'batchnorm': what BatchNorm layers with running statistics are fed. 'convolution': what convolutions are fed, by
    channel. 'patches': the same by square of the feature map, over all channels. 'tokens': what LayerNorm, RMSNorm,
    GroupNorm and InstanceNorm layers are fed, by channel. 'features': what one layer returns."""
    place: str = ""
    """Of 'patches' the side of a square (4); of 'features' the layer's name in the network, '' for the classifier's
    input. The other kinds have no place."""


class Moments(NamedTuple):
    """Mean and mean square of each image's channels (or patches), float32, about the layout's centre."""

    first: Float[Tensor, "image channel"]
    second: Float[Tensor, "image channel"]


@dataclass(frozen=True)
class Layout:
    """What the channels of a tap's moments are: the layers that take part, one after the other as registered."""

    sizes: tuple[int, ...]
    """Channels of each layer."""
    places: tuple[int, ...]
    """Place of each layer among all modules of the network."""
    first: int
    """Place of the first layer of this kind, whether it takes part or not."""
    centre: Float[Tensor, " channel"]
    """About which moments are taken: running means where there are some, else 0."""
    running: tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]] | None = None
    """Running mean and variance, for 'batchnorm'."""

    @property
    def num_channels(self) -> int:
        """Channels of all layers."""
        return sum(self.sizes)

    def layer_of(self) -> Float[Tensor, "channel layer"]:
        """1 where a channel is the layer's, else 0."""
        if not self.sizes:
            return self.centre.new_zeros(0, 0)
        return torch.block_diag(*(torch.ones(size, 1) for size in self.sizes)).to(self.centre)


@dataclass(frozen=True)
class Site:
    """A layer at which a tap measures what it is fed."""

    name: str
    place: int
    shape: tuple[int, ...]
    """Of what the layer is fed, with the example's number of images."""
    axis: int
    """Of the channels."""
    centre: Float[Tensor, " channel"] | None
    twin: str
    """The layer at which the same tensor is measured: this one, or another that is fed the same."""

    @property
    def num_channels(self) -> int:
        """Channels of what the layer is fed."""
        return self.shape[self.axis]


def tracked_layers(network: nn.Module) -> list[nn.Module]:
    """The network's BatchNorm layers over images that keep running statistics, in order of registration.

    Subclasses such as timm's ``BatchNormAct2d`` are among them.
    """
    return [layer for layer in network.modules() if _is_tracked(layer)]


def sites_of(
    network: nn.Module, example: Float[Tensor, "image 3 height width"], taps: Sequence[Tap]
) -> dict[Tap, tuple[Site, ...]]:
    """The layers at which each tap that measures moments does so, in order of registration.

    The example is shown once. Layers that do not run, or whose input has another first axis than the images (windows
    of an image, say), take no part. A layer that is fed the very tensor that another one is fed need not be measured
    again: its ``twin`` is a BatchNorm layer that is measured, or else the first of them to run.
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
    order = sorted(fed, key=lambda name: not _is_tracked(places[name][1]))  # stable: BatchNorm first, else as they ran
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
    """How the moments of these sites lie one after the other; of a network without such layers there are none."""
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


def side_of(tap: Tap) -> int:
    """Side of a patch in pixels of the feature map."""
    return int(tap.place) if tap.place else PATCH_SIDE


def num_patches(shape: Sequence[int], side: int) -> int:
    """Patches of a feature map: as many as cover it."""
    return -(-shape[2] // side) * -(-shape[3] // side)


def feature_layer(
    network: nn.Module, place: str, example: Float[Tensor, "image 3 height width"]
) -> tuple[nn.Module, Literal["input", "output"]] | None:
    """The layer of a 'features' tap, and which side of it is told; None where only logits can be told.

    Raises AttarError, with near names, when the network has no layer of this name.
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
    """Within, the list grows by the name of each layer of a known kind that runs, and what it is fed."""
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
    """Whether the network has a layer that a tap of this kind observes."""
    return any(_is_kind(layer, kind) for layer in network.modules())


def _is_kind(layer: nn.Module, kind: Kind) -> bool:
    """Whether a layer is one of those that this kind of tap observes."""
    if kind == "batchnorm":
        return _is_tracked(layer)
    if kind == "tokens":
        return isinstance(layer, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.InstanceNorm2d)
    return kind != "features" and isinstance(layer, nn.Conv2d)


def _channel_axis(layer: nn.Module, num_axes: int) -> int:
    """Of what a layer is fed. LayerNorm2d, of torchvision and of timm, is a LayerNorm over the second axis of maps."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and not type(layer).__name__.endswith("2d"):
        return max(1, num_axes - len(layer.normalized_shape))
    return 1


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
