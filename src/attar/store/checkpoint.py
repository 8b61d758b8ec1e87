"""Checkpoints of long work: saved periodically, and loaded only by the same work that saved them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError
from attar.store import weights

EVERY_SECONDS = 60.0
"""Minimum time between two checkpoints."""
MAX_TIME_SHARE = 0.05
"""Saving takes at most this share of the time; checkpoints on slow disks are therefore less frequent."""


class Pace:
    """When the next checkpoint is due: ``every_seconds`` after the last, or later where saving takes long."""

    def __init__(self, every_seconds: float) -> None:
        self._every = every_seconds
        self._due = time.monotonic() + every_seconds

    def is_due(self) -> bool:
        """Return whether it is time to save."""
        return time.monotonic() >= self._due

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long saving takes, which the block does."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self._due = time.monotonic() + max(self._every, took / MAX_TIME_SHARE)


class Checkpoint:
    """A file with the state of unfinished work. Saving it or continuing from it does not change the result."""

    def __init__(self, path: Path, identity: str, every_seconds: float | None = None) -> None:
        """``identity`` is a hash that identifies the work; ``every_seconds`` is 60 by default."""
        self._path, self._identity = path, identity
        self._pace = Pace(EVERY_SECONDS if every_seconds is None else every_seconds)

    def load(self) -> Any | None:
        """Return the last saved state; None if there is none, or if the file is damaged or belongs to other work."""
        if not self._path.is_file():
            return None
        try:
            saved = weights.load_tree(self._path)
            return saved["state"] if saved["made_for"] == self._identity else None
        except (AttarError, KeyError, TypeError, ValueError):
            return None

    def offer(self, state: Callable[[], Any]) -> None:
        """Save ``state()`` if the last checkpoint is old enough; ``weights.save_tree`` lists what a state may hold."""
        if self._pace.is_due():
            with self._pace.saving():
                weights.save_tree(self._path, {"made_for": self._identity, "state": state()})

    def remove(self) -> None:
        """Remove the file after the work is done."""
        self._path.unlink(missing_ok=True)
