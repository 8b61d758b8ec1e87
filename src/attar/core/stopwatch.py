"""Measure the time of a step and the peak memory of a block."""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

NUM_WARM, NUM_STEADY = 2, 5
"""Number of warm-up steps, and minimum number of measured steps; two are enough if they take LONGEST_SECONDS."""
LONGEST_SECONDS = 5.0
PATIENCE_SECONDS = 8.0
"""So long on the wall clock after the first step, what is measured is enough: a busy machine answers, too."""
READ_SECONDS = 0.1
"""How often the clock is read. Synchronising with a GPU after every step would slow the steps down."""


def fair_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that other programs do not disturb: on a CPU the processor seconds of this thread.

    This thread takes part in every operation, also when several threads share it. A GPU is timed on the wall clock.
    """
    return time.thread_time if device.type == "cpu" else time.perf_counter


class Pace:
    """Measures the time of the first step, and the median of the steps after the warm-up."""

    def __init__(
        self,
        device: torch.device,
        seconds: float,
        num_steps: int = sys.maxsize,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.perf_counter,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Start the clock; measure steady steps, at most ``num_steps``, for about ``seconds``.

        ``wall`` is the clock of the user who waits, and ``patience`` replaces PATIENCE_SECONDS.
        """
        self._patience = patience
        self._device, self._clock, self._seconds, self._num_steps = device, clock, seconds, num_steps
        self._wall, self._begun, self._first_wall = wall, wall(), 0.0  # the last: seconds of the first step
        self._since, self._stride, self._steady = 0, 1, 0.0
        self.times: list[float] = []
        """Seconds per step, at each reading of the clock."""
        self._last = self._clock()

    def tick(self) -> bool:
        """Count a step that was submitted to the device; returns whether enough steps are measured."""
        self._since += 1
        if self._since < self._stride:
            return False
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now, waited = self._clock(), self._wall() - self._begun
        if not self.times:
            self._first_wall = waited
        self.times.append((now - self._last) / self._since)
        num_steady = len(self.times) - NUM_WARM
        if num_steady > 0:
            self._steady += now - self._last
        elif num_steady == 0:
            fitting = round(READ_SECONDS / max(self.times[-1], 1e-6))
            self._stride = max(1, min(fitting, (self._num_steps - NUM_WARM) // NUM_STEADY))
        self._last, self._since = now, 0
        enough = num_steady >= NUM_STEADY and self._steady >= self._seconds
        slow = num_steady >= 2 and self._steady >= LONGEST_SECONDS
        return enough or slow or waited - self._first_wall >= self._patience

    @property
    def step_seconds(self) -> float:
        """The median time of the steps after the warm-up; the last step's if there are fewer."""
        return statistics.median(self.times[NUM_WARM:] or self.times[-1:])

    @property
    def preparation_seconds(self) -> float:
        """How much longer the first step took than a steady one: mostly compilation."""
        return max(0.0, self.times[0] - self.step_seconds)

    @property
    def compilation_seconds(self) -> float:
        """How much longer the first step took on the wall clock: compilers are processes of their own."""
        return max(0.0, self._first_wall - self.step_seconds)


class Peak:
    """Measures a block's peak memory: allocated bytes on a GPU, else the growth of resident memory."""

    num_bytes: int | None = None
    """None if the system does not report it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._highest = device, 0, 0

    def __enter__(self) -> "Peak":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the peak, if Linux permits it
            self._before, self._highest = status_bytes("VmRSS"), status_bytes("VmHWM")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.num_bytes = torch.cuda.max_memory_allocated(self._device)
        elif (peak := status_bytes("VmHWM")) > self._highest:
            self.num_bytes = peak - self._before


def status_bytes(key: str) -> int:
    """Return a memory figure of this process in bytes, from Linux; 0 on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0
