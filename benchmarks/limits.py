"""How far attar's step is from what this processor could do: where its time goes, in CPU seconds of one thread.

    python benchmarks/limits.py --rows tiny-cpu,cifar-cpu

A thread's CPU seconds hardly feel other work on the machine, so this tells more than a clock does where cores are
shared. Convolutions are timed one by one, at the shapes, precision and memory layout of attar's step.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import tables
from attar.core.errors import AttarError
from attar.core.randomness import generator
from sides import ROWS, Side, Sides, product_speed, teacher_of

REPEATS = 5
Shape = tuple[torch.Size, tuple[int, ...], tuple[int, int], tuple[int, int], int]
"""Of the input and the weight of a convolution, its stride and padding, and its groups."""


@contextmanager
def thread_seconds() -> Iterator[None]:
    """Within, clocks that the sides read tell the CPU seconds of this thread."""
    real, time.perf_counter = time.perf_counter, time.thread_time
    try:
        yield
    finally:
        time.perf_counter = real


def step_seconds(sides: Sides, side: Side, images: int) -> float:
    """Of ``images`` images, the median of several blocks."""
    with thread_seconds():
        sides.run(side, 1)
        return images / statistics.median(sides.run(side, 5) for _ in range(REPEATS))


def convolutions(sides: Sides) -> Counter[Shape]:
    """Those of attar's way forth, and how often each is done."""
    found: Counter[Shape] = Counter()

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        found[inputs[0].shape, tuple(layer.weight.shape), layer.stride, layer.padding, layer.groups] += 1

    network, side = sides.compiler.objective.observed, sides.row.size
    handles = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(sides.num_images("attar"), 3, side, side))
    for handle in handles:
        handle.remove()
    return found


def convolution_seconds(shape: Shape, dtype: torch.dtype) -> tuple[float, float]:
    """Of its way forth, and of the gradient with respect to its input."""
    size, weight_size, stride, padding, groups = shape
    draws = generator(0, "convolution")
    images, weight = (
        torch.randn(tuple(each), generator=draws).to(dtype).contiguous(memory_format=torch.channels_last)
        for each in (size, weight_size)
    )
    answer = torch.nn.functional.conv2d(images, weight, None, stride, padding, 1, groups)

    def back() -> None:
        mask = (True, False, False)
        torch.ops.aten.convolution_backward(
            answer, images, weight, None, stride, padding, (1, 1), False, (0, 0), groups, mask
        )

    return timed(lambda: torch.nn.functional.conv2d(images, weight, None, stride, padding, 1, groups)), timed(back)


def timed(function: Callable[[], Any]) -> float:
    """CPU seconds of this thread, the median."""
    times = []
    for _ in range(2 + REPEATS):
        started = time.thread_time()
        function()
        times.append(time.thread_time() - started)
    return statistics.median(times[2:])


def report(name: str, quick: bool) -> None:
    """Print where the time of a step goes, and what it would be without."""
    row = ROWS[name]
    sides = Sides(row, teacher_of(row.network, row.num_classes, row.size, row.device), quick)
    images = sides.num_images("attar")
    step, plain = step_seconds(sides, "attar", images), step_seconds(sides, "plain", images)
    dtype = torch.bfloat16 if sides.precision == "bf16" else torch.float32
    found = [(count, *convolution_seconds(shape, dtype)) for shape, count in convolutions(sides).items()]
    forth, back = (sum(each[0] * each[way] for each in found) for way in (1, 2))
    operations = images * sides.compiler.objective.observed.operations
    with thread_seconds():
        products = {each: product_speed(sides.device, each, 256 if quick else 2048) for each in ("fp32", "bf16")}
    shortest, faster = operations / products[sides.precision], max(products.values())
    speed = " and ".join(f"{product / 1e9:,.0f} GFLOP/s in {each}" for each, product in products.items())
    print(f"{name}: attar {sides.precision}, {images} images at a time; a large matrix product runs at {speed}")
    print(f"    attar runs at {operations / step / faster:.0%} of the faster product")
    lines = [
        ("plain fp32, as many images", plain),
        ("attar", step),
        ("  convolutions forth", forth),
        ("  convolutions back", back),
        ("  all else", step - forth - back),
        ("convolutions alone", forth + back),
        ("the same operations at the product's speed", shortest),
    ]
    for words, seconds in lines:
        speed = f"{operations / seconds / 1e9:6,.0f} GFLOP/s" if not words.startswith(" ") else " " * 14
        print(f"    {words:<44}{1000 * seconds:8.1f} ms  {speed}  {plain / seconds:5.1f}x".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 when the command is at fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="tiny-cpu,cifar-cpu", help="comma separated, of recover.py's")
    parser.add_argument("--quick", action="store_true", help="nothing compiled, to try it out")
    options, threads = parser.parse_args(arguments), torch.get_num_threads()
    try:
        rows = tables.chosen(options.rows, ROWS)
        for name, row in rows.items():
            if row.skipped() or row.device != "cpu":
                raise AttarError(f"{name} cannot be looked into here: {row.skipped() or 'it is no row for CPUs'}.")
        torch.set_num_threads(1)
        for name in rows:
            report(name, options.quick)
            sys.stdout.flush()
    except AttarError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
