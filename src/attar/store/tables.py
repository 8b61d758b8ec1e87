"""Prepared tables on disk: tensors with one row per class or slot, written in parts and then joined into one file.

Every file is sealed and stores the identity of its work, so that damaged files and files of other work are detected.
The joined file is mapped into memory when it is read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import FIX_DAMAGED

TABLE = "table.safetensors"


def path_of(folder: Path, rows: range | None = None) -> Path:
    """Return the file of these rows; without rows, the file of the finished tables."""
    return folder / (TABLE if rows is None else f"rows{rows.start:05d}.safetensors")


def save(folder: Path, tensors: Mapping[str, Tensor], rows: range, identity: str) -> None:
    """Write the file of these rows atomically; raises ValueError when a tensor's first axis has another length."""
    other = next((name for name, tensor in tensors.items() if not tensor.ndim or len(tensor) != len(rows)), None)
    if other is not None:
        raise ValueError(f"'{other}' has the shape {tuple(tensors[other].shape)} for {len(rows)} rows")
    _write(path_of(folder, rows), tensors, rows, identity)


def fault(folder: Path, rows: range, identity: str, finished: bool = False) -> str:
    """Return in a sentence what is wrong with a file of rows or with the finished tables; '' if nothing is."""
    try:
        _read(path_of(folder, None if finished else rows), rows, identity)
    except AttarError as error:
        return str(error)
    return ""


def join(folder: Path, blocks: Sequence[range], identity: str) -> None:
    """Join the files of all rows into the finished tables and remove them; raises AttarError when one is faulty."""
    parts = [_read(path_of(folder, rows), rows, identity) for rows in blocks]
    tables = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    _write(path_of(folder), tables, range(blocks[0].start, blocks[-1].stop), identity)
    for rows in blocks:
        path_of(folder, rows).unlink()


def load(folder: Path, rows: range, identity: str) -> dict[str, Tensor]:
    """Return the finished tables, mapped into memory; raises AttarError if missing, damaged or of other work."""
    return _read(path_of(folder), rows, identity)


def _write(path: Path, tensors: Mapping[str, Tensor], rows: range, identity: str) -> None:
    metadata = {"made_for": identity, "rows": json.dumps([rows.start, rows.stop])}
    weights.save_weights(path, tensors, metadata, sealed=True)


def _read(path: Path, rows: range, identity: str) -> dict[str, Tensor]:
    tensors, metadata = weights.load_weights(path)
    if metadata.get("made_for") != identity or metadata.get("rows") != json.dumps([rows.start, rows.stop]):
        raise AttarError(f"{path} belongs to another run; {FIX_DAMAGED}.")
    return tensors
