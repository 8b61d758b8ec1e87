"""What a run says: metrics to ``log.jsonl``, sentences and progress bars to a terminal."""

import contextlib
import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attar.core import ranks
from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.printable import one_line

Advance = Callable[..., None]
"""Moves a progress bar: ``advance(steps=1, note="loss 0.31")``."""


class Log:
    """Writes events as JSON lines and speaks to the user; only the first process speaks.

    Bars are drawn on terminals only. Everything printed goes to standard error, so that standard output holds
    results alone.
    """

    def __init__(self, path: Path | None = None, *, quiet: bool = False) -> None:
        """``path`` is the JSON-lines file, appended to; further processes write beside it, with their rank."""
        self.path = path if path is None or ranks.is_first() else path.with_suffix(f".rank{ranks.rank()}.jsonl")
        self.quiet = quiet or not ranks.is_first()
        self.console = SafeConsole(stderr=True, quiet=self.quiet, highlight=False)

    def beside(self, folder: Path) -> "Log":
        """The same voice, writing its events into another folder."""
        return Log(folder / "log.jsonl", quiet=self.quiet)

    def event(self, event: str, **values: Any) -> None:
        """Append one line: the time, the event's name, its values."""
        if self.path is None:
            return
        values = {key: None if _no_number(value) else value for key, value in values.items()}
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            raise AttarError(
                f"{self.path} cannot be written ({error.strerror}); make its folder writable, or copy the run to one "
                f"that is and name that as --out."
            ) from None

    def say(self, text: str) -> None:
        """One line for the user."""
        self.console.print(one_line(text), markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that the user should not miss; also an event."""
        self.console.print(f"warning: {one_line(text)}", style="yellow", markup=False, soft_wrap=True)
        self.event("warning", text=text)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A bar over ``total`` steps, of which ``done`` are behind us; yields the function that advances it."""
        bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=self.quiet or not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(what, total=total, completed=done, note="")

            def advance(steps: int = 1, note: str = "") -> None:
                bar.update(task, advance=steps)
                if note:
                    bar.update(task, note=note)

            yield advance


def _no_number(value: object) -> bool:
    """Whether JSON has no word for it: NaN and the infinities."""
    return isinstance(value, float) and not math.isfinite(value)


def readable_bytes(count: int) -> str:
    """A byte count in decimal units, three digits."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError
