"""Check what a network returns, and take the logits out of it; errors name the real reason why that fails."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.errors import AttarError, first_line
from attar.core.randomness import seeded

_SIZES = (28, 32, 64, 96, 128, 224, 256, 299, 384)
"""Image sizes in pixels to try if a network fails at the given one, so that the error can name a size that works."""
_TOLERANCE = 1e-3
"""Tolerance for the sum of probabilities."""


class Logits(nn.Module):
    """Wraps a network that returns more than logits; returns only the logits."""

    def __init__(self, network: nn.Module, place: str | int | None) -> None:
        """``place`` is the attribute, key or index of the logits in the network's output; None: the output itself."""
        super().__init__()
        self.network = network
        self.place = place

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        return _at(self.network(images), self.place).flatten(1)


def logits_only(module: nn.Module, num_classes: int, image_size: int) -> nn.Module:
    """Return a network that returns only float32 logits: ``module`` itself, a wrapper around it, or a float32 copy.

    Takes the logits out of a tuple, a mapping or an object if only one tensor in it has their shape. Raises AttarError
    with the reason if the network returns no logits for two images of ``image_size`` pixels, or returns probabilities.
    """
    if isinstance(module, Logits):
        return module
    name = type(module).__name__
    network = _in_float32(module)
    answer = probe(network, image_size, name)
    place = _place_of(answer, num_classes, name)
    logits = _at(answer, place)
    if are_probabilities(logits.flatten(1)):
        raise softmax_error(name)
    return network if place is None and logits.ndim == 2 else Logits(network, place)


def are_probabilities(answer: Float[Tensor, "image class"]) -> bool:
    """Return whether every row is non-negative and sums to 1."""
    if answer.shape[1] < 2 or not bool((answer >= 0).all()):
        return False
    return bool(((answer.double().sum(1) - 1).abs() < _TOLERANCE).all())


def softmax_error(name: str) -> AttarError:
    """Return the error for a network that returns probabilities; used as logits they would make flat soft labels."""
    return AttarError(
        f"{name} returns probabilities (its outputs sum to 1 on every image, as after a softmax); return the logits "
        "before the softmax."
    )


def size_error(name: str, image_size: int, reason: object, works: int | None = None) -> AttarError:
    """Return the error for a network that cannot take images of this size; ``works`` is a size that it can take."""
    other = f" (for example {works})" if works else ""
    return AttarError(
        f"{name} cannot take {image_size} x {image_size} images ({first_line(reason)}); "
        f"choose another --data.size{other} or network."
    )


def probe(module: nn.Module, image_size: int, name: str) -> Any:
    """Return the output of a copy of the network for two black images, on the CPU and in evaluation mode.

    Raises AttarError with the reason if the network cannot take them; ``name`` is for the error.
    """
    try:
        network = copy.deepcopy(module).cpu().eval()
    except Exception as error:  # outside code may raise anything
        raise AttarError(
            f"{name} cannot be copied ({first_line(error)}); do not store results of earlier calls in the module."
        ) from error
    try:
        return _run(network, 3, image_size)
    except Exception as error:  # outside code may raise anything
        if channels := next((count for count in (1, 4) if _runs(network, count, image_size)), 0):
            raise AttarError(
                f"{name} takes images of {channels} channel{'s' * (channels > 1)}, but attar's have 3 (RGB); "
                "give it a first layer with 3 channels, or wrap it in a module that converts the images."
            ) from error
        works = next((size for size in _SIZES if size != image_size and _runs(network, 3, size)), None)
        if works is None and (side := _patch_side(network)) and image_size % side:
            fitting = max(1, round(image_size / side)) * side
            raise AttarError(
                f"{name} cuts images into patches of {side} x {side} pixels, but images of {image_size} x {image_size} "
                f"pixels cannot be divided into them; use --data.size {fitting}, or another network."
            ) from error
        if works is None:
            raise AttarError(
                f"{name} fails on images of {image_size} and of {', '.join(map(str, _SIZES))} pixels "
                f"({first_line(error)}); it must take a float32 tensor of images x 3 x height x width."
            ) from error
        raise size_error(name, image_size, error, works) from error


def _patch_side(network: nn.Module) -> int:
    """Return the side of a vision transformer's patches in pixels; 0 for networks without patches."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    cuts = first is not None and first.kernel_size == first.stride and first.padding in ((0, 0), "valid")
    return first.stride[0] if first is not None and cuts else 0


def _run(network: nn.Module, channels: int, image_size: int) -> Any:
    with torch.no_grad(), seeded(0):
        return network(torch.zeros(2, channels, image_size, image_size))


def _runs(network: nn.Module, channels: int, image_size: int) -> bool:
    try:
        _run(network, channels, image_size)
    except Exception:  # as above
        return False
    return True


def _in_float32(module: nn.Module) -> nn.Module:
    kept = [*module.parameters(), *module.buffers()]
    other = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in kept)
    return copy.deepcopy(module).float() if other else module


def _place_of(answer: Any, num_classes: int, name: str) -> str | int | None:
    """Return where the logits are in an output for two images; None if the output is the logits."""
    if isinstance(answer, Tensor):
        if not _are_logits(answer, num_classes):
            raise shape_error(answer, num_classes, name)
        return None
    entries = _entries(answer)
    if _are_logits(entries.get("logits"), num_classes):
        return "logits"
    found = [place for place, value in entries.items() if _are_logits(value, num_classes)]
    if len(found) == 1:
        return found[0]
    many = f"{len(found)} of them may be the logits" if found else f"none of them has {num_classes} outputs per image"
    raise AttarError(
        f"{name} returns {described(answer)}, and {many}; wrap it in a module that returns only the logits."
    )


def _are_logits(value: object, num_classes: int) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return tuple(value.shape) in ((2, num_classes), (2, num_classes, 1, 1))


def _entries(answer: Any) -> dict[str | int, Any]:
    if isinstance(answer, Mapping):
        return {key: answer[key] for key in answer if isinstance(key, str | int)}
    if isinstance(answer, tuple | list):
        named = getattr(answer, "_fields", None)
        return dict(zip(named or range(len(answer)), answer, strict=True))
    known = dict(getattr(answer, "__dict__", {}))
    return known | {"logits": answer.logits} if hasattr(answer, "logits") else known


def _at(answer: Any, place: str | int | None) -> Tensor:
    if place is None:
        return answer
    if isinstance(answer, Mapping) or isinstance(place, int):
        return answer[place]
    return getattr(answer, place)


def described(answer: Any) -> str:
    """Describe an output: its type and its entries."""
    if not (entries := _entries(answer)):
        return f"a {type(answer).__name__}"
    parts = [
        f"{place}: {list(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for place, value in list(entries.items())[:6]
    ]
    return f"a {type(answer).__name__} ({', '.join(parts)})"


def shape_error(answer: Tensor, num_classes: int, name: str) -> AttarError:
    """Return the error for a tensor that is not one row of ``num_classes`` logits for each of two images."""
    shape = list(answer.shape)
    if answer.ndim == 2 and shape[0] == 2:
        return AttarError(
            f"{name} has {shape[1]} outputs, but the data have {num_classes} classes (2 images give {shape}, not "
            f"{[2, num_classes]}); use a network with these classes."
        )
    return AttarError(
        f"{name} returns a tensor with the wrong shape for logits (2 images give {shape}, not {[2, num_classes]}); "
        "return one row of logits per image."
    )
