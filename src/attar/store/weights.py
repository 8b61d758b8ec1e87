"""Tensors on disk: safetensors files of weights, and of nested states such as an optimiser's.

attar writes these files itself, so that equal content gives equal bytes; any safetensors reader opens them. The writer
of the safetensors library orders metadata differently in each process, creates files that only their owner can read,
and hides the system's error when the disk is full.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attar.core.errors import AttarError
from attar.store.atomic import replace
from attar.store.sealed import FIX_DAMAGED, state_of

SEAL, SEALED = "attar_sha256", "attar_sealed"
"""Metadata keys of a sealed file: a SHA-256 of everything else in it, and a mark that this hash must be present."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, sealed: bool = False
) -> None:
    """Write tensors of any device and memory layout to one safetensors file, atomically.

    Tensors that share memory are each written in full. A ``sealed`` file contains its own SHA-256, so that readers
    detect damage. Raises AttarError when the disk is full or not writable.
    """
    own = {key: value for key, value in metadata.items() if key not in (SEAL, SEALED)}
    header: dict[str, Any] = {"__metadata__": own}
    offset = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # wide types first: all aligned
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    content = [_bytes(tensors[name]) for name in order]
    if sealed:
        own[SEALED] = "yes"
        total = _begun(header)
        for part in content:
            total.update(part)
        own[SEAL] = total.hexdigest()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replace(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in content:
            file.write(part)


def check_seal(path: Path) -> None:
    """Raise AttarError when a sealed file is damaged; reads each file once per process.

    Older files without a seal are not checked.
    """
    path = Path(path)
    if not _seal_fits(path, state_of(path)):
        raise AttarError(f"{path} is damaged (its content does not match its SHA-256); {FIX_DAMAGED}.")


@functools.cache
def _seal_fits(path: Path, _state: tuple[int, ...]) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return False
        header = json.loads(file.read(length))
        metadata = header.get("__metadata__", {})
        seal = metadata.pop(SEAL, None)
        if seal is None:
            return SEALED not in metadata
        total = _begun(header)
        while part := file.read(2**20):
            total.update(part)
    return seal == total.hexdigest()


def _begun(header: Mapping[str, Any]) -> "hashlib._Hash":
    """Return the hash of the metadata and of the tensors' names, types and places; tensors are added to it."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode())


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.stride() != (1,):  # a single element counts as contiguous with any stride
        plain = torch.empty_like(plain, memory_format=torch.contiguous_format).copy_(plain)
    return plain.view(torch.uint8).numpy().data


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors, on the CPU, and its metadata; raises AttarError when the file is damaged."""
    with _opened(path) as file:
        check_seal(path)
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Return only the metadata, without reading tensors; raises AttarError when the file is damaged."""
    with _opened(path) as file:
        return file.metadata() or {}


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of the names, types, shapes and values of tensors, independent of their device."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {_DTYPES[tensor.dtype]} {tuple(tensor.shape)} ".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars to one sealed safetensors file, atomically.

    Keys may be any JSON scalar, so an optimiser's ``state_dict()`` is restored exactly. Raises AttarError when the disk
    is full, and TypeError on a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encoded(tree, tensors)
    save_weights(path, tensors, {"tree": json.dumps(structure)}, sealed=True)


def load_tree(path: Path) -> Any:
    """Read a file written by ``save_tree``, tensors on the CPU; raises AttarError if it is damaged or another file."""
    tensors, metadata = load_weights(path)
    if "tree" not in metadata:
        raise AttarError(f"{path} holds tensors but not a saved state; remove it and run the same command again.")
    return _decoded(json.loads(metadata["tree"]), tensors)


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return JSON: scalars as they are, everything else as an object whose only key names its type."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if not _is_scalar(key):
                raise TypeError(f"cannot store the key {key!r} of type {type(key).__name__}")
        return {"dict": [[key, _encoded(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_encoded(item, tensors) for item in value]}
    if _is_scalar(value):
        return value
    raise TypeError(f"cannot store {value!r} of type {type(value).__name__}")


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decoded(item, tensors) for key, item in content}
    items = [_decoded(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise AttarError(f"There is no file {path}; check the path, or run the stage that writes it.") from None
    except (SafetensorError, OSError) as error:
        raise AttarError(
            f"{path} is not a complete safetensors file ({error}); remove it, then run the same command again or copy "
            f"it again."
        ) from error
