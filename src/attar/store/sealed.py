"""Files that are checked when they are opened: JSON that holds its own SHA-256, and lists of files with theirs.

A seal finds damage, not malice: who writes a file can seal it. A file is read for its hash once in each process, and
again only when it has changed.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pydantic

from attar.core.config import Config, digest
from attar.core.errors import AttarError
from attar.store import atomic

KEY = "sha256"
"""Under this key a sealed JSON object holds the digest of all its other keys."""
READ_BYTES = 2**30
"""Files of a finished stage are read through, to see whether they are whole, where they take no more than this."""
AGAIN = "run the same command again, which makes it again, or copy it once more"
"""The mend of a file that is missing."""
MEND = f"delete it and {AGAIN}"
"""The mend of a damaged file."""


class SealedFile(Config):
    """What is known of a file."""

    bytes: int = pydantic.Field(ge=0)
    sha256: str


Files = Mapping[str, SealedFile]
"""Files by their path below a folder, with slashes."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal; raises AttarError as ``atomic.replace`` does."""
    plain = json.loads(json.dumps(value))
    atomic.write_json(path, {**plain, KEY: digest(plain)})


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """A JSON object without its seal; one from before there were seals is taken as it is.

    Raises FileNotFoundError, and AttarError with the ``mend`` when the file is damaged or was changed.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise AttarError(f"{path} is damaged ({error}); {mend}.") from None
    if not isinstance(value, dict):
        raise AttarError(f"{path} is damaged (it holds no JSON object); {mend}.")
    seal = value.pop(KEY, None)
    if (seal is None and _has_renamed_seal(value)) or (seal is not None and seal != digest(value)):
        raise AttarError(f"{path} is damaged or was edited (its content does not fit its {KEY}); {mend}.")
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return _sha256(path, state_of(path))


def state_of(path: Path) -> tuple[int, ...]:
    """Which file this is and when it was changed: as long as that stays, so does its content."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def entries(folder: Path, paths: Iterable[Path]) -> dict[str, SealedFile]:
    """What is to be known of these files of a folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: SealedFile(bytes=path.stat().st_size, sha256=sha256_of(path)) for name, path in found.items()}


def read_entries(values: Any, where: Path) -> dict[str, SealedFile]:
    """The files that a manifest lists, by name; none where an older one lists none."""
    if not isinstance(values, dict):
        raise AttarError(f"{where} is damaged (it lists no files by name); {MEND}.")
    return {name: SealedFile.of(entry, str(where)) for name, entry in values.items()}


def below(files: Files, folder: str) -> dict[str, SealedFile]:
    """The files in a folder inside, by their path below that."""
    return {name.removeprefix(f"{folder}/"): entry for name, entry in files.items() if name.startswith(f"{folder}/")}


def check(folder: Path, name: str, files: Files) -> None:
    """Raise AttarError when a file is missing or not the one that is listed.

    Where nothing is listed, as in folders from before there were lists, nothing is checked.
    """
    if files and (fault := _fault(folder, name, files, read=True)):
        raise AttarError(f"{folder / name} {fault}; {MEND if (folder / name).exists() else AGAIN}.")


def check_all(folder: Path, files: Files) -> None:
    """``check`` all that is listed."""
    for name in files:
        check(folder, name, files)


def faults(folder: Path, files: Files) -> list[str]:
    """What is wrong with the listed files, each as its path and what it is.

    Files of more than ``READ_BYTES`` together are not read: only those that are missing or of another size are found.
    """
    read = sum(entry.bytes for entry in files.values()) <= READ_BYTES
    return [f"{folder / name} {fault}" for name in files if (fault := _fault(folder, name, files, read))]


def _fault(folder: Path, name: str, files: Files, read: bool) -> str:
    """What is wrong with a file; '' where nothing is. Nothing is opened that is no plain file inside the folder."""
    path, place = folder / name, PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or name not in files:
        return "is none of the files that belong there"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != files[name].bytes:
        return f"is damaged (it has {path.stat().st_size} bytes and was written with {files[name].bytes})"
    if read and sha256_of(path) != files[name].sha256:
        return "is damaged (its SHA-256 is not the one that was written down)"
    return ""


def _has_renamed_seal(value: Mapping[str, Any]) -> bool:
    """Whether a key is the seal by its value, so that its name must have been damaged."""
    hashes = [key for key, part in value.items() if isinstance(part, str) and len(part) == 64]
    return any(value[key] == digest({name: value[name] for name in value if name != key}) for key in hashes)


@functools.cache
def _sha256(path: Path, _state: tuple[int, ...]) -> str:
    return atomic.sha256_of(path)
