"""Measure in a tenth of a second whether bf16 or float32 is faster on this CPU."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from attar.core.randomness import generator

Precision = Literal["fp32", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLEARLY = 1.25
"""Minimum speed-up of bf16 over float32, on a matrix product and on a convolution, to choose bf16. Below it the gain is
small: parts of a step stay in float32, and bf16 needs additional casts."""
SIDE = 384
"""Rows and columns of the matrices that are multiplied."""
NUM_IMAGES, NUM_CHANNELS, NUM_PIXELS = 8, 64, 16
"""Size of the 3x3 convolution: images, channels in and out, and the side of an image."""
NUM_ROUNDS = 8
"""How often each operation is timed; the fastest round counts."""
SECONDS = 0.1
"""After this time, and at least two rounds, no further round starts. Slow CPUs need no finer measurement."""


@dataclass(frozen=True)
class Speeds:
    """Floating-point operations per second of one thread, by precision."""

    product: Mapping[Precision, float]
    """Speed of a matrix product."""
    convolution: Mapping[Precision, float]
    """Speed of a 3x3 convolution (channels last): forward pass and gradient with respect to the input."""

    def gains(self) -> tuple[float, float]:
        """Return the speed-up of bf16 over float32 on the matrix product and on the convolution."""
        return self.product["bf16"] / self.product["fp32"], self.convolution["bf16"] / self.convolution["fp32"]

    def choice(self) -> Precision:
        """Return 'bf16' if it is clearly faster on both, else 'fp32'."""
        return "bf16" if min(self.gains()) >= CLEARLY else "fp32"

    def reason(self) -> str:
        """Return the measurement in words; printed after the choice and a comma."""
        product, convolution = self.gains()
        subject = "which runs" if self.choice() == "bf16" else "because bf16 runs"
        return f"{subject} {product:.1f}x as fast as float32 on matrix products, {convolution:.1f}x on convolutions"


@functools.cache
def measured() -> Speeds:
    """Return the speeds of this CPU, measured once per process.

    It counts CPU seconds of one thread, alternates the precisions and keeps the fastest of several rounds, so that
    other work on the machine has little influence.
    """
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return measure(_workloads(), time.thread_time)
    finally:
        torch.set_num_threads(num_threads)


def measure(workloads: Mapping[Precision, "Workload"], clock: Callable[[], float]) -> Speeds:
    """Time the workloads in turn with this clock; the first round prepares kernels and does not count."""
    best: dict[tuple[Precision, str], float] = {}
    began = clock()
    for turn in range(1 + NUM_ROUNDS):
        if turn > 2 and clock() - began > SECONDS:
            break
        for precision, work in workloads.items():
            for kind in ("product", "convolution"):
                started = clock()
                getattr(work, kind)()
                seconds = max(clock() - started, 1e-9)
                if turn:
                    best[precision, kind] = min(seconds, best.get((precision, kind), seconds))
    operations = {"product": 2.0 * SIDE**3, "convolution": 2.0 * 2 * NUM_IMAGES * (3 * NUM_CHANNELS * NUM_PIXELS) ** 2}
    found: Any = {
        kind: {precision: count / best[precision, kind] for precision in workloads}
        for kind, count in operations.items()
    }
    return Speeds(**found)


@dataclass(frozen=True)
class Workload:
    """The timed operations in one precision."""

    product: Callable[[], Any]
    convolution: Callable[[], Any]


def _workloads() -> dict[Precision, Workload]:
    return {precision: _workload_in(dtype) for precision, dtype in DTYPES.items()}


def _workload_in(dtype: torch.dtype) -> Workload:
    draws = generator(0, "precision")
    matrix = torch.randn(SIDE, SIDE, generator=draws).to(dtype)
    images, weight = (
        torch.randn(shape, generator=draws).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((NUM_IMAGES, NUM_CHANNELS, NUM_PIXELS, NUM_PIXELS), (NUM_CHANNELS, NUM_CHANNELS, 3, 3))
    )

    def convolve() -> None:
        answer = F.conv2d(images, weight, padding=1)
        ones, mask = (1, 1), (True, False, False)
        torch.ops.aten.convolution_backward(
            answer, images, weight, None, ones, ones, ones, False, (0, 0), 1, mask
        )  # the gradient with respect to the images

    return Workload(lambda: torch.mm(matrix, matrix), convolve)
