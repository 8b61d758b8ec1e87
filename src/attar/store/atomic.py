"""Write files and folders completely or not at all: under a temporary name, then moved into place."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError

STALE_SECONDS = 600.0


class NotWritableError(AttarError):
    """The disk is read-only, or there is no permission to write."""


_SENTENCES = {
    errno.ENOSPC: "The disk is full while writing {path}; free some space and run the same command again.",
    errno.EDQUOT: "Your disk quota is used up while writing {path}; free some space and run the same command again.",
    errno.EROFS: "{path} is on a read-only disk; choose another folder.",
    errno.EACCES: "There is no permission to write {path}; change its folder's permissions or choose another folder.",
    errno.EPERM: "There is no permission to write {path}; change its folder's permissions or choose another folder.",
    errno.EISDIR: "{path} is a folder; name a file in it.",
    errno.ENOTDIR: "{path} cannot be written, because part of that path is a file; choose another folder.",
    errno.EEXIST: "{path} cannot be written, because part of that path is a file; choose another folder.",
}
"""Error sentences for system errors that the user can fix."""
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let only one process of this machine at a time run blocks with this folder; the others wait for it.

    The lock is a file beside the folder; raises OSError when it cannot be written.
    """
    with locked(folder.parent / f".{folder.name}.lock"):
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing, during the block; other threads and processes wait.

    A process that is killed gives it up. Without ``fcntl``, as on Windows, nobody waits. Raises OSError when the file
    cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        owner = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == owner:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to processes forked meanwhile


def is_locked(path: Path) -> bool:
    """Return whether a process, or a thread, holds the lock of a file; without ``fcntl`` every file counts as held.

    Raises OSError when there is no such file.
    """
    with path.open("rb") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
        except (ImportError, BlockingIOError):
            return True
        return False


@contextlib.contextmanager
def replace(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success its file replaces ``path``, otherwise it is removed.

    Creates the folder if needed. A process killed at any moment leaves either the old file or the new one. Raises
    AttarError when the disk is full, and NotWritableError when it is not writable.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # ranks may write the same name at once
    try:
        with _os_errors_explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk raises an error even if the file does not exist
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file, unless it has this content already; raises AttarError as ``replace`` does."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    with replace(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file; raises AttarError as ``replace`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON values, indented; raises AttarError as ``replace`` does.

    Raises ValueError on NaN and infinity, which JSON cannot express.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    """Remove a file if it exists; a read-only disk is then no error if it does not. Raises as ``replace`` does."""
    if path.exists() or path.is_symlink():
        with _os_errors_explained(path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; on success it replaces ``path``, otherwise it is removed.

    Raises AttarError when ``path`` exists and is not an empty folder, and as ``replace`` does.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise AttarError(f"{path} exists and is not an empty folder; choose another --out, or remove it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _os_errors_explained(path):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Return whether this is a file that is being written, or was when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def sweep(folder: Path, name: str = "") -> None:
    """Remove temporary files of killed processes from a folder and its subfolders.

    With ``name``, such as ``*.npy``, only those of files with this name in the folder itself. Files that changed within
    ``STALE_SECONDS`` stay: another run may be writing them.
    """
    for path in list(folder.glob(f".{name}.*.tmp") if name else folder.rglob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _os_errors_explained(path: Path) -> Iterator[None]:
    """Turn system errors about ``path`` that the user can fix into an AttarError."""
    try:
        yield
    except OSError as error:
        if error.errno in _SENTENCES:
            kind = NotWritableError if error.errno in _NOT_WRITABLE else AttarError
            raise kind(_SENTENCES[error.errno].format(path=path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make the move itself survive a power failure, if the file system supports that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
