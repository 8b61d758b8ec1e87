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
from attar.store.cache import usable

_WAIT_SECONDS = 0.05
_ATTEMPTS = 20
_RESERVED = ".reserved"
_NUM_LOCKS = 64
_ROOM_LOCK = "lock-room"
_FINISHED = (0, 0)
"""Times of a block that is not needed soon."""
Result = TypeVar("Result")
Grow = Callable[[int], None]
Make = Callable[[Path, Grow], None]
"""Writes a block to a path; calls ``Grow`` with the number of its bytes before, if that was not known."""


class DamagedBlock(Exception):  # noqa: N818
    """A block's file does not hold what was written; raised by those who read it."""


class BlockCache:
    """The blocks in a folder, up to a number of bytes; finished ones are removed first, then those used longest ago."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def use(self, name: str, size: int, make: Make, read: Callable[[Path], Result], where: str = "") -> Result:
        """Return what ``read`` returns for a block's file; ``make`` writes it if it is not there, or damaged.

        Errors call the block ``where``. ``size`` is the number of bytes that it will have, as far as it is known. Other
        processes wait while one makes a block. Raises AttarError when the block alone is larger than the limit, or the
        folder cannot be used, and what ``make`` raises.
        """
        path = self._path(name)
        with usable(self.folder):
            for _ in range(_ATTEMPTS):
                try:
                    _touch(path)
                    return read(path)
                except FileNotFoundError:  # not there, or removed by another process meanwhile
                    pass
                except DamagedBlock:
                    path.unlink(missing_ok=True)
                made = self._make(path, where or name, size, make, read)
                if made is not None:
                    return made[0]
        raise AttarError(
            f"{self.folder} is too small for the data that are in use; raise --data.cache-bytes ({self.limit:,})."
        )

    def read_if_there(self, name: str, read: Callable[[Path], Result]) -> Result | None:
        """Return what ``read`` returns for a block's file; None if it is not there, or damaged."""
        with usable(self.folder), contextlib.suppress(FileNotFoundError, DamagedBlock):
            return read(self._path(name))
        return None

    def finish(self, name: str) -> None:
        """Let a block be removed before all that were used since."""
        with contextlib.suppress(OSError):  # it is not there, or cannot be written, which its use tells
            os.utime(self._path(name), _FINISHED)

    def _path(self, name: str) -> Path:
        return self.folder / sha256(name.encode(errors="surrogateescape")).hexdigest()[:40]

    def _make(
        self, path: Path, where: str, size: int, make: Make, read: Callable[[Path], Result]
    ) -> tuple[Result] | None:
        """Make a block and read it, before another one can remove it; None if another process has made it."""
        with atomic.locked(self.folder / f"lock-{int(path.name[:8], 16) % _NUM_LOCKS}"):
            if path.exists():
                return None
            with self._reserved(path, where, size) as grow:
                with atomic.replace(path) as unfinished:
                    make(unfinished, grow)
                    _touch(unfinished)
                try:
                    return (read(path),)
                except DamagedBlock:
                    path.unlink(missing_ok=True)
                    raise AttarError(
                        f"{where} was written to {self.folder} and cannot be read; check the disk."
                    ) from None

    @contextlib.contextmanager
    def _reserved(self, path: Path, where: str, size: int) -> Iterator[Grow]:
        """Keep room for a block, by a locked file of this size; waits while others make blocks that fill the limit."""
        place = path.with_name(path.name + _RESERVED)

        def release() -> None:
            with atomic.locked(self.folder / _ROOM_LOCK):  # who looks for room must see the block or its reservation
                place.unlink(missing_ok=True)

        with contextlib.ExitStack() as stack:
            with self._room(where, size):
                stack.enter_context(atomic.locked(place))
                stack.callback(release)
                os.truncate(place, size)  # a hole: it counts, and takes no room

            def grow(size: int) -> None:
                if size > place.stat().st_size:
                    os.truncate(place, 0)  # two that wait must not wait for each other
                    with self._room(where, size):
                        os.truncate(place, size)

            yield grow

    @contextlib.contextmanager
    def _room(self, where: str, size: int) -> Iterator[None]:
        """Wait until there is room for a block, and hold the lock of all reservations."""
        if size > self.limit:
            raise AttarError(
                f"{where} has {size:,} bytes, more than the cache may hold; raise --data.cache-bytes ({self.limit:,})."
            )
        while True:
            with atomic.locked(self.folder / _ROOM_LOCK):
                if self._make_room(size):
                    yield
                    return
            time.sleep(_WAIT_SECONDS)

    def _make_room(self, size: int) -> bool:
        """Remove finished blocks, then those used longest ago, until ``size`` more bytes fit; return whether they do.

        Blocks that others make count and are not removed; what killed processes left is.
        """
        held: dict[str, tuple[int, int]] = {}
        reserved: dict[str, int] = {}
        unfinished: list[Path] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.suffix == _RESERVED:
                    if atomic.is_locked(path):
                        reserved[path.stem] = state.st_size
                    else:
                        path.unlink()
                elif atomic.is_temporary(path):
                    unfinished.append(path)
                elif not path.name.startswith("lock-"):
                    held[path.name] = (state.st_mtime_ns, state.st_size)
        for path in unfinished:
            if path.name[1:].partition(".")[0] not in reserved:
                path.unlink(missing_ok=True)
        removable = sorted((time, name, taken) for name, (time, taken) in held.items() if name not in reserved)
        total = size + sum(reserved.values()) + sum(taken for _, _, taken in removable)
        for _, name, taken in removable:
            if total <= self.limit:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= taken
        return total <= self.limit


def _touch(path: Path) -> None:
    """Note that a block is used now; the system's own times of files move in steps, in which several are used."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
