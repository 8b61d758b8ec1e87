"""BatchNorm statistics as a prior on images: the regulariser of DeepInversion (Yin et al., 2020, arXiv 1912.08795).

In evaluation mode BatchNorm is an affine map, so measuring a batch changes nothing that flows through the network and
each image can be measured alone: its mean and mean square per channel. The statistics of any group of images are then
averages of a few numbers, so many units of work go through the teacher in one batch, each with statistics of its own.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Moments = Float[Tensor, "image channel"]


def tracked_layers(network: nn.Module) -> list[nn.Module]:
    """The network's BatchNorm layers over images that keep running statistics, in order of registration.

    Subclasses such as timm's ``BatchNormAct2d`` are among them.
    """
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)
        and layer.running_mean is not None
        and layer.running_var is not None
    ]


class Observed(nn.Module):
    """A frozen copy of a network that tells, beside its logits, the moments of what its BatchNorm layers are fed.

    Made for gradients with respect to images: weights are frozen, memory is channels-last, weights of convolutions and
    linear layers are in the working precision, and each plain BatchNorm layer is folded into one affine map. Moments
    are float32 whatever the precision, and taken about the running mean, so that none is lost to cancellation.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Float[Tensor, "image 3 height width"],
        precision: Literal["fp32", "bf16"] = "fp32",
        first_multiplier: float = 1.0,
    ) -> None:
        """``example`` is run once, to learn which layers take part; the first registered one weighs
        ``first_multiplier``, all others 1."""
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        layers = tracked_layers(self.network)
        self._seen: dict[int, tuple[Moments, Moments]] = {}
        for place, layer in enumerate(layers):
            _observe(layer, place, self._seen)
        if precision == "bf16":
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._places: list[int] = []
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _answers(self.network) as sizes:
            self._run(example)
        self.operations = 2 * counter.get_total_flops() / len(example)
        """Floating-point operations of an image's way forth and back."""
        self.num_layers = len(sizes)
        """Convolutions and linear layers, each as often as it is used."""
        self.num_values = sum(sizes) / len(example)
        """What these layers answer to one image: numbers that everything between them reads and writes again."""
        self._places = sorted(self._seen)
        self._seen.clear()
        taking_part = [layers[place] for place in self._places]
        variances: Any = [layer.running_var for layer in taking_part]
        self.running_var: Tensor
        self.register_buffer("running_var", torch.cat(variances).float() if variances else example.new_zeros(0))
        self.layer_of: Tensor  # channel by layer, 1 where the channel is the layer's
        self.register_buffer("layer_of", torch.block_diag(*(torch.ones_like(v)[:, None] for v in variances)).float())
        weights = [first_multiplier if place == 0 else 1.0 for place in self._places]
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights, device=example.device))
        self.sees_first = self._places[:1] == [0]
        """Whether the network's first BatchNorm layer takes part."""
        self.narrow = any(len(variance) % 32 for variance in variances)

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> tuple[Float[Tensor, "image class"], Moments, Moments]:
        """Logits, means about the running mean, and mean squares about it, the channels of all layers in a row."""
        logits = self._run(images)
        firsts, seconds = zip(*(self._seen[place] for place in self._places), strict=True)
        self._seen.clear()
        return logits.float(), torch.cat(firsts, 1), torch.cat(seconds, 1)

    def distance(self, firsts: Float[Tensor, "unit channel"], seconds: Float[Tensor, "unit channel"]) -> Tensor:
        """Each unit's sum over layers of |mean - running mean|_2 + |variance - running variance|_2.

        ``firsts`` and ``seconds`` are averages of the moments over the unit's images; the variance is the biased one.
        Source: SRe2L (arXiv 2306.13092), equation 6.
        """
        away = seconds - firsts.square() - self.running_var
        norms = [(part.square() @ self.layer_of).clamp_min(1e-30).sqrt() for part in (firsts, away)]
        return (norms[0] + norms[1]) @ self.weights

    def _run(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            return self.network(images)


class Measure(torch.autograd.Function):
    """The moments of each image, about a centre, and the image features as they came.

    The gradient of a moment is linear in the features, so one pass over them serves all three outputs.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, centre: Tensor) -> tuple[Tensor, Moments, Moments]:
        ctx.save_for_backward(features, centre)
        return features.view_as(features), *_moments(features, centre)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, centre = ctx.saved_tensors
        passed, first, second = gradients
        return (passed.float() + _pulled(features, centre, first, second)).to(features.dtype), None


class MeasuredAffine(torch.autograd.Function):
    """The same, and the features after an affine map per channel, which is BatchNorm in evaluation mode."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, centre: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Moments, Moments]:
        ctx.save_for_backward(features, centre, scale)
        mapped = (features.float() * scale[:, None, None] + shift[:, None, None]).to(features.dtype)
        return mapped, *_moments(features, centre)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, centre, scale = ctx.saved_tensors
        mapped, first, second = gradients
        slope = mapped.float() * scale[:, None, None] + _pulled(features, centre, first, second)
        return slope.to(features.dtype), None, None, None


class _Folded(nn.BatchNorm2d):
    """BatchNorm in evaluation mode as one affine map, which notes the moments of its input."""

    def forward(self, input: Tensor) -> Tensor:
        mapped, *moments = MeasuredAffine.apply(input, self.running_mean, self.scale, self.shift)  # type: ignore[misc]
        self.seen[self.place] = tuple(moments)  # type: ignore[operator]
        return mapped


def _observe(layer: Any, place: int, seen: dict[int, tuple[Moments, Moments]]) -> None:
    if type(layer) is not nn.BatchNorm2d:  # a kind of its own, which may do more than normalise
        layer.register_forward_pre_hook(_noting(place, seen))
        return
    folded: Any = layer
    scale = torch.rsqrt(folded.running_var.double() + folded.eps)
    shift = -folded.running_mean.double() * scale
    if folded.weight is not None:
        scale, shift = scale * folded.weight.double(), shift * folded.weight.double()
    if folded.bias is not None:
        shift = shift + folded.bias.double()
    folded.__class__ = _Folded
    folded.register_buffer("scale", scale.float())
    folded.register_buffer("shift", shift.float())
    folded.seen, folded.place = seen, place


@contextlib.contextmanager
def _answers(network: nn.Module) -> Iterator[list[int]]:
    """Within, the list grows by the number of values whenever a convolution or linear layer answers."""
    sizes: list[int] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(lambda *found: sizes.append(found[2].numel())) for layer in layers]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _noting(place: int, seen: dict[int, tuple[Moments, Moments]]) -> Any:
    def note(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *moments = Measure.apply(inputs[0], layer.running_mean)  # type: ignore[misc]
        seen[place] = tuple(moments)  # type: ignore[assignment]
        return (features, *inputs[1:])

    return note


def _moments(features: Tensor, centre: Tensor) -> tuple[Moments, Moments]:
    away = features.float() - centre[:, None, None]
    return away.mean((2, 3)), away.square().mean((2, 3))


def _pulled(features: Tensor, centre: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What the gradients of the two moments ask of the features."""
    positions = features.shape[2] * features.shape[3]
    slope = second * (2 / positions)
    offset = first / positions - slope * centre
    return features.float() * slope[:, :, None, None] + offset[:, :, None, None]
