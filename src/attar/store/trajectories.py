"""Trajectories on disk: one sealed file per expert, with one weight vector per snapshot.

Weights are mapped into memory when they are read, so all experts together may be larger than memory.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import FIX_DAMAGED

_KEY = "weights"


def path_of(folder: Path, expert: int) -> Path:
    """Return the file of an expert."""
    return folder / f"expert{expert:04d}.safetensors"


def save(folder: Path, expert: int, snapshots: Float[Tensor, "snapshot weight"], identity: str) -> None:
    """Write an expert's float32 snapshots atomically; ``identity`` is a hash that identifies the work."""
    weights.save_weights(
        path_of(folder, expert), {_KEY: snapshots}, {"made_for": identity, "expert": str(expert)}, sealed=True
    )


def load(folder: Path, expert: int, identity: str) -> Float[Tensor, "snapshot weight"]:
    """Read an expert's snapshots; raises AttarError when the file is missing, damaged or of other work."""
    path = path_of(folder, expert)
    tensors, metadata = weights.load_weights(path)
    found = tensors.get(_KEY)
    if found is None or found.ndim != 2 or found.dtype != torch.float32:
        raise AttarError(f"{path} does not hold the weights of an expert; {FIX_DAMAGED}.")
    if (metadata.get("made_for"), metadata.get("expert")) != (identity, str(expert)):
        raise AttarError(f"{path} belongs to another run; {FIX_DAMAGED}.")
    return found


def fault(folder: Path, expert: int, identity: str) -> str:
    """Return in a sentence what is wrong with an expert's file; '' if nothing is."""
    try:
        load(folder, expert, identity)
    except AttarError as error:
        return str(error)
    return ""
