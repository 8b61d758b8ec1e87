"""Files and folders that are complete or absent: written under a temporary name, then moved into place."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError

_MENDS = {
    errno.ENOSPC: "The disk is full while writing {path}; free some space and run the same command again.",
    errno.EDQUOT: "Your disk quota is used up while writing {path}; free some space and run the same command again.",
    errno.EROFS: "{path} lies on a read-only disk; choose another folder.",
    errno.EACCES: "There is no permission to write {path}; change its folder's permissions or choose another folder.",
    errno.EPERM: "There is no permission to write {path}; change its folder's permissions or choose another folder.",
    errno.EISDIR: "{path} is a folder; name a file in it.",
    errno.ENOTDIR: "{path} cannot be written, for a part of that path is a file; choose another folder.",
    errno.EEXIST: "{path} cannot be written, for a part of that path is a file; choose another folder.",
}


@contextlib.contextmanager
def replace(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; on success its file takes the place of ``path``, else it is removed.

    Makes the folder. A process killed at any moment leaves either the old file or the new one. Raises AttarError when
    the disk is full or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # ranks may write the same name at once
    try:
        with _mend_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk objects even to removing nothing
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file; raises AttarError as ``replace`` does."""
    with replace(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file; raises AttarError as ``replace`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON values, indented; raises AttarError as ``replace`` does.

    Raises ValueError on NaN and the infinities: JSON has no words for them, and other programs could not read them.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; on success it replaces ``path``, else it is removed.

    Raises AttarError when there is something at ``path`` that is no empty folder, and as ``replace`` does.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise AttarError(f"{path} exists and is not an empty folder; choose another --out, or remove it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _mend_told(path):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder and those in it; nobody may be writing there."""
    for path in list(folder.rglob(".*.tmp")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _mend_told(path: Path) -> Iterator[None]:
    """Say in a sentence what the system refuses about ``path``, where that can be mended."""
    try:
        yield
    except OSError as error:
        if error.errno in _MENDS:
            raise AttarError(_MENDS[error.errno].format(path=path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make the move itself survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
