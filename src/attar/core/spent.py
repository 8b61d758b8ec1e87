"""What work takes: seconds on the wall clock, which other programs lengthen, and seconds of the processor's cores."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spent:
    """What a stretch of work took in one process."""

    seconds: float
    """On the wall clock. On a GPU they stand for its time: attar leaves it nothing else to do."""
    processor_seconds: float | None
    """Of all processor cores together, worker processes included; None where it was not measured."""

    def plain(self) -> dict[str, float | None]:
        """As it is written down, to the millisecond."""
        processor = None if self.processor_seconds is None else round(self.processor_seconds, 3)
        return {"seconds": round(self.seconds, 3), "processor_seconds": processor}

    def part(self, num_parts: int) -> "Spent":
        """An even share."""
        processor = None if self.processor_seconds is None else self.processor_seconds / num_parts
        return Spent(self.seconds / num_parts, processor)


class Clock:
    """Measures a stretch of work from here on."""

    def __init__(self, before: Spent | None = None) -> None:
        """``before`` is what an interrupted part of the same work took."""
        self._before = before or Spent(0.0, 0.0)
        self._started, self._processor = time.perf_counter(), processor_seconds()

    def spent(self) -> Spent:
        """What it took until now."""
        before = self._before.processor_seconds
        # A worker that nobody waited for takes its seconds with it.
        processor = None if before is None else before + max(0.0, processor_seconds() - self._processor)
        return Spent(self._before.seconds + time.perf_counter() - self._started, processor)


def processor_seconds() -> float:
    """Seconds that this process, and those that it started, have had of the processor's cores.

    Processes that still run are counted where Linux tells of them; elsewhere those that have ended.
    """
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + _running(os.getpid())


def _running(process: int) -> float:
    """Of the processes that this one started and that still run."""
    total = 0.0
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ends meanwhile
            for child in map(int, listing.read_text().split()):
                after_name = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK") + _running(child)
    return total
