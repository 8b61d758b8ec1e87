"""Compress soft labels: store all logits in half precision, or the k largest and the total weight of the rest."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.ops.choices import Codec

NOTHING = -3e4
"""Logit of a dropped class: finite, but its softmax probability is 0 at any usual temperature."""
_LARGEST = torch.finfo(torch.float16).max
_LEVELS = 255

Parts = dict[str, Tensor]
"""Encoded logits, by name; the first axis of each tensor is the image."""


def encode(logits: Float[Tensor, "image class"], codec: Codec) -> Parts:
    """Return the logits as they are stored; values outside the range of half precision are clamped."""
    logits = logits.float().clamp(-_LARGEST, _LARGEST)
    if codec.kind == "fp16":
        return {"logits": logits.half()}
    num_classes = logits.shape[1]
    values, classes = logits.topk(codec.kept(num_classes), dim=1)
    parts = {"classes": classes.to(index_type(num_classes))}
    if codec.values == "fp16":
        parts["values"] = values.half()
    else:
        # Round the range first, so that reader and writer use the same steps.
        low, high = values[:, -1:].half(), values[:, :1].half()
        step = (high.float() - low.float()).clamp_min(1e-6) / _LEVELS
        parts["values"] = ((values - low.float()) / step).round().clamp(0, _LEVELS).to(torch.uint8)
        parts["range"] = torch.cat([low, high], 1)
    if codec.remainder == "spread" and classes.shape[1] < num_classes:
        others = logits.scatter(1, classes, -torch.inf)
        share = torch.logsumexp(others / codec.temperature, 1) - math.log(num_classes - classes.shape[1])
        parts["rest"] = (share * codec.temperature).clamp(-_LARGEST, _LARGEST).half()
    return parts


class EncodedLogits:
    """Collects encoded logits of a set of images batch by batch; only one batch of plain logits is in memory."""

    def __init__(self, num_images: int, codec: Codec) -> None:
        self._num_images, self._codec = num_images, codec
        self.parts: Parts = {}
        """The encoded logits, on the CPU; complete after ``put`` was called for every image."""

    def put(self, index: Int[Tensor, " image"], logits: Float[Tensor, "image class"]) -> None:
        """Encode the logits of the images at ``index``, on the logits' device."""
        for key, part in encode(logits, self._codec).items():
            if key not in self.parts:
                self.parts[key] = torch.empty(self._num_images, *part.shape[1:], dtype=part.dtype)
            self.parts[key][index] = part.cpu()


def decode(parts: Parts, num_classes: int) -> Float[Tensor, "image class"]:
    """Return logits for all classes, on the parts' device: half precision if all were stored, else float32.

    A dropped class has the logit ``NOTHING``.
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
    """Return the integer type in which class numbers are stored."""
    if num_classes <= 2**8:
        return torch.uint8
    return torch.int16 if num_classes <= 2**15 else torch.int32
