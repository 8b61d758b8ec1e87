"""Trajectories on disk: one sealed file per expert, with its weights as a vector at each snapshot.

The weights are mapped into memory when they are read, so that experts may be larger than memory.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import MEND

_KEY = "weights"


def path_of(folder: Path, expert: int) -> Path:
    """Return the file of an expert."""
    return folder / f"expert{expert:04d}.safetensors"


def save(folder: Path, expert: int, snapshots: Float[Tensor, "snapshot weight"], made_for: str) -> None:
    """Write an expert's float32 snapshots atomically; ``made_for`` is the identity of the work they are part of."""
    weights.save_weights(
        path_of(folder, expert), {_KEY: snapshots}, {"made_for": made_for, "expert": str(expert)}, sealed=True
    )


def load(folder: Path, expert: int, made_for: str) -> Float[Tensor, "snapshot weight"]:
    """Read an expert's snapshots; raises AttarError when the file is missing, damaged or of other work."""
    path = path_of(folder, expert)
    tensors, said = weights.load_weights(path)
    found = tensors.get(_KEY)
    if found is None or found.ndim != 2 or found.dtype != torch.float32:
        raise AttarError(f"{path} does not hold the weights of an expert; {MEND}.")
    if (said.get("made_for"), said.get("expert")) != (made_for, str(expert)):
        raise AttarError(f"{path} belongs to another run; {MEND}.")
    return found


def fault(folder: Path, expert: int, made_for: str) -> str:
    """Describe in a sentence what is wrong with an expert's file; '' if nothing is."""
    try:
        load(folder, expert, made_for)
    except AttarError as error:
        return str(error)
    return ""
