"""Measure wall-clock time and CPU time; other programs on the machine lengthen only the first."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Elapsed:
    """The time that a piece of work took, summed over the processes that did it."""

    seconds: float
    """Wall-clock time. With a GPU it is also the GPU's time, as attar keeps the GPU busy."""
    processor_seconds: float | None
    """CPU time of all cores together, including worker processes; None if it was not measured."""

    def plain(self) -> dict[str, float | None]:
        """Return the values for manifests and logs, rounded to milliseconds."""
        processor = None if self.processor_seconds is None else round(self.processor_seconds, 3)
        return {"seconds": round(self.seconds, 3), "processor_seconds": processor}

    def part(self, num_parts: int) -> "Elapsed":
        """Return the time divided by ``num_parts``."""
        processor = None if self.processor_seconds is None else self.processor_seconds / num_parts
        return Elapsed(self.seconds / num_parts, processor)


class Clock:
    """Measures the time since its creation."""

    def __init__(self, before: Elapsed | None = None, processes: int = 1) -> None:
        """``before`` is the time of an earlier, interrupted part of the same work; it is added.

        ``processes`` do the work together and in step, so the time counts as often.
        """
        self._before, self._processes = before or Elapsed(0.0, 0.0), processes
        self._started, self._processor = time.perf_counter(), processor_seconds()

    def elapsed(self) -> Elapsed:
        """Return the time until now."""
        before = self._before.processor_seconds
        # The CPU time of a worker that ended without being waited for is lost, so the difference may be negative.
        own = max(0.0, processor_seconds() - self._processor)
        processor = None if before is None else before + own * self._processes
        seconds = (time.perf_counter() - self._started) * self._processes
        return Elapsed(self._before.seconds + seconds, processor)


def processor_seconds() -> float:
    """Return the CPU seconds of this process and its children.

    On Linux running children count, too; on other systems only children that have ended.
    """
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + _running(os.getpid())


def _running(process: int) -> float:
    """Return the CPU seconds of the running descendants of a process."""
    total = 0.0
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a process may end meanwhile
            for child in map(int, listing.read_text().split()):
                after_name = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK") + _running(child)
    return total
