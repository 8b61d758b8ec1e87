"""Networks whose weights are an argument: one vector in place of all parameters."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from attar.core.errors import AttarError


class Flat:
    """A network without weights of its own: calls take them as one float32 vector, in the order of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.eval().requires_grad_(False)
        self._shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]

    @property
    def num_weights(self) -> int:
        """Length of the vector."""
        return sum(self._sizes)

    def __call__(
        self, weights: Float[Tensor, " weight"], images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image class"]:
        """Return the logits of the network with these weights, differentiable in weights and images."""
        parts = zip(self._shapes.items(), weights.split(self._sizes), strict=True)
        return functional_call(self._module, {name: part.view(shape) for (name, shape), part in parts}, (images,))


def flattened(module: nn.Module) -> Float[Tensor, " weight"]:
    """Return a copy of all parameters as one float32 vector on the CPU, in the order in which ``Flat`` takes them."""
    return torch.cat([parameter.detach().float().reshape(-1).cpu() for parameter in module.parameters()])


def refuse_running_statistics(modules: Sequence[nn.Module], name: str) -> None:
    """Raise AttarError for a network with state that is no parameter, such as BatchNorm's running statistics."""
    if any(True for module in modules for _ in module.buffers()):
        raise AttarError(
            f"{name} keeps running statistics (BatchNorm), which no trajectory of weights contains; use a network with "
            f"InstanceNorm, such as --squeeze.experts.architecture convnet3_in."
        )
