"""Output of a run: events in ``log.jsonl``, messages, and progress (bars on a terminal, lines of text elsewhere)."""

import contextlib
import errno
import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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
"""Moves a progress bar: ``advance(steps=1, note="loss 0.31", values={"loss": 0.31})``; steps may be fractions. With
``earlier=True`` they were done by an earlier process and do not count for the pace."""
OFTEN_SECONDS, SELDOM_SECONDS, OFTEN_UNTIL_SECONDS = 9.0, 60.0, 180.0
"""Seconds between progress lines without a terminal: OFTEN_SECONDS until a task is OFTEN_UNTIL_SECONDS old, then
SELDOM_SECONDS."""
RECORD_SECONDS, RECORD_SHARE, RECORD_MOST_SECONDS = 1.0, 0.01, 60.0
"""Seconds between the progress events of a task in the file: RECORD_SHARE of its age, within the two bounds. So long
runs do not fill the file."""


class _Note(ProgressColumn):
    """The last column of a bar: the current activity, such as compiling; without one, the task's note."""

    def render(self, task: Task) -> Text:
        """Return the text; rich calls it several times a second."""
        return Text(_REPORTER.activity or str(task.fields["note"]))


@dataclass
class ProgressState:
    """The progress of one task."""

    what: str
    total: float = 0
    """Number of steps; 0 when the total is unknown."""
    done: float = 0
    note: str = ""
    unit: str = ""
    began: float = field(default_factory=lambda: time.monotonic())
    before: float = 0
    """Steps that were finished before this run began."""
    taken_over: float = 0
    """Further steps that this run did not do itself: those of an interrupted training that it continues."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The last measured numbers, such as losses."""
    recorded: float = -math.inf
    """Time of the last progress event in the file."""

    def due(self) -> bool:
        """Return whether the next progress event is due."""
        now = time.monotonic()
        wait = min(max(RECORD_SECONDS, RECORD_SHARE * (now - self.began)), RECORD_MOST_SECONDS)
        return now >= self.recorded + wait

    def line(self) -> str:
        """Return the progress as a line of text."""
        seconds = time.monotonic() - self.began
        if not self.total:
            return f"{self.what:<9} {_REPORTER.activity or 'working'}, {readable_seconds(seconds)} so far"
        parts = [f"{_count(self.done)}/{_count(self.total)}" + f" {self.unit}" * bool(self.unit)]
        parts.append(f"{readable_seconds(seconds)} so far")
        own = self.done - self.before - self.taken_over
        if own > 0 and self.done < self.total:
            left = (self.total - self.done) * seconds / own
            parts.append(f"about {readable_seconds(left)} left")
        if own <= 0 and not _REPORTER.activity:
            step = self.unit.removesuffix("s") or "step"
            parts.append(f"working on the {'next' if self.done else 'first'} {step}")
        return f"{self.what:<9} " + ", ".join([*parts, *filter(None, [_REPORTER.activity or self.note])])


class Reporter:
    """Prints a progress line of the innermost task if nothing was printed for a while, even during a long step."""

    def __init__(self) -> None:
        self.last_printed = time.monotonic()
        """Time of the last printed line."""
        self.activity = ""
        """What the innermost task does before its next step, such as compiling."""
        self._open: list[tuple[ProgressState, Console]] = []
        self._ended = threading.Event()

    @contextlib.contextmanager
    def reporting(self, state: ProgressState, console: Console) -> Iterator[None]:
        """Report on this task during the block; a single thread reports for all open tasks."""
        self._open.append((state, console))
        thread = None
        if len(self._open) == 1:
            self.last_printed, self._ended = time.monotonic(), threading.Event()
            thread = threading.Thread(target=self._watch, args=(self._ended,), name="attar-progress", daemon=True)
            thread.start()
        try:
            yield
        finally:
            self._open.remove((state, console))
            if self._open and self._open[-1][0].total == 0:
                outer = self._open[-1][0]  # the work that follows has no counted steps; say what it follows
                outer.what, outer.began = f"after {state.what}", time.monotonic()
            if thread is not None:
                self._ended.set()
                thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.01, self._due() - time.monotonic())):
            self.print_if_due()

    def print_if_due(self) -> None:
        """Print the line of the innermost task if its time has come."""
        if time.monotonic() >= self._due() and self._open:
            state, console = self._open[-1]
            self.last_printed = time.monotonic()
            console.print(state.line(), markup=False, soft_wrap=True)

    def _due(self) -> float:
        """Return the time at which the next line is printed."""
        young = not self._open or self.last_printed - self._open[-1][0].began < OFTEN_UNTIL_SECONDS
        return self.last_printed + (OFTEN_SECONDS if young else SELDOM_SECONDS)


_REPORTER = Reporter()
"""Shared by all logs of the process."""


_relay: Callable[[str, str], object] | None = None


def relay(send: Callable[[str, str], object]) -> None:
    """Call ``send`` from now on with every message and warning of this process: its kind (say or warn) and its text."""
    global _relay
    _relay = send


@contextlib.contextmanager
def activity(what: str) -> Iterator[None]:
    """Show ``what``, such as "compiling", on progress lines and bars during the block."""
    before, _REPORTER.activity = _REPORTER.activity, what
    try:
        yield
    finally:
        _REPORTER.activity = before


class Log:
    """Writes events as JSON lines, and prints messages and progress to standard error; only rank 0 prints.

    Progress is a bar on a terminal and lines of text elsewhere. Standard output is reserved for results.
    """

    def __init__(self, path: Path | None = None, *, quiet: bool = False, hold: bool = False) -> None:
        """``path`` is the JSON-lines file to append to; ranks above 0 write to their own files, named by rank.

        With ``hold``, events are kept in memory until ``release``, so that a run that is refused writes nothing.
        """
        self._held: list[str] | None = [] if hold else None
        self._above: Log | None = None
        number = ranks.number()
        self.path = path if path is None or not number else path.with_suffix(f".rank{number}.jsonl")
        self.quiet = quiet or not ranks.is_first()
        self.console = SafeConsole(stderr=True, quiet=self.quiet, highlight=False)

    def beside(self, folder: Path) -> "Log":
        """Return a log that prints in the same way and writes its events into another folder."""
        log = Log(folder / "log.jsonl", quiet=self.quiet)
        log._above = self
        return log

    def release(self) -> None:
        """Write the events that were held back, here and in the log that this one was made from."""
        if self._above is not None:
            self._above.release()
        held, self._held = self._held, None
        if held:
            self._append("".join(held))

    def event(self, event: str, **values: Any) -> None:
        """Append one line to the file: the time, the event's name, its values."""
        if self.path is None:
            return
        values = {key: None if _is_not_finite(value) else value for key, value in values.items()}
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        if self._held is None:
            self._append(line)
        else:
            self._held.append(line)

    def _append(self, lines: str) -> None:
        assert self.path is not None  # else there is no event
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(lines)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            raise AttarError(
                f"{self.path} cannot be written ({error.strerror}); make its folder writable, or copy the run to a "
                f"writable folder and pass that folder as --out."
            ) from None

    def say(self, text: str) -> None:
        """Print one line."""
        _REPORTER.last_printed = time.monotonic()
        self.console.print(one_line(text), markup=False, soft_wrap=True)
        if _relay is not None:
            _relay("say", text)

    def warn(self, text: str, **values: Any) -> None:
        """Print a warning; write it, with the values, to the file as an event, unless the file has it already."""
        _REPORTER.last_printed = time.monotonic()
        self.console.print(f"warning: {one_line(text)}", style="yellow", markup=False, soft_wrap=True)
        if _relay is not None:
            _relay("warn", text)
        told = json.dumps({"text": text, **values}, sort_keys=True)
        if told not in self._told:  # a finished run that is asked again writes nothing
            self._told.add(told)
            self.event("warning", text=text, **values)

    @functools.cached_property
    def _told(self) -> set[str]:
        """The warnings that the file has, without their times."""
        found = set[str]()
        with contextlib.suppress(OSError, ValueError):
            for line in self.path.open() if self.path else ():
                if '"event": "warning"' in line:
                    event = json.loads(line)
                    found.add(json.dumps({key: event[key] for key in event.keys() - {"time", "event"}}, sort_keys=True))
        return found

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Show progress over ``total`` steps, of which ``done`` are finished; yields the function that advances it.

        The file gets a progress event at the start, at the end and at times between (see RECORD_SECONDS), unless
        nothing is left to do.
        """
        state = ProgressState(what, total, done, unit=unit, before=done)
        bar, task = self._bar(state) if self._draws() else (None, None)

        def advance(
            steps: float = 1, note: str = "", values: Mapping[str, float] | None = None, earlier: bool = False
        ) -> None:
            state.done += steps
            state.taken_over += steps * earlier
            state.note = note or state.note
            state.values = values or state.values
            if bar is not None and task is not None:
                if earlier:
                    bar.tasks[0].completed = state.done  # an update would count them for the time left
                bar.update(task, completed=state.done, note=state.note)
            if state.due():
                self._record(state)

        is_open = not total or done < total
        if is_open:
            self._record(state)
        with bar or self._lines(state):
            yield advance
        if is_open:
            self._record(state)

    def _record(self, state: ProgressState) -> None:
        """Write a progress event; the numbers only when they were measured since the last one."""
        state.recorded = time.monotonic()
        values, state.values = state.values, {}
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        parts = {"before": state.before, "taken_over": state.taken_over, "note": state.note, "values": finite}
        used = {key: part for key, part in parts.items() if part}
        self.event("progress", what=state.what, unit=state.unit, done=round(state.done, 3), total=state.total, **used)

    @contextlib.contextmanager
    def heartbeat(self, what: str) -> Iterator[None]:
        """Print a line every few seconds while no task counts steps, so that the run is never silent."""
        with contextlib.nullcontext() if self._draws() else self._lines(ProgressState(what)):
            yield

    def _draws(self) -> bool:
        return self.console.is_terminal and not self.quiet

    def _lines(self, state: ProgressState) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.quiet else _REPORTER.reporting(state, self.console)

    def _bar(self, state: ProgressState) -> tuple[Progress, TaskID]:
        bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _Note(),
            console=self.console,
        )
        return bar, bar.add_task(state.what, total=state.total, completed=state.done, note="")  # type: ignore[arg-type]


def readable_seconds(seconds: float) -> str:
    """Return seconds as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(steps: float) -> str:
    return f"{round(steps):,}" if abs(steps - round(steps)) < 0.05 or steps >= 1000 else f"{steps:.1f}"


def _is_not_finite(value: object) -> bool:
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
