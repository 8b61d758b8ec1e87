"""BatchNorm statistics as a prior on images: the regulariser of DeepInversion (Yin et al., 2020, arXiv 1912.08795)."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn


def tracked_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The network's BatchNorm layers over images that keep running statistics, in order of registration."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
    ]


class StatisticsLoss:
    """Measures how far a batch's statistics are from those that a network's BatchNorm layers keep.

    Used as a context: inside it every forward pass records the input of each layer; ``distance`` sums the layers.
    """

    def __init__(self, network: nn.Module, first_multiplier: float = 1.0) -> None:
        """``first_multiplier`` weighs the first registered layer, all others weigh 1."""
        self._layers = tracked_layers(network)
        self._first_multiplier = first_multiplier
        self._terms: dict[int, Float[Tensor, ""]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for place, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(self._recorder(place, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._terms.clear()

    def distance(self) -> Float[Tensor, ""]:
        """The last forward pass's sum over layers of |mean - running mean|_2 + |variance - running variance|_2.

        Mean and biased variance are taken over images and positions, in float32. Source: SRe2L (arXiv 2306.13092),
        equation 6.
        """
        weights = {place: self._first_multiplier if place == 0 else 1.0 for place in self._terms}
        return torch.stack([weights[place] * term for place, term in sorted(self._terms.items())]).sum()

    def _recorder(self, place: int, layer: nn.BatchNorm2d) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._terms[place] = layer_distance(inputs[0], layer.running_mean, layer.running_var)

        return record


def layer_distance(
    activations: Float[Tensor, "image channel height width"],
    running_mean: Float[Tensor, " channel"] | None,
    running_var: Float[Tensor, " channel"] | None,
) -> Float[Tensor, ""]:
    """Distance of one layer's input from its running statistics."""
    assert running_mean is not None  # tracked_layers saw to it
    assert running_var is not None
    variance, mean = torch.var_mean(activations.float(), dim=(0, 2, 3), correction=0)
    return torch.linalg.vector_norm(mean - running_mean) + torch.linalg.vector_norm(variance - running_var)
