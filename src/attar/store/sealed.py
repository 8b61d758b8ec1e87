"""Detect damaged files: JSON files that contain their own SHA-256 (a seal), and recorded hashes of other files.

A seal detects damage, not manipulation: anyone who can write the file can also update the seal. Each process hashes a
file once, and again only after the file has changed.
"""

import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pydantic

from attar.core.config import Config, digest
from attar.core.errors import AttarError
from attar.store import atomic

KEY = "sha256"
"""The key of the seal: a digest of all other keys of the JSON object."""
READ_BYTES = 2**30
"""Files of a finished stage are hashed, to see whether they are complete, if they take at most this many bytes."""
CLOCK_STEP_SECONDS = 0.011
"""The times of files move in steps; on Linux of up to 10 ms, before version 6.13."""
FIX_MISSING = "run the same command again to rebuild it, or copy it again"
"""What to do about a missing file, for error sentences."""
FIX_DAMAGED = f"delete it and {FIX_MISSING}"
"""What to do about a damaged file, for error sentences."""


class SealedFile(Config):
    """The recorded size and hash of a file."""

    bytes: int = pydantic.Field(ge=0)
    sha256: str


Files = Mapping[str, SealedFile]
"""Recorded files by their path relative to a folder, with slashes."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal; raises AttarError as ``atomic.replace`` does."""
    plain = json.loads(json.dumps(value))
    atomic.write_json(path, {**plain, KEY: digest(plain)})


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """Return a JSON object without its seal; older files without a seal are not checked.

    Raises FileNotFoundError, and AttarError ending in ``fix`` when the file is damaged or was edited.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise AttarError(f"{path} is damaged ({error}); {fix}.") from None
    if not isinstance(value, dict):
        raise AttarError(f"{path} is damaged (it is not a JSON object); {fix}.")
    seal = value.pop(KEY, None)
    if (seal is None and _has_renamed_seal(value)) or (seal is not None and seal != digest(value)):
        raise AttarError(f"{path} is damaged or was edited (its content does not match its {KEY}); {fix}.")
    return value


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return _sha256(path, state_of(path))


def state_of(path: Path) -> tuple[int, ...]:
    """Return a file's device, inode, size and times; while they stay the same, the content counts as unchanged.

    A file that was written a moment ago has another state at each call, because it may change and keep its times.
    """
    state = path.stat()
    newness = next(_CALLS) if _seconds_to_settle(state) else 0
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, newness


def settle(state: os.stat_result) -> None:
    """Return when a change of the file from now on gives it other times than these."""
    if seconds := _seconds_to_settle(state):
        time.sleep(seconds)


def _seconds_to_settle(state: os.stat_result) -> float:
    """Return for how long a change may still leave a file's times as they are; 0.0 if it cannot."""
    age = time.time() - state.st_ctime
    return CLOCK_STEP_SECONDS - age if 0 <= age < CLOCK_STEP_SECONDS else 0.0


def entries(folder: Path, paths: Iterable[Path]) -> dict[str, SealedFile]:
    """Return the records of these files of a folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: SealedFile(bytes=path.stat().st_size, sha256=sha256_of(path)) for name, path in found.items()}


def read_entries(values: Any, where: Path) -> dict[str, SealedFile]:
    """Return the files that a manifest lists, by name."""
    if not isinstance(values, dict):
        raise AttarError(f"{where} is damaged (it lists no files by name); {FIX_DAMAGED}.")
    return {name: SealedFile.of(entry, str(where)) for name, entry in values.items()}


def below(files: Files, folder: str) -> dict[str, SealedFile]:
    """Return the files of a subfolder, by their path relative to it."""
    return {name.removeprefix(f"{folder}/"): entry for name, entry in files.items() if name.startswith(f"{folder}/")}


def check(folder: Path, name: str, files: Files) -> None:
    """Raise AttarError when a file is missing or does not match its record.

    Does nothing if ``files`` is empty, as for folders written by early versions.
    """
    if files and (fault := _fault(folder, name, files, read=True)):
        raise AttarError(f"{folder / name} {fault}; {FIX_DAMAGED if (folder / name).exists() else FIX_MISSING}.")


def check_all(folder: Path, files: Files) -> None:
    """Call ``check`` for all recorded files."""
    for name in files:
        check(folder, name, files)


def faults(folder: Path, files: Files) -> list[str]:
    """Return what is wrong with the recorded files: one text per file, with its path.

    If all files together exceed ``READ_BYTES``, they are not hashed; only missing files and wrong sizes are found.
    """
    read = sum(entry.bytes for entry in files.values()) <= READ_BYTES
    return [f"{folder / name} {fault}" for name in files if (fault := _fault(folder, name, files, read))]


def _fault(folder: Path, name: str, files: Files, read: bool) -> str:
    """Return what is wrong with a file; '' if nothing is. It never opens files outside the folder."""
    path, place = folder / name, PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or name not in files:
        return "is not one of the files that belong there"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != files[name].bytes:
        return f"is damaged (it has {path.stat().st_size} bytes and was written with {files[name].bytes})"
    if read and sha256_of(path) != files[name].sha256:
        return "is damaged (its SHA-256 differs from the recorded one)"
    return ""


def _has_renamed_seal(value: Mapping[str, Any]) -> bool:
    """Return whether the value under any key is the seal, which means that damage changed the key's name."""
    hashes = [key for key, part in value.items() if isinstance(part, str) and len(part) == 64]
    return any(value[key] == digest({name: value[name] for name in value if name != key}) for key in hashes)


_CALLS = itertools.count(1)


@functools.cache
def _sha256(path: Path, _state: tuple[int, ...]) -> str:
    return atomic.sha256_of(path)
