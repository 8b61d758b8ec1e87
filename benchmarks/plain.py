"""The recovery loop as the published scripts have it, written out, and how far attar's objective is from it.

SRe2L (Yin et al., 2023, arXiv 2306.13092) and CDA (Yin and Shen, 2023, arXiv 2311.18838). Not taken over are their
prints, and the transfer of the loss to the host in every iteration, which would only slow it down.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from attar.methods.cda import Config
from attar.ops import schedule
from attar.ops.pixels import Normalisation
from attar.ops.views import View
from attar.synthesis.task import Monitor


class FeatureHook:
    """How far the statistics of what a BatchNorm layer was last fed are from its running ones."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        layer.register_forward_hook(self._note)
        self.distance = torch.zeros(())

    def _note(self, layer: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        channels = inputs[0].shape[1]
        mean = inputs[0].mean([0, 2, 3])
        variance = inputs[0].permute(1, 0, 2, 3).contiguous().view(channels, -1).var(1, unbiased=False)
        self.distance = torch.norm(layer.running_var - variance, 2) + torch.norm(layer.running_mean - mean, 2)


class PlainLoop:
    """One unit of images at a time, in float32, image by image and channel by channel in memory."""

    def __init__(self, teacher: nn.Module, config: Config, normalisation: Normalisation) -> None:
        self.network = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.config, self.normalisation = config, normalisation
        self.hooks = [FeatureHook(layer) for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]

    def loss(self, pixels: Float[Tensor, "image 3 height width"], view: View, labels: Int[Tensor, " image"]) -> Tensor:
        """Cross-entropy of one view of all images, and the weighted distances of the BatchNorm layers."""
        seen = tv.resized_crop(pixels, *view.box[0].tolist(), size=list(pixels.shape[-2:]), antialias=False)
        seen = tv.horizontal_flip(seen) if view.flip[0] else seen
        seen = torch.roll(seen, shifts=view.shift[0].tolist(), dims=(2, 3))
        cross_entropy = F.cross_entropy(self.network(seen), labels)
        rescale = [self.config.first_bn_multiplier] + [1.0] * (len(self.hooks) - 1)
        distance = sum(weight * hook.distance for weight, hook in zip(rescale, self.hooks, strict=True))
        return cross_entropy + self.config.bn_weight * distance

    def recover(self, start: Tensor, labels: Tensor, draw_view: Callable[[int], Any], monitor: Monitor) -> Tensor:
        """Optimise the images of one unit from ``start``, both in normalised units."""
        pixels = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=self.config.learning_rate, betas=self.config.betas, eps=1e-8)
        for iteration in range(self.config.iterations):
            for group in optimizer.param_groups:
                group["lr"] = schedule.cosine(self.config.learning_rate, iteration, self.config.iterations)
            loss = self.loss(pixels, draw_view(iteration), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for channel in range(3):
                mean, std = self.normalisation.mean[channel], self.normalisation.std[channel]
                pixels.data[:, channel] = torch.clamp(pixels.data[:, channel], -mean / std, (1 - mean) / std)
            monitor.step(iteration, lambda: pixels.detach())
        return pixels.detach()

    def gradient(self, pixels: Tensor, view: View, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient with respect to the pixels."""
        leaf = pixels.detach().clone().requires_grad_()
        loss = self.loss(leaf, view, labels)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@dataclass(frozen=True)
class Agreement:
    """How far a pixel gradient is from the plain loop's: the worst of all units."""

    loss: float
    """Relative difference of the losses."""
    gradient: float
    """Difference that nine in ten entries of the gradients stay within, relative to the largest entry. The others may
    differ more: where rounding decides on which side of zero a ReLU's input lies, the gradient jumps."""
    cosine: float
    """Cosine similarity of the gradients."""


def agreement(
    plain: PlainLoop,
    gradient: Callable[..., Any],
    own: tuple[Any, Any],
    pixels: Tensor,
    view: View,
    labels: Tensor,
    sizes: Sequence[int],
) -> Agreement:
    """Compare ``gradient``, which is ``pixel_gradient`` of an objective, for units of ``sizes`` images.

    ``own`` are the constants and the states of the objective's terms; ``view`` has a view for each unit.
    """
    counts = torch.tensor(sizes, device=pixels.device)
    unit_of = torch.arange(len(counts), device=pixels.device).repeat_interleave(counts)
    average = F.one_hot(unit_of, len(counts)).T / counts[:, None]
    records, size = view.to(pixels.device).parts(), tuple(pixels.shape[-2:])
    ours, metrics, *_ = gradient(pixels, records, size, labels, average, *own)
    found: list[tuple[float, float, float]] = []
    for place, count in enumerate(sizes):
        unit = slice(sum(sizes[:place]), sum(sizes[:place]) + count)
        loss, theirs = plain.gradient(pixels[unit], view.take(slice(place, place + 1)), labels[unit])
        apart = (ours[unit] - theirs).abs().flatten()
        nearly_all = apart.kthvalue(9 * len(apart) // 10).values / theirs.abs().max()
        cosine = F.cosine_similarity(ours[unit].double().flatten(), theirs.double().flatten(), dim=0)
        found.append((abs(float(metrics["loss"][place] / loss) - 1), float(nearly_all), float(cosine)))
    losses, gradients, cosines = zip(*found, strict=True)
    return Agreement(max(losses), max(gradients), min(cosines))
