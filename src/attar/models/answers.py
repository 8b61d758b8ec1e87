"""What a network returns: logits, something that holds them, or the true reason why there are none."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.errors import AttarError, first_line
from attar.core.randomness import seeded

_SIZES = (28, 32, 64, 96, 128, 224, 256, 299, 384)
"""Sides in pixels that are tried when a network fails at the wanted one, so that the sentence names one that works."""
_TOLERANCE = 1e-3
"""By how much probabilities may miss a sum of 1."""


class Logits(nn.Module):
    """Wraps a caller's network that returns more than logits, and keeps the logits."""

    def __init__(self, network: nn.Module, place: str | int | None) -> None:
        """``place`` is the attribute, key or index of the logits in what ``network`` returns; None: it is they."""
        super().__init__()
        self.network = network
        self.place = place

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        return _at(self.network(images), self.place).flatten(1)


def understood(module: nn.Module, num_classes: int, image_size: int) -> nn.Module:
    """A network that returns float32 logits alone: the same one where it does, else around it or a float32 copy.

    Takes the logits out of a tuple, a mapping or an object where only one tensor can be meant. Raises AttarError with
    the true reason where the network has no logits for two images of ``image_size`` pixels, or returns probabilities.
    """
    if isinstance(module, Logits):
        return module
    name = type(module).__name__
    network = _in_float32(module)
    answer = probe(network, image_size, name)
    place = _place_of(answer, num_classes, name)
    logits = _at(answer, place)
    if are_probabilities(logits.flatten(1)):
        raise ends_in_softmax(name)
    return network if place is None and logits.ndim == 2 else Logits(network, place)


def are_probabilities(answer: Float[Tensor, "image class"]) -> bool:
    """Whether every row is non-negative and sums to 1."""
    if answer.shape[1] < 2 or not bool((answer >= 0).all()):
        return False
    return bool(((answer.double().sum(1) - 1).abs() < _TOLERANCE).all())


def ends_in_softmax(name: str) -> AttarError:
    """The error for a network that returns probabilities: soft labels made of them would be flat."""
    return AttarError(
        f"{name} returns probabilities, for its outputs sum to 1 on every image (it ends in softmax); "
        "return the logits, as they are before the softmax."
    )


def unfit(name: str, image_size: int, reason: object, works: int | None = None) -> AttarError:
    """The error for a network that takes images, but none of this side; ``works`` is a side that it takes."""
    other = f" ({works}, say)" if works else ""
    return AttarError(
        f"{name} cannot take {image_size} x {image_size} images ({first_line(reason)}); "
        f"choose another --data.size{other} or network."
    )


def probe(module: nn.Module, image_size: int, name: str) -> Any:
    """What a copy of the network returns for two grey images on the CPU, in evaluation mode.

    Raises AttarError, for a network of this ``name``, with the reason why it cannot take them.
    """
    try:
        network = copy.deepcopy(module).cpu().eval()
    except Exception as error:  # whatever a network of any origin keeps
        raise AttarError(
            f"{name} cannot be copied ({first_line(error)}); keep no results of earlier calls in the module."
        ) from error
    try:
        return _run(network, 3, image_size)
    except Exception as error:  # whatever a network of any origin raises
        if channels := next((count for count in (1, 4) if _runs(network, count, image_size)), 0):
            raise AttarError(
                f"{name} takes images of {channels} channel{'s' * (channels > 1)}, and attar's have 3 (RGB); "
                "give it a first layer of 3 channels, or wrap it in a module that converts the images."
            ) from error
        works = next((size for size in _SIZES if size != image_size and _runs(network, 3, size)), None)
        if works is None and (side := _patch_side(network)) and image_size % side:
            fitting = max(1, round(image_size / side)) * side
            raise AttarError(
                f"{name} cuts images into patches of {side} x {side} pixels, and images of {image_size} x {image_size} "
                f"pixels are no whole number of them; use --data.size {fitting}, or another network."
            ) from error
        if works is None:
            raise AttarError(
                f"{name} fails on images of {image_size} and of {', '.join(map(str, _SIZES))} pixels "
                f"({first_line(error)}); it must take a float32 tensor of images x 3 x height x width."
            ) from error
        raise unfit(name, image_size, error, works) from error


def _patch_side(network: nn.Module) -> int:
    """Side in pixels of the patches into which a vision transformer cuts an image; 0 where the network cuts none."""
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
    """Where the logits are in an answer for two images; None: it is they."""
    if isinstance(answer, Tensor):
        if not _are_logits(answer, num_classes):
            raise other_shape(answer, num_classes, name)
        return None
    entries = _entries(answer)
    if _are_logits(entries.get("logits"), num_classes):
        return "logits"
    found = [place for place, value in entries.items() if _are_logits(value, num_classes)]
    if len(found) == 1:
        return found[0]
    many = f"{len(found)} of them may be the logits" if found else f"none of them has {num_classes} outputs per image"
    raise AttarError(
        f"{name} returns {described(answer)}, and {many}; wrap it in a module that returns the logits alone."
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
    """An answer in words: its type and what it holds."""
    if not (entries := _entries(answer)):
        return f"a {type(answer).__name__}"
    parts = [
        f"{place}: {list(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for place, value in list(entries.items())[:6]
    ]
    return f"a {type(answer).__name__} ({', '.join(parts)})"


def other_shape(answer: Tensor, num_classes: int, name: str) -> AttarError:
    """The error for a tensor that is not one row of ``num_classes`` logits for each of two images."""
    shape = list(answer.shape)
    if answer.ndim == 2 and shape[0] == 2:
        return AttarError(
            f"{name} has {shape[1]} outputs and the data {num_classes} classes (2 images give {shape}, not "
            f"{[2, num_classes]}); give a network of these classes."
        )
    return AttarError(
        f"{name} returns a tensor of another shape than logits (2 images give {shape}, not {[2, num_classes]}); "
        "return one row of logits per image."
    )
