"""Checkpoints of long work: saved every so often, and used by no other work than that which saved them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError
from attar.store import weights

EVERY_SECONDS = 60.0
"""Between two checkpoints."""
MOST_TIME = 0.05
"""Of the time, saving takes no more than this part: slow disks are written to less often."""


class Checkpoint:
    """A file with the state of unfinished work. When it is saved, and whether it is used, alters no result."""

    def __init__(self, path: Path, identity: str, every_seconds: float | None = None) -> None:
        """``identity`` identifies the work; ``every_seconds`` is 60 by default."""
        self._path, self._identity = path, identity
        self._every = EVERY_SECONDS if every_seconds is None else every_seconds
        self._due = time.monotonic() + self._every

    def load(self) -> Any | None:
        """The state that was saved last; None when there is none, or the file is damaged or of other work."""
        if not self._path.is_file():
            return None
        try:
            saved = weights.load_tree(self._path)
            return saved["state"] if saved["made_for"] == self._identity else None
        except (AttarError, KeyError, TypeError, ValueError):
            return None

    def offer(self, state: Callable[[], Any]) -> None:
        """Save ``state()`` when the last checkpoint is old enough; ``weights.save_tree`` says what it may hold."""
        began = time.monotonic()
        if began >= self._due:
            weights.save_tree(self._path, {"made_for": self._identity, "state": state()})
            took = time.monotonic() - began
            self._due = time.monotonic() + max(self._every, took / MOST_TIME)

    def remove(self) -> None:
        """Remove the file, when the work is done."""
        self._path.unlink(missing_ok=True)
