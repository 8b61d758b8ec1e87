"""Features: what a network's classifier sees of an image, for networks of any origin."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """Features of some images."""

    values: Float[Tensor, "image feature"]
    fallback: str = ""
    """Why these are logits; empty when they are the classifier's input."""


def penultimate(network: nn.Module, images: Float[Tensor, "image 3 height width"]) -> Features:
    """Input of the network's last layer, float32, or the logits where that is no linear classifier.

    ``images`` are normalised. The last layer is the one with weights that is called last; it must be an ``nn.Linear``
    or a convolution of 1x1 (as SqueezeNet's) with an output for every logit at least, for a network of which only some
    logits are taken has more. Places and tokens are averaged. Nothing of the network is changed.
    """
    called: list[tuple[nn.Module, Tensor]] = []

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        called[:] = [(layer, inputs[0])] if inputs and isinstance(inputs[0], Tensor) else []

    weighted = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    handles = [layer.register_forward_pre_hook(remember) for layer in weighted]
    try:
        with torch.no_grad():
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        return Features(logits.float(), "no layer with weights was seen at work")
    layer, inputs = called[0]
    num_outputs = _num_outputs(layer)
    if num_outputs < logits.shape[1]:
        return Features(logits.float(), f"the last layer, a {type(layer).__name__}, is no linear classifier")
    values = inputs.float()
    if isinstance(layer, nn.Conv2d):
        return Features(values.mean(dim=(-2, -1)))
    return Features(values.flatten(1, -2).mean(dim=1) if values.ndim > 2 else values)


def _num_outputs(layer: nn.Module) -> int:
    """Of a linear classifier; 0 for other layers."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return layer.out_channels
    return 0
