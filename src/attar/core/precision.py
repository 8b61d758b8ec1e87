"""Which arithmetic is faster on this processor, bf16 or float32: a tenth of a second of measuring decides."""

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
"""How many times as fast as float32 bf16 must be, on a product and on a convolution, to be chosen. Below it there is
little to win: a step also has parts that stay float32, and casts that float32 does without."""
SIDE = 384
"""Rows and columns of the matrices that are multiplied."""
NUM_IMAGES, NUM_CHANNELS, NUM_PIXELS = 8, 64, 16
"""Of the 3x3 convolution: images, channels in and out, and the side of an image."""
NUM_ROUNDS = 8
"""How often each is timed. The best counts."""
SECONDS = 0.1
"""No further round is begun after so long, once there were two: a slow processor needs no better answer."""


@dataclass(frozen=True)
class Speeds:
    """Floating-point operations per second, of one thread, by precision."""

    product: Mapping[Precision, float]
    """Of a product of matrices."""
    convolution: Mapping[Precision, float]
    """Of a 3x3 convolution, channels last, forward and the gradient with respect to its input."""

    def gains(self) -> tuple[float, float]:
        """How many times as fast as float32 bf16 is, on the product and on the convolution."""
        return self.product["bf16"] / self.product["fp32"], self.convolution["bf16"] / self.convolution["fp32"]

    def choice(self) -> Precision:
        """bf16 where it clearly wins on both, else fp32."""
        return "bf16" if min(self.gains()) >= CLEARLY else "fp32"

    def reason(self) -> str:
        """What was measured, in words that follow the choice and a comma."""
        product, convolution = self.gains()
        subject = "which is" if self.choice() == "bf16" else "for bf16 is"
        return f"{subject} {product:.1f}x float32 on a product, {convolution:.1f}x on a convolution"


@functools.cache
def measured() -> Speeds:
    """The speeds of this processor, measured once per process.

    One thread's CPU seconds are counted, the precisions take turns, and the best of several counts, so that other work
    on the machine hardly matters.
    """
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return measure(_works(), time.thread_time)
    finally:
        torch.set_num_threads(num_threads)


def measure(works: Mapping[Precision, "Works"], clock: Callable[[], float]) -> Speeds:
    """Time the works by turns with this clock; the first round, which prepares kernels, does not count."""
    best: dict[tuple[Precision, str], float] = {}
    began = clock()
    for turn in range(1 + NUM_ROUNDS):
        if turn > 2 and clock() - began > SECONDS:
            break
        for precision, work in works.items():
            for kind in ("product", "convolution"):
                started = clock()
                getattr(work, kind)()
                seconds = max(clock() - started, 1e-9)
                if turn:
                    best[precision, kind] = min(seconds, best.get((precision, kind), seconds))
    operations = {"product": 2.0 * SIDE**3, "convolution": 2.0 * 2 * NUM_IMAGES * (3 * NUM_CHANNELS * NUM_PIXELS) ** 2}
    found: Any = {
        kind: {precision: count / best[precision, kind] for precision in works} for kind, count in operations.items()
    }
    return Speeds(**found)


@dataclass(frozen=True)
class Works:
    """What is timed, in one precision."""

    product: Callable[[], Any]
    convolution: Callable[[], Any]


def _works() -> dict[Precision, Works]:
    return {precision: _works_in(dtype) for precision, dtype in DTYPES.items()}


def _works_in(dtype: torch.dtype) -> Works:
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

    return Works(lambda: torch.mm(matrix, matrix), convolve)
