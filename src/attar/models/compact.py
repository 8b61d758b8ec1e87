"""A network's weights in fewer bytes: in half precision, or in 8-bit integers with a scale for each row."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.models.choices import StoredPrecision

KEY = "attar.precision"
"""Key of the precision in the metadata of a weights file."""
_SCALE = ".int8-scale"
_MOST = 127


def encoded(state: Mapping[str, Tensor], precision: StoredPrecision) -> dict[str, Tensor]:
    """Return the state of a network as it is stored.

    Floating-point tensors with two or more dimensions are rounded; biases and the values of normalisation layers, which
    take few bytes, stay as they are. In 'int8' a tensor becomes integers from -127 to 127, and a further tensor holds
    the factor of each of its rows (for a convolution: of each output channel), the row's largest magnitude / 127. A
    tensor of one row is stored in half precision.
    """
    if precision == "fp32":
        return dict(state)
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim < 2 or not tensor.is_floating_point() or not tensor.numel():
            found[name] = tensor
        elif precision == "int8" and len(tensor) > 1:
            found[name], found[name + _SCALE] = _integers(tensor.float())
        else:
            half = tensor.half()  # a value beyond the range of half precision would become infinite
            found[name] = half if bool(half.isfinite().all()) else tensor
    return found


def stored_bytes(state: Mapping[str, Tensor], precision: StoredPrecision) -> int:
    """Return the bytes of a network's values as they are stored, without the file's header."""
    return sum(tensor.nbytes for tensor in encoded(state, precision).values())


def decoded(state: Mapping[str, Tensor], precision: str, path: Path) -> dict[str, Tensor]:
    """Return the state of a network whose file has this precision; ``path`` is the file, for errors.

    Raises AttarError when the precision is unknown, or when integers lack their scale.
    """
    if precision in ("fp32", "fp16"):  # loading converts half precision
        return dict(state)
    if precision != "int8":
        raise AttarError(
            f"{path} stores weights as '{precision}', which this version of attar does not know; update it."
        )
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(_SCALE):
            continue
        if tensor.dtype is torch.int8:
            scale = state.get(name + _SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise AttarError(f"{path} is damaged: the weight '{name}' has no scale; copy it again.")
            tensor = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        found[name] = tensor
    return found


def _integers(tensor: Tensor) -> tuple[Tensor, Tensor]:
    largest = tensor.flatten(1).abs().amax(1)
    scale = torch.where(largest > 0, largest / _MOST, torch.ones_like(largest))
    rows = tensor / scale.view(-1, *[1] * (tensor.ndim - 1))
    return rows.round().clamp(-_MOST, _MOST).to(torch.int8), scale
