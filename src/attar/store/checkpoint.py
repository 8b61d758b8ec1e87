"""Checkpoints of long work: saved periodically, and loaded only by the same work that saved them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError
from attar.store import weights

EVERY_SECONDS = 60.0
"""Minimum time between two checkpoints."""
MAX_TIME_SHARE = 0.05
"""Saving takes at most this share of the time; checkpoints on slow disks are therefore less frequent."""


class Checkpoint:
    """A file with the state of unfinished work. Saving it or continuing from it does not change the result."""

    def __init__(self, path: Path, identity: str, every_seconds: float | None = None) -> None:
        """``identity`` is a hash that identifies the work; ``every_seconds`` is 60 by default."""
        self._path, self._identity = path, identity
        self._every = EVERY_SECONDS if every_seconds is None else every_seconds
        self._due = time.monotonic() + self._every

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
        began = time.monotonic()
        if began >= self._due:
            weights.save_tree(self._path, {"made_for": self._identity, "state": state()})
            took = time.monotonic() - began
            self._due = time.monotonic() + max(self._every, took / MAX_TIME_SHARE)

    def remove(self) -> None:
        """Remove the file after the work is done."""
        self._path.unlink(missing_ok=True)
