"""Check the tensors of a label file: names, types, shapes and value ranges."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.ops import augment, dsa
from attar.ops import codec as codecs
from attar.ops.choices import PLAIN, Storage
from attar.ops.codec import Codec
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice

_HALF = torch.float16


@dataclass(frozen=True)
class Form:
    """The names, types and shapes of the tensors of a label store."""

    num_images: int
    num_classes: int
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    codec: Codec
    views: LookChoice
    mix: MixChoice
    storage: Storage = PLAIN

    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return the type of every tensor and the shape of one record in it."""
        found = {"box": (torch.int16, (4,)), "flip": (torch.uint8, ())}
        if self.views.patch_shuffle > 1:
            found["patches"] = (torch.uint8, (self.views.patch_shuffle**2,))
        if self.views.randaugment_ops:
            found["changes"] = (torch.int8, (self.views.randaugment_ops, 2))
        if self.views.dsa:
            found["siamese"] = (torch.int8, (dsa.NUM_LEVELS,))
        if self.storage.factor > 1:
            found["part"] = (torch.uint8, ())
        if self.mix.kind != "none":
            found |= {"partner": (torch.int32, ()), "mix_weight": (torch.float32, ())}
        if self.mix.kind == "cutmix":
            found["mix_box"] = (torch.int16, (4,))
        return found | self._logits()

    def _logits(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        codec, kept = self.codec, self.codec.kept(self.num_classes)
        if codec.kind == "fp16":
            return {"logits": (_HALF, (kept,))}
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        found["classes"] = (codecs.index_type(self.num_classes), (kept,))
        found["values"] = (torch.uint8 if codec.values == "int8" else _HALF, (kept,))
        if codec.values == "int8":
            found["range"] = (_HALF, (2,))
        if codec.remainder == "spread" and kept < self.num_classes:
            found["rest"] = (_HALF, ())
        return found

    def fault(self, parts: Mapping[str, Tensor], num_epochs: int) -> str:
        """Return in a few words what is wrong with the tensors of a file of ``num_epochs`` epochs; '' if nothing is."""
        due = self.tensors()
        for name in (*due, *parts):
            if name not in parts:
                return f"lacks the tensor '{name}'"
            if name not in due:
                return f"holds a tensor '{name}' that labels.json does not mention"
            part, (kind, record) = parts[name], due[name]
            if (part.dtype, tuple(part.shape)) != (kind, (num_epochs, self.num_images, *record)):
                return (
                    f"holds '{name}' with shape {tuple(part.shape)} and type {str(part.dtype).removeprefix('torch.')}, "
                    f"but labels.json requires {(num_epochs, self.num_images, *record)} and "
                    f"{str(kind).removeprefix('torch.')}"
                )
        wrong = next((name for name, part in parts.items() if not self._is_valid(name, part)), None)
        return "" if wrong is None else f"holds values of '{wrong}' outside their valid range"

    def _is_valid(self, name: str, part: Tensor) -> bool:
        """Return whether all values of a tensor are finite and in their range."""
        height, width = self.size
        if name == "box":
            return _within(part[..., 2:], 1, torch.iinfo(torch.int16).max)
        if name == "mix_box":
            end = part[..., :2].int() + part[..., 2:]
            inside = _within(end[..., 0], 0, height) and _within(end[..., 1], 0, width)
            return inside and _within(part, 0, max(self.size))
        if name == "patches":
            order = torch.arange(part.shape[-1], dtype=part.dtype)
            return bool((part.sort(-1).values == order).all())
        if name == "changes":
            last, strongest = augment.limits(self.views.randaugment_set)
            return _within(part[..., 0], 0, last) and _within(part[..., 1], -strongest, strongest)
        if name == "siamese":
            return _within(part[..., 7], 0, 1)
        if name == "part":
            return _within(part, 0, self.storage.num_parts)
        if name == "range":
            return _is_finite(part) and bool((part[..., 0] <= part[..., 1]).all())
        if name in _MOST:
            return _within(part, 0, _MOST[name])
        if name in ("partner", "classes"):
            return _within(part, 0, (self.num_images if name == "partner" else self.num_classes) - 1)
        return part.dtype == torch.uint8 or _is_finite(part)


_MOST = {"flip": 1, "mix_weight": 1}


def _is_finite(part: Tensor) -> bool:
    """Return whether all values are finite; checking the extremes is thirty times as fast as checking each value."""
    return not part.numel() or all(bool(end.isfinite()) for end in part.aminmax())  # a NaN makes both extremes NaN


def _within(part: Tensor, least: int, most: int) -> bool:
    """Return whether all values are in a range, including its ends; False for NaN."""
    if not part.numel():
        return True
    low, high = part.aminmax()
    return bool(low >= least) and bool(high <= most)
