"""Run a frozen network on images and return its logits and the moments (mean, mean square) of its layers' inputs.

DeepInversion (Yin et al., 2020, arXiv 1912.08795) introduced statistics as a prior on images; G-VBSM (Shao et al.,
2024, arXiv 2311.17950) extended them to convolutions and patches. In evaluation mode BatchNorm is an affine map, so
measuring a batch does not change the network's outputs, and each image can be measured alone: its mean and mean square
per channel. The statistics of a group of images are averages of these numbers. Many units can therefore share one batch
of the teacher, each with its own statistics.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attar.core.errors import AttarError
from attar.ops.features import pooled
from attar.synthesis.taps import NAMES, Moments, Site, Tap, feature_layer, layout_of, side_of, sites_of

BATCHNORM = Tap("batchnorm")


class Observed(nn.Module):
    """A frozen copy of a network that returns logits, the moments of each tap, and features.

    It is made for gradients with respect to images: weights are frozen, memory is channels-last, and weights of
    convolutions and linear layers are in the working precision. With a 'batchnorm' tap, each plain BatchNorm layer is
    folded into one affine map. Moments are always float32. Moments of BatchNorm layers are taken about the running
    mean, to avoid cancellation.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Float[Tensor, "image 3 height width"],
        precision: Literal["fp32", "bf16"] = "fp32",
        taps: Sequence[Tap] = (BATCHNORM,),
    ) -> None:
        """Run ``example`` once to find the layers that take part.

        One tap may find no layer, such as BatchNorm in an AlexNet. Raises AttarError when no tap finds a layer.
        """
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.device = example.device
        """Device of the images."""
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._taps = tuple(dict.fromkeys(taps))
        self._seen: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._outputs: dict[int, Tensor] = {}
        sites = sites_of(self.network, example, self._taps)
        if sites and not any(sites.values()):
            names = " or ".join(dict.fromkeys(NAMES[tap.kind] for tap in sites))
            raise AttarError(f"The teacher has no {names} to observe; choose another network or --recover.observe.")
        self.layouts = {tap: layout_of(self.network, tap, found) for tap, found in sites.items()}
        """Layout of each tap's moments: its layers and their channels."""
        self._keys = self._observe(sites)
        self._features = {
            tap: self._record(place, feature_layer(self.network, tap.place, example))
            for place, tap in enumerate(self._taps)
            if tap.kind == "features"
        }
        if precision == "bf16":
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _answers(self.network) as answered:
            self._run(example)
        self._seen.clear()
        self._outputs.clear()
        self.operations = 2 * counter.get_total_flops() / len(example)
        """Floating-point operations of the forward and backward pass of one image."""
        self.num_layers = len(answered)
        """Number of calls of convolutions and linear layers."""
        self.num_values = sum(answered) / len(example)
        """Output values of these layers for one image; the layers between them read and write as many again."""
        channels = [layout.sizes for tap, layout in self.layouts.items() if tap.kind != "patches"]
        self.narrow = any(size % 32 for sizes in channels[:1] for size in sizes)
        """Whether the first tap has layers with fewer channels than the widest vector instructions have lanes."""

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> tuple[Float[Tensor, "image class"], dict[Tap, Moments], dict[Tap, Tensor]]:
        """Return the logits, the moments of each tap (all its layers' channels in a row), and features by tap."""
        logits = self._run(images)
        moments: dict[Tap, Moments] = {}
        for tap, keys in self._keys.items():
            found = [self._seen[key] for key in keys] or [(logits.new_zeros(len(logits), 0).float(),) * 2]
            firsts, seconds = zip(*found, strict=True)
            moments[tap] = Moments(torch.cat(firsts, 1), torch.cat(seconds, 1))
        features = {tap: logits if place is None else self._outputs[place] for tap, place in self._features.items()}
        self._seen.clear()
        self._outputs.clear()
        return logits.float(), moments, {tap: values.float() for tap, values in features.items()}

    @torch.no_grad()
    def refresh(self, network: nn.Module) -> None:
        """Copy the weights and statistics of a network of the same structure, in place.

        Functions that were compiled for this network use the new weights.
        """
        own = self.network.state_dict(keep_vars=True)
        for name, tensor in network.state_dict().items():
            own[name].copy_(tensor)
        for layer in self.network.modules():
            if isinstance(layer, _Folded):
                _fold(layer)

    def _run(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            return self.network(images)

    def _observe(self, sites: dict[Tap, tuple[Site, ...]]) -> dict[Tap, list[tuple[str, int]]]:
        """Make each layer record its moments once; returns where each tap's moments are found, layer by layer."""
        layers: dict[str, Any] = dict(self.network.named_modules())
        keys: dict[Tap, list[tuple[str, int]]] = {}
        noted: set[tuple[str, int]] = set()
        for tap, found in sites.items():
            side = side_of(tap) if tap.kind == "patches" else 0
            keys[tap] = []
            for site in found:
                key = (site.name if side else site.twin, side)
                keys[tap].append(key)
                if key in noted:
                    continue
                noted.add(key)
                layer = layers[key[0]]
                if side:
                    layer.register_forward_pre_hook(_noting_patches(key, self._seen, side, site.shape))
                elif type(layer) is nn.BatchNorm2d:
                    _begin_folding(layer, self._seen, key)
                else:  # another kind of BatchNorm, which may do more than normalise, or no BatchNorm
                    layer.register_forward_pre_hook(_noting(key, self._seen, site))
        return keys

    def _record(self, place: int, found: tuple[nn.Module, Literal["input", "output"]] | None) -> int | None:
        """Make a layer record its input, averaged over positions, or its output; None if only logits can be
        returned."""
        if found is None:
            return None
        layer, end = found
        if end == "input":
            layer.register_forward_pre_hook(_recording_input(place, self._outputs))
        else:
            layer.register_forward_hook(_recording_output(place, self._outputs))
        return place


class Measure(torch.autograd.Function):
    """Return the moments of each image about a centre, and the unchanged image features.

    The gradient of a moment is linear in the features, so one pass over them computes all three outputs.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, centre: Tensor | None, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(features, centre)
        ctx.axis = axis
        return features.view_as(features), *_moments(features, centre, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, centre = ctx.saved_tensors
        passed, first, second = gradients
        return (passed.float() + _pulled(features, centre, first, second, ctx.axis)).to(features.dtype), None, None


class MeasuredAffine(torch.autograd.Function):
    """Return the moments, and the features after an affine map per channel (BatchNorm in evaluation mode)."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, centre: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(features, centre, scale)
        mapped = (features.float() * scale[:, None, None] + shift[:, None, None]).to(features.dtype)
        return mapped, *_moments(features, centre, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, centre, scale = ctx.saved_tensors
        mapped, first, second = gradients
        slope = mapped.float() * scale[:, None, None] + _pulled(features, centre, first, second, 1)
        return slope.to(features.dtype), None, None, None


class _Folded(nn.BatchNorm2d):
    """BatchNorm in evaluation mode as one affine map that records the moments of its input."""

    def forward(self, input: Tensor) -> Tensor:
        mapped, *moments = MeasuredAffine.apply(input, self.running_mean, self.scale, self.shift)  # type: ignore[misc]
        self.seen[self.key] = tuple(moments)  # type: ignore[operator]
        return mapped


def _begin_folding(layer: Any, seen: dict[tuple[str, int], tuple[Tensor, Tensor]], key: tuple[str, int]) -> None:
    """Turn a plain BatchNorm layer into one affine map that records the moments of its input."""
    layer.__class__ = _Folded
    layer.register_buffer("scale", torch.empty_like(layer.running_var, dtype=torch.float32))
    layer.register_buffer("shift", torch.empty_like(layer.running_var, dtype=torch.float32))
    layer.seen, layer.key = seen, key
    _fold(layer)


def _fold(layer: Any) -> None:
    """Recompute the affine map of a folded BatchNorm layer."""
    scale = torch.rsqrt(layer.running_var.double() + layer.eps)
    shift = -layer.running_mean.double() * scale
    if layer.weight is not None:
        scale, shift = scale * layer.weight.double(), shift * layer.weight.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    layer.scale.copy_(scale)
    layer.shift.copy_(shift)


@contextlib.contextmanager
def _answers(network: nn.Module) -> Iterator[list[int]]:
    """Inside the context, append the number of output values of each call of a convolution or linear layer to the
    list."""
    sizes: list[int] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(lambda *found: sizes.append(found[2].numel())) for layer in layers]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _noting(key: tuple[str, int], seen: dict[tuple[str, int], tuple[Tensor, Tensor]], site: Site) -> Any:
    def note(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        centre = layer.running_mean if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm) else site.centre
        features, *moments = Measure.apply(inputs[0], centre, site.axis)  # type: ignore[misc]
        seen[key] = tuple(moments)  # type: ignore[assignment]
        return (features, *inputs[1:])

    return note


def _recording_input(place: int, outputs: dict[int, Tensor]) -> Any:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        outputs[place] = pooled(layer, inputs[0])

    return record


def _recording_output(place: int, outputs: dict[int, Tensor]) -> Any:
    def record(_: nn.Module, __: Any, answer: Tensor) -> None:
        outputs[place] = answer

    return record


def _noting_patches(
    key: tuple[str, int], seen: dict[tuple[str, int], tuple[Tensor, Tensor]], side: int, shape: tuple[int, ...]
) -> Any:
    """Return a hook that records the moments of the patches of feature maps of this shape."""
    whole = [-(-length // side) * side for length in shape[2:]]
    matrices = [_stretch(*lengths) for lengths in zip(shape[2:], whole, strict=True)]

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].float()
        for axis, matrix in enumerate(matrices):
            if matrix is not None:
                matrix = matrices[axis] = matrix.to(maps.device)
                maps = matrix @ maps if axis == 0 else maps @ matrix.T
        firsts, seconds = maps.mean(1, keepdim=True), maps.square().mean(1, keepdim=True)
        seen[key] = F.avg_pool2d(firsts, side).flatten(1), F.avg_pool2d(seconds, side).flatten(1)

    return note


def _stretch(length: int, whole: int) -> Tensor | None:
    """Return bilinear resizing along one axis as a matrix, whose gradient is deterministic; None if sizes are equal."""
    if length == whole:
        return None
    return F.interpolate(torch.eye(length)[None], size=whole, mode="linear")[0].T.contiguous()


def _moments(features: Tensor, centre: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    away = features.float()
    if centre is not None:
        away = away - centre[_spread(features, axis)[1:]]
    others = [other for other in range(1, features.ndim) if other != axis]
    return (away.mean(others), away.square().mean(others)) if others else (away, away.square())


def _pulled(features: Tensor, centre: Tensor | None, first: Tensor, second: Tensor, axis: int) -> Tensor:
    """Return the gradient with respect to the features, from the gradients of the two moments."""
    positions = features[0].numel() // features.shape[axis]
    slope = second * (2 / positions)
    offset = first / positions if centre is None else first / positions - slope * centre
    spread = _spread(features, axis)
    return features.float() * slope[spread] + offset[spread]


def _spread(features: Tensor, axis: int) -> tuple[slice | None, ...]:
    """Return an index that broadcasts a value per image and channel to the axes of the features."""
    return tuple(slice(None) if each in (0, axis) else None for each in range(features.ndim))
