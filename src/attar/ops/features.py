"""Features: the input of a network's classifier, for networks of any origin."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """Features of some images."""

    values: Float[Tensor, "image feature"]
    fallback: str = ""
    """Why these are logits instead; empty if they are the classifier's input."""


def penultimate(network: nn.Module, images: Float[Tensor, "image 3 height width"]) -> Features:
    """Return the input of the network's last layer in float32, or the logits if that layer is not a linear classifier.

    ``images`` are normalised. The last layer is the layer with weights that is called last. It must be an ``nn.Linear``
    or a 1x1 convolution (as in SqueezeNet) with at least one output per logit; a network of which only some logits are
    used has more. Averages over positions and tokens. Does not change the network.
    """
    return Extractor(network)(images)


def classifier_of(network: nn.Module, images: Float[Tensor, "image 3 height width"]) -> nn.Module | None:
    """Return the network's last layer, as in ``penultimate``; None if it is not a linear classifier."""
    extractor = Extractor(network)
    extractor(images)
    return extractor.classifier


class Extractor:
    """Computes penultimate features batch by batch.

    The first batch runs through the whole network. Later ones stop before the classifier, which saves time with many
    classes; the features are the same.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.classifier: nn.Module | None = None
        """The network's last layer; known after the first batch."""
        self._num_calls = 0

    def __call__(self, images: Float[Tensor, "image 3 height width"]) -> Features:
        """Return the features, as ``penultimate`` does."""
        seen = None if self.classifier is None else self._up_to(self.classifier, images)
        return self._whole(images) if seen is None else Features(pooled(self.classifier, seen))

    def _whole(self, images: Tensor) -> Features:
        calls: list[nn.Module] = []
        last: list[Tensor] = []

        def remember(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls.append(layer)
            last[:] = [inputs[0]] if inputs and isinstance(inputs[0], Tensor) else []

        layers = self._network.modules()
        weighted = [layer for layer in layers if next(layer.parameters(recurse=False), None) is not None]
        handles = [layer.register_forward_pre_hook(remember) for layer in weighted]
        try:
            with torch.no_grad():
                logits = self._network(images)
        finally:
            for handle in handles:
                handle.remove()
        if not last:
            return Features(logits.float(), "no layer with weights was called")
        if _num_outputs(calls[-1]) < logits.shape[1]:
            return Features(logits.float(), f"the last layer, a {type(calls[-1]).__name__}, is not a linear classifier")
        self.classifier, self._num_calls = calls[-1], calls.count(calls[-1])
        return Features(pooled(calls[-1], last[0]))

    def _up_to(self, classifier: nn.Module, images: Tensor) -> Tensor | None:
        """Return the input of the classifier's last call; None if the network calls it less often for this batch."""
        num_calls = 0

        def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal num_calls
            num_calls += 1
            if num_calls == self._num_calls:
                raise _Reached(inputs[0])

        handle = classifier.register_forward_pre_hook(stop)
        try:
            with torch.no_grad():
                self._network(images)
        except _Reached as reached:
            return reached.seen
        finally:
            handle.remove()
        return None


class _Reached(BaseException):
    """Ends a forward pass early. It is not an Exception, because a network could catch that."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen


def pooled(classifier: nn.Module | None, inputs: Tensor) -> Float[Tensor, "image feature"]:
    """Return a classifier's input in float32, averaged over positions or tokens."""
    values = inputs.float()
    if isinstance(classifier, nn.Conv2d):
        return values.mean(dim=(-2, -1))
    return values.flatten(1, -2).mean(dim=1) if values.ndim > 2 else values


def _num_outputs(layer: nn.Module) -> int:
    """Return the number of outputs of a linear classifier; 0 for other layers."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return layer.out_channels
    return 0
