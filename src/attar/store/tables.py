"""Prepared tables on disk: tensors with a row for each class or slot, first in files of some rows each, then in one.

Every file is sealed and says for which work it was made, so that damaged files and those of other work are noticed. The
finished file is mapped into memory when it is read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import MEND

TABLE = "table.safetensors"


def path_of(folder: Path, rows: range | None = None) -> Path:
    """The file of these rows, or of the finished tables."""
    return folder / (TABLE if rows is None else f"rows{rows.start:05d}.safetensors")


def save(folder: Path, tensors: Mapping[str, Tensor], rows: range, identity: str) -> None:
    """Write the file of these rows, whole or not at all.

    Raises ValueError when a tensor has another first axis than the rows.
    """
    other = next((name for name, tensor in tensors.items() if not tensor.ndim or len(tensor) != len(rows)), None)
    if other is not None:
        raise ValueError(f"'{other}' has the shape {tuple(tensors[other].shape)} for {len(rows)} rows")
    _write(path_of(folder, rows), tensors, rows, identity)


def fault(folder: Path, rows: range, identity: str, finished: bool = False) -> str:
    """What is wrong with a file of rows, or with the finished tables, in a sentence; '' where nothing is."""
    try:
        _read(path_of(folder, None if finished else rows), rows, identity)
    except AttarError as error:
        return str(error)
    return ""


def join(folder: Path, blocks: Sequence[range], identity: str) -> None:
    """Make the finished tables out of the files of all rows, which are removed.

    Raises AttarError when one of them is missing or damaged.
    """
    parts = [_read(path_of(folder, rows), rows, identity) for rows in blocks]
    tables = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    _write(path_of(folder), tables, range(blocks[0].start, blocks[-1].stop), identity)
    for rows in blocks:
        path_of(folder, rows).unlink()


def load(folder: Path, rows: range, identity: str) -> dict[str, Tensor]:
    """The finished tables, mapped into memory; raises AttarError when they are missing, damaged or of other work."""
    return _read(path_of(folder), rows, identity)


def _write(path: Path, tensors: Mapping[str, Tensor], rows: range, identity: str) -> None:
    said = {"made_for": identity, "rows": json.dumps([rows.start, rows.stop])}
    weights.save_weights(path, tensors, said, sealed=True)


def _read(path: Path, rows: range, identity: str) -> dict[str, Tensor]:
    tensors, said = weights.load_weights(path)
    if said.get("made_for") != identity or said.get("rows") != json.dumps([rows.start, rows.stop]):
        raise AttarError(f"{path} belongs to another run; {MEND}.")
    return tensors
