"""A bounded folder of this machine for blocks of remote data: shards, or row groups, each in a file of its own.

All processes of a machine share it. What it holds decides nothing but the time that a read takes: a block that was
removed is fetched again.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from attar.core.errors import AttarError
from attar.store import atomic

STALE_SECONDS = 3600.0
"""Age from which the trace of a killed fetch is removed."""
_ATTEMPTS = 20
_RESERVED = ".reserved"
_NUM_LOCKS = 64
Result = TypeVar("Result")


class BlockCache:
    """The blocks in a folder, up to a number of bytes; those used longest ago are removed first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def use(self, name: str, size: int, make: Callable[[Path], None], read: Callable[[Path], Result]) -> Result:
        """Return what ``read`` returns for a block's file; ``make`` writes it if it is not there.

        ``size`` is the number of bytes that it will have, at most. Other processes wait while one makes a block. Raises
        AttarError when the block alone is larger than the limit, and what ``make`` raises.
        """
        path = self.folder / sha256(name.encode(errors="surrogateescape")).hexdigest()[:40]
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # not there, or removed by another process meanwhile
                os.utime(path)
                return read(path)
            self._make(path, name, size, make)
        raise AttarError(
            f"{self.folder} is too small for the data that are in use; raise --data.cache-bytes ({self.limit:,})."
        )

    def read_if_there(self, name: str, read: Callable[[Path], Result]) -> Result | None:
        """Return what ``read`` returns for a block's file; None if it is not there."""
        path = self.folder / sha256(name.encode(errors="surrogateescape")).hexdigest()[:40]
        with contextlib.suppress(FileNotFoundError):
            return read(path)
        return None

    def _make(self, path: Path, name: str, size: int, make: Callable[[Path], None]) -> None:
        if size > self.limit:
            raise AttarError(
                f"{name} has {size:,} bytes, more than the cache may hold; raise --data.cache-bytes ({self.limit:,})."
            )
        with self._locked(f"lock-{int(path.name[:8], 16) % _NUM_LOCKS}"):
            if path.exists():
                return
            reserved = path.with_name(path.name + _RESERVED)
            with self._locked("lock-room"):
                self._make_room(size)
                with reserved.open("wb") as file:
                    file.truncate(size)  # a hole: it counts, and takes no room
            try:
                with atomic.replace(path) as unfinished:
                    make(unfinished)
            finally:
                reserved.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the blocks used longest ago, until ``size`` more bytes fit; those being made count as well."""
        held: list[tuple[float, int, Path]] = []
        total = size
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.suffix in (_RESERVED, ".tmp"):
                    if time.time() - state.st_mtime > STALE_SECONDS:
                        path.unlink()
                    elif path.suffix == _RESERVED:
                        total += state.st_size
                elif not path.name.startswith("lock-"):
                    held.append((state.st_mtime, state.st_size, path))
                    total += state.st_size
        for _, freed, path in sorted(held):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= freed

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except PermissionError as error:
            raise AttarError(
                f"There is no permission to write {self.folder}; set XDG_CACHE_HOME to a folder of yours."
            ) from error
