"""Measuring: how long a step takes, and how much memory a stretch of work."""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

NUM_WARM, NUM_STEADY = 2, 5
"""Steps that don't count, and how many at least do; of steps so slow that LONGEST_SECONDS pass, two are enough."""
LONGEST_SECONDS = 10.0
GLANCE_SECONDS = 0.1
"""The clock is read that often: to wait for a GPU after every step would slow the steps down."""


class Pace:
    """Times steps: the first, and the median of those after the warm-up."""

    def __init__(
        self,
        device: torch.device,
        seconds: float,
        num_steps: int = sys.maxsize,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start the clock; measure steady steps, at most ``num_steps``, for about ``seconds``."""
        self._device, self._clock, self._seconds, self._num_steps = device, clock, seconds, num_steps
        self._since, self._stride, self._steady = 0, 1, 0.0
        self.times: list[float] = []
        """Seconds a step, each time the clock was read."""
        self._last = self._clock()

    def tick(self) -> bool:
        """Count a step that was asked of the device; returns whether enough are measured."""
        self._since += 1
        if self._since < self._stride:
            return False
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        self.times.append((now - self._last) / self._since)
        num_steady = len(self.times) - NUM_WARM
        if num_steady > 0:
            self._steady += now - self._last
        elif num_steady == 0:
            fitting = round(GLANCE_SECONDS / max(self.times[-1], 1e-6))
            self._stride = max(1, min(fitting, (self._num_steps - NUM_WARM) // NUM_STEADY))
        self._last, self._since = now, 0
        enough = num_steady >= NUM_STEADY and self._steady >= self._seconds
        return enough or (num_steady >= 2 and self._steady >= LONGEST_SECONDS)

    @property
    def step_seconds(self) -> float:
        """A steady step's; of very few steps, the last one's."""
        return statistics.median(self.times[NUM_WARM:] or self.times[-1:])

    @property
    def preparation_seconds(self) -> float:
        """What the first step took beyond a steady one: compilation, mostly."""
        return max(0.0, self.times[0] - self.step_seconds)


class Peak:
    """The most memory in use within a ``with``: a GPU's as allocated; else resident beyond what was there before."""

    num_bytes: int | None = None
    """None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._highest = device, 0, 0

    def __enter__(self) -> "Peak":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux begins the peak anew, where that is permitted
            self._before, self._highest = status_bytes("VmRSS"), status_bytes("VmHWM")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.num_bytes = torch.cuda.max_memory_allocated(self._device)
        elif (peak := status_bytes("VmHWM")) > self._highest:
            self.num_bytes = peak - self._before


def status_bytes(key: str) -> int:
    """What Linux says of this process; 0 elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0
