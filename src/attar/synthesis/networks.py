"""Networks whose weights are an argument: a method may use another network in each iteration.

One compiled function serves all of them, because weights are tensors like any other.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.compiling import Amount

Weights = Float[Tensor, " weight"]
"""All parameters of a network as one vector, in the order of ``named_parameters``."""


class Bare:
    """A network without weights of its own; for networks whose layers keep no running statistics."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        """``make`` builds the layers, here without memory for weights and without drawing any. Raises ValueError for a
        network with buffers, such as BatchNorm's."""
        with torch.device("meta"):
            module = make()
        if next(module.buffers(), None) is not None:
            raise ValueError(f"{type(module).__name__} has buffers, which are no part of the weights")
        self._module = module.requires_grad_(False)
        named = list(module.named_parameters())
        self._names = [name for name, _ in named]
        self._shapes = [weight.shape for _, weight in named]
        self._sizes = [weight.numel() for _, weight in named]
        bound, centre = zip(*(_drawn(module, name) for name in self._names), strict=True)
        counts = torch.tensor(self._sizes)
        self._bound, self._centre = (torch.tensor(each).repeat_interleave(counts) for each in (bound, centre))

    @property
    def num_weights(self) -> int:
        """Length of the vector of weights."""
        return sum(self._sizes)

    def __call__(self, weights: Weights, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image out"]:
        """Answer of the network with these weights; differentiable in weights and images."""
        parts = weights.split(self._sizes)
        named = {name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)}
        return torch.func.functional_call(self._module, named, (images,))

    def flat(self, module: nn.Module) -> Weights:
        """Weights of a network of this structure, as one vector."""
        return torch.cat([weight.detach().flatten() for weight in module.parameters()])

    def random(self, stream: torch.Generator) -> Weights:
        """Draw weights as PyTorch does by default, on the CPU: uniform up to 1 / sqrt(fan in), for biases too;
        normalisation layers begin neutral."""
        return (2 * torch.rand(self.num_weights, generator=stream) - 1) * self._bound + self._centre

    def num_features(self, size: tuple[int, int]) -> int:
        """Length of the answer for an image of this height and width."""
        return self._module(torch.zeros(1, 3, *size, device="meta")).shape[1]

    def amount(self, size: tuple[int, int], num_images: float, num_calls: float) -> Amount:
        """Return what ``num_calls`` calls with ``num_images`` images of this height and width in all have to do."""
        layers: list[tuple[int, int]] = []

        def count(layer: nn.Module, _: object, output: Tensor) -> None:
            layers.append((output.numel(), layer.weight[0].numel()))  # type: ignore[index]

        handles = [
            layer.register_forward_hook(count)
            for layer in self._module.modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        self.num_features(size)
        for handle in handles:
            handle.remove()
        operations, values = sum(2.0 * out * fan_in for out, fan_in in layers), float(sum(out for out, _ in layers))
        return Amount(operations * num_images, values * num_images, len(layers), num_calls)


def _drawn(module: nn.Module, name: str) -> tuple[float, float]:
    """Largest deviation and centre of a parameter's first values."""
    layer = module.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return 1 / math.sqrt(layer.weight[0].numel()), 0.0
    return 0.0, float(name.endswith("weight"))
