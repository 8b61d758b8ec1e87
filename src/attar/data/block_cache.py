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
"""Age from which the unfinished file of a killed process is removed."""
_WAIT_SECONDS = 0.05
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
            made = self._make(path, name, size, make, read)
            if made is not None:
                return made[0]
        raise AttarError(
            f"{self.folder} is too small for the data that are in use; raise --data.cache-bytes ({self.limit:,})."
        )

    def read_if_there(self, name: str, read: Callable[[Path], Result]) -> Result | None:
        """Return what ``read`` returns for a block's file; None if it is not there."""
        path = self.folder / sha256(name.encode(errors="surrogateescape")).hexdigest()[:40]
        with contextlib.suppress(FileNotFoundError):
            return read(path)
        return None

    def _make(
        self, path: Path, name: str, size: int, make: Callable[[Path], None], read: Callable[[Path], Result]
    ) -> tuple[Result] | None:
        """Make a block and read it, before another one can remove it; None if another process has made it."""
        if size > self.limit:
            raise AttarError(
                f"{name} has {size:,} bytes, more than the cache may hold; raise --data.cache-bytes ({self.limit:,})."
            )
        with self._locked(f"lock-{int(path.name[:8], 16) % _NUM_LOCKS}"):
            if path.exists():
                return None
            with self._reserved(path.with_name(path.name + _RESERVED), size):
                with atomic.replace(path) as unfinished:
                    make(unfinished)
                return (read(path),)

    @contextlib.contextmanager
    def _reserved(self, place: Path, size: int) -> Iterator[None]:
        """Keep room for a block, by a locked file of this size; waits while others make blocks that fill the limit."""
        import fcntl

        while True:
            with self._locked("lock-room"):
                if self._make_room(size):
                    file = place.open("wb")
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.truncate(size)  # a hole: it counts, and takes no room
                    break
            time.sleep(_WAIT_SECONDS)
        try:
            yield
        finally:
            place.unlink(missing_ok=True)
            file.close()

    def _make_room(self, size: int) -> bool:
        """Remove the blocks used longest ago, until ``size`` more bytes fit; return whether they do.

        Blocks that others make count and are not removed; traces of killed processes are.
        """
        held: dict[str, tuple[float, int]] = {}
        reserved: dict[str, int] = {}
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.suffix == _RESERVED:
                    if not _abandoned(path):
                        reserved[path.stem] = state.st_size
                elif path.suffix == ".tmp":
                    if time.time() - state.st_mtime > STALE_SECONDS:
                        path.unlink()
                elif not path.name.startswith("lock-"):
                    held[path.name] = (state.st_mtime, state.st_size)
        removable = sorted((time, name, taken) for name, (time, taken) in held.items() if name not in reserved)
        total = size + sum(reserved.values()) + sum(taken for _, _, taken in removable)
        for _, name, taken in removable:
            if total <= self.limit:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= taken
        return total <= self.limit

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


def _abandoned(path: Path) -> bool:
    """Remove the reservation of a process that was killed; return whether it was one."""
    import fcntl

    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        path.unlink(missing_ok=True)
        return True
