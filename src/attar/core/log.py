"""Output of a run: events in ``log.jsonl``, sentences, and progress: bars on a terminal, elsewhere lines of text."""

import contextlib
import errno
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from attar.core import ranks
from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.printable import one_line

Advance = Callable[..., None]
"""Moves a progress bar: ``advance(steps=1, note="loss 0.31")``; steps may be fractions."""
OFTEN_SECONDS, SELDOM_SECONDS, OFTEN_UNTIL_SECONDS = 9.0, 60.0, 180.0
"""Longest silence without a terminal: OFTEN_SECONDS in the first minutes of a task, SELDOM_SECONDS afterwards."""


class _Note(ProgressColumn):
    """The last column of a bar: what the work does now, else the task's note."""

    def render(self, task: Task) -> Text:
        """Return the text; a bar asks for it several times a second."""
        return Text(_REPORTER.now or str(task.fields["note"]))


@dataclass
class Stretch:
    """A task in progress."""

    what: str
    total: float = 0
    """Number of steps; 0 when the total is unknown."""
    done: float = 0
    note: str = ""
    unit: str = ""
    began: float = field(default_factory=time.monotonic)
    before: float = 0
    """Steps that were done before it began."""

    def line(self) -> str:
        """Return the progress as a line of text."""
        seconds = time.monotonic() - self.began
        if not self.total:
            return f"{self.what:<9} {_REPORTER.now or 'working'}, {readable_seconds(seconds)} so far"
        parts = [f"{_count(self.done)}/{_count(self.total)}" + f" {self.unit}" * bool(self.unit)]
        parts.append(f"{readable_seconds(seconds)} so far")
        if self.before < self.done < self.total:
            left = (self.total - self.done) * seconds / (self.done - self.before)
            parts.append(f"about {readable_seconds(left)} left")
        if self.done == self.before and not _REPORTER.now:
            step = self.unit.removesuffix("s") or "step"
            parts.append(f"the {'next' if self.before else 'first'} {step} is not done yet")
        return f"{self.what:<9} " + ", ".join([*parts, *filter(None, [_REPORTER.now or self.note])])


class Reporter:
    """Prints the progress of the innermost task after some silence, even in the middle of a long step."""

    def __init__(self) -> None:
        self.spoken = time.monotonic()
        """Time of the last printed line."""
        self.now = ""
        """What the innermost task is doing instead of its steps, such as compiling."""
        self._open: list[tuple[Stretch, Console]] = []
        self._ended = threading.Event()

    @contextlib.contextmanager
    def watching(self, stretch: Stretch, console: Console) -> Iterator[None]:
        """Report on this task during the block; one thread reports as long as any task is open."""
        self._open.append((stretch, console))
        thread = None
        if len(self._open) == 1:
            self.spoken, self._ended = time.monotonic(), threading.Event()
            thread = threading.Thread(target=self._watch, args=(self._ended,), name="attar-progress", daemon=True)
            thread.start()
        try:
            yield
        finally:
            self._open.remove((stretch, console))
            if self._open and self._open[-1][0].total == 0:
                outer = self._open[-1][0]  # the uncounted work that follows is named after these steps
                outer.what, outer.began = f"after {stretch.what}", time.monotonic()
            if thread is not None:
                self._ended.set()
                thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.01, self._due() - time.monotonic())):
            if time.monotonic() >= self._due() and self._open:
                stretch, console = self._open[-1]
                self.spoken = time.monotonic()
                console.print(stretch.line(), markup=False, soft_wrap=True)

    def _due(self) -> float:
        """Time at which the next line is printed."""
        young = not self._open or self.spoken - self._open[-1][0].began < OFTEN_UNTIL_SECONDS
        return self.spoken + (OFTEN_SECONDS if young else SELDOM_SECONDS)


_REPORTER = Reporter()
"""One for all logs of the process."""


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Show on progress lines and bars, during the block, what the work does before its next step: compiling."""
    before, _REPORTER.now = _REPORTER.now, what
    try:
        yield
    finally:
        _REPORTER.now = before


class Log:
    """Writes events as JSON lines, and prints to standard error; only the first process prints.

    Progress is shown as bars on a terminal and as lines elsewhere. Standard output is left to results.
    """

    def __init__(self, path: Path | None = None, *, quiet: bool = False) -> None:
        """``path`` is the JSON-lines file to append to; each further process writes its own, named by its rank."""
        self.path = path if path is None or ranks.is_first() else path.with_suffix(f".rank{ranks.rank()}.jsonl")
        self.quiet = quiet or not ranks.is_first()
        self.console = SafeConsole(stderr=True, quiet=self.quiet, highlight=False)

    def beside(self, folder: Path) -> "Log":
        """Return a log that prints in the same way and writes its events into another folder."""
        return Log(folder / "log.jsonl", quiet=self.quiet)

    def event(self, event: str, **values: Any) -> None:
        """Append one line to the file: the time, the event's name, its values."""
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
                f"{self.path} cannot be written ({error.strerror}); make its folder writable, or copy the run to a "
                f"writable folder and use that as --out."
            ) from None

    def say(self, text: str) -> None:
        """Print one line."""
        _REPORTER.spoken = time.monotonic()
        self.console.print(one_line(text), markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning and write it to the file as an event."""
        _REPORTER.spoken = time.monotonic()
        self.console.print(f"warning: {one_line(text)}", style="yellow", markup=False, soft_wrap=True)
        self.event("warning", text=text)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Show progress over ``total`` steps, of which ``done`` are finished; yields the function that advances it."""
        stretch = Stretch(what, total, done, unit=unit, before=done)
        bar, task = self._bar(stretch) if self._draws() else (None, None)

        def advance(steps: float = 1, note: str = "") -> None:
            stretch.done += steps
            stretch.note = note or stretch.note
            if bar is not None and task is not None:
                bar.update(task, completed=stretch.done, note=stretch.note)

        with bar or self._lines(stretch):
            yield advance

    @contextlib.contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Print a line every few seconds while no task counts steps, so that the run is never silent."""
        with contextlib.nullcontext() if self._draws() else self._lines(Stretch(what)):
            yield

    def _draws(self) -> bool:
        return self.console.is_terminal and not self.quiet

    def _lines(self, stretch: Stretch) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.quiet else _REPORTER.watching(stretch, self.console)

    def _bar(self, stretch: Stretch) -> tuple[Progress, TaskID]:
        bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _Note(),
            console=self.console,
        )
        return bar, bar.add_task(stretch.what, total=stretch.total, completed=stretch.done, note="")  # type: ignore[arg-type]


def readable_seconds(seconds: float) -> str:
    """Return seconds as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(steps: float) -> str:
    return f"{round(steps):,}" if abs(steps - round(steps)) < 0.05 or steps >= 1000 else f"{steps:.1f}"


def _no_number(value: object) -> bool:
    """Return whether JSON cannot express the value: NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)


def readable_bytes(count: int) -> str:
    """Return a byte count in decimal units with three digits."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError
