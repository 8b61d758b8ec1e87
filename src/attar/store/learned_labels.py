"""Soft labels that a method learned with its images: one row of probabilities per image, for all of its views."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import FIX_DAMAGED

FILE = "given.safetensors"
"""Name of the file."""
_KEY = "probabilities"


def save(path: Path, probabilities: Float[Tensor, "image class"], images_sha256: str) -> int:
    """Write float32 probabilities in the order of the images; returns the size of the file in bytes."""
    weights.save_weights(path, {_KEY: probabilities.float()}, {"images": images_sha256}, sealed=True)
    return path.stat().st_size


def load(path: Path, images_sha256: str, shape: tuple[int, int]) -> Float[Tensor, "image class"]:
    """Read the probabilities; raises AttarError when the file is missing, damaged, or belongs to other images."""
    tensors, metadata = weights.load_weights(path)
    found = tensors.get(_KEY)
    if found is None or tuple(found.shape) != shape or found.dtype != torch.float32:
        raise AttarError(f"{path} does not hold the labels of {shape[0]} images of {shape[1]} classes; {FIX_DAMAGED}.")
    if metadata.get("images") != images_sha256:
        raise AttarError(f"The soft labels in {path} belong to other images; relabel again.")
    return found
