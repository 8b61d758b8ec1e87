"""Soft labels in fewer bytes: all logits in half precision, or the largest few and what is left of the rest."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.ops.choices import Codec

NOTHING = -3e4
"""Stands for a class that was dropped: no share of the softmax at any temperature in use, and yet finite."""
_LARGEST = torch.finfo(torch.float16).max
_LEVELS = 255

Parts = dict[str, Tensor]
"""Encoded logits, by name; the first axis of each tensor is the image."""


def encode(logits: Float[Tensor, "image class"], codec: Codec) -> Parts:
    """Logits as stored; those beyond half precision's range are cut to it."""
    logits = logits.float().clamp(-_LARGEST, _LARGEST)
    if codec.kind == "fp16":
        return {"logits": logits.half()}
    num_classes = logits.shape[1]
    values, classes = logits.topk(codec.kept(num_classes), dim=1)
    parts = {"classes": classes.to(index_type(num_classes))}
    if codec.values == "fp16":
        parts["values"] = values.half()
    else:
        # The ends are rounded first, so that a reader's steps are the writer's.
        low, high = values[:, -1:].half(), values[:, :1].half()
        step = (high.float() - low.float()).clamp_min(1e-6) / _LEVELS
        parts["values"] = ((values - low.float()) / step).round().clamp(0, _LEVELS).to(torch.uint8)
        parts["range"] = torch.cat([low, high], 1)
    if codec.remainder == "spread" and classes.shape[1] < num_classes:
        others = logits.scatter(1, classes, -torch.inf)
        share = torch.logsumexp(others / codec.temperature, 1) - math.log(num_classes - classes.shape[1])
        parts["rest"] = (share * codec.temperature).clamp(-_LARGEST, _LARGEST).half()
    return parts


class Gathered:
    """Encoded logits of a set of images that come in batches, so that no more than a batch of logits is ever held."""

    def __init__(self, num_images: int, codec: Codec) -> None:
        self._num_images, self._codec = num_images, codec
        self.parts: Parts = {}
        """On the CPU; whole when every image was put."""

    def put(self, index: Int[Tensor, " image"], logits: Float[Tensor, "image class"]) -> None:
        """Encode the logits, on the device where they are, of the images at ``index``."""
        for key, part in encode(logits, self._codec).items():
            if key not in self.parts:
                self.parts[key] = torch.empty(self._num_images, *part.shape[1:], dtype=part.dtype)
            self.parts[key][index] = part.cpu()


def decode(parts: Parts, num_classes: int) -> Float[Tensor, "image class"]:
    """Logits of all classes again, on the parts' device: half precision where all were kept, float32 else.

    A class that was dropped has the logit ``NOTHING``.
    """
    if "logits" in parts:
        return parts["logits"]
    classes, values = parts["classes"].long(), parts["values"].float()
    if "range" in parts:
        low, high = parts["range"].float().split(1, dim=1)
        values = low + values * ((high - low).clamp_min(1e-6) / _LEVELS)
    rest = parts["rest"].float()[:, None] if "rest" in parts else values.new_full((len(values), 1), NOTHING)
    return rest.expand(-1, num_classes).scatter(1, classes, values)


def index_type(num_classes: int) -> torch.dtype:
    """The type in which a class is stored."""
    if num_classes <= 2**8:
        return torch.uint8
    return torch.int16 if num_classes <= 2**15 else torch.int32
