"""What this processor does in bf16 and in float32, what 'auto' chooses on it, and what compiling costs and saves.

    python benchmarks/processor.py
    python benchmarks/processor.py --compilation

Every line is printed as soon as it is measured, in CPU seconds of one thread, which other work on the machine hardly
alters. With --compilation, each network is compiled in two processes of its own, with nothing compiled before.
"""

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from attar.core import memory, precision
from attar.core.compiling import CPU, Amount, Compiler
from attar.core.device import Execution, resolve
from attar.core.precision import DTYPES, Precision
from attar.core.randomness import generator
from attar.models.build import build
from attar.ops import views
from attar.ops.pixels import Normalisation
from attar.stages.folder import versions
from attar.synthesis.objective import Objective, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.statistics import Distance
from attar.synthesis.terms import CrossEntropy

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PRODUCTS = (precision.SIDE, 2048)
CONVOLUTIONS = ((8, 64, 16), (100, 16, 32), (100, 64, 8), (20, 64, 64), (20, 512, 8))
"""Of 3x3 convolutions: images, channels in and out, and side in pixels; auto's own, ResNet-20's and ResNet-18's."""
ROUNDS, STEPS_SECONDS = 5, 8.0


class Step(NamedTuple):
    """A step of recover whose compilation is measured."""

    network: str
    num_classes: int
    size: int
    num_images: int


STEPS = (
    Step("convnet3", 10, 8, 50),
    Step("resnet20", 10, 32, 10),
    Step("resnet20", 10, 32, 100),
    Step("resnet18", 200, 64, 20),
)


def speeds(what: str, operations: float, work: Callable[[torch.dtype], Callable[[], Any]]) -> None:
    """Print one line: the best of several rounds in either precision, which take turns."""
    works: dict[Precision, Callable[[], Any]] = {name: work(dtype) for name, dtype in DTYPES.items()}
    best: dict[Precision, float] = {name: float("inf") for name in works}
    for turn in range(1 + ROUNDS):
        for name, do in works.items():
            started = time.thread_time()
            do()
            if turn:
                best[name] = min(best[name], time.thread_time() - started)
    words = [f"{name} {operations / seconds / 1e9:7,.0f} GFLOP/s" for name, seconds in best.items()]
    print(f"{what:<48}{'  '.join(words)}  bf16 {best['fp32'] / best['bf16']:5.2f}x", flush=True)


def product(side: int) -> Callable[[torch.dtype], Callable[[], Any]]:
    """A product of square matrices."""

    def make(dtype: torch.dtype) -> Callable[[], Any]:
        matrix = torch.randn(side, side, generator=generator(0, "product")).to(dtype)
        return lambda: torch.mm(matrix, matrix)

    return make


def convolution(images: int, channels: int, size: int) -> Callable[[torch.dtype], Callable[[], Any]]:
    """A 3x3 convolution, channels last, forth and back to its input."""

    def make(dtype: torch.dtype) -> Callable[[], Any]:
        draws, ones = generator(0, "convolution"), (1, 1)
        shown, weight = (
            torch.randn(shape, generator=draws).to(dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((images, channels, size, size), (channels, channels, 3, 3))
        )

        def do() -> None:
            answer = F.conv2d(shown, weight, padding=1)
            torch.ops.aten.convolution_backward(
                answer, shown, weight, None, ones, ones, ones, False, (0, 0), 1, (True, False, False)
            )

        return do

    return make


def arithmetic() -> None:
    """Print the speeds in either precision, and what auto chooses."""
    for side in PRODUCTS:
        speeds(f"product of {side} x {side}", 2.0 * side**3, product(side))
    for images, channels, size in CONVOLUTIONS:
        operations = 2 * 2.0 * images * size**2 * 9 * channels**2
        what = f"3x3 convolution, {images} x {channels} x {size} x {size}"
        speeds(what, operations, convolution(images, channels, size))
    precision.measured.cache_clear()
    started = time.perf_counter()
    found = resolve(Execution(device="cpu"))
    taken = time.perf_counter() - started
    print(f"auto chooses {found.precision}, {found.why} (decided in {1000 * taken:.0f} ms)", flush=True)


def compilation(chosen: Precision) -> None:
    """Print, for every step, what compiling takes and saves, and what the rule of auto expects."""
    for step in STEPS:
        plain, compiled = (_apart(step, chosen, choice) for choice in ("off", "on"))
        amount = Amount(plain["operations"], plain["values"], plain["num_layers"], 1)
        saved, taken = plain["step"] - compiled["step"], compiled["first"] - plain["first"]
        pays = CPU.taken(amount) / CPU.saved(amount)
        lines = [
            f"{step.network}, {step.size} px, {step.num_images} images, {chosen}: {plain['num_layers']} layers, "
            f"{plain['values'] / 1e6:.2f} million values a step",
            f"    a step {1000 * plain['step']:,.1f} ms, compiled {1000 * compiled['step']:,.1f} ms; "
            f"saved {1000 * saved:,.1f} ms, expected {1000 * CPU.saved(amount):,.1f} ms",
            f"    compiling {taken:,.0f} s, {compiled['itself']:,.0f} s of them in the process itself, "
            f"expected {CPU.taken(amount):,.0f} s",
            f"    auto compiles from {pays:,.0f} steps, {pays * plain['operations'] / 1e12:,.2g} TFLOP",
        ]
        print(*lines, sep="\n", flush=True)


def _apart(step: Step, chosen: Precision, choice: str) -> dict[str, Any]:
    """The same in a process of its own, whose compiled kernels nobody finds again."""
    command = [sys.executable, __file__, "--step", json.dumps(step), "--precision", chosen, "--compile", choice]
    with tempfile.TemporaryDirectory() as cache:
        surroundings = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(step: Step, chosen: Precision, choice: Literal["on", "off"]) -> dict[str, float]:
    """CPU seconds of the first step, with all processes that compile, and of a further one."""
    torch.set_num_threads(1)
    network = build(step.network, step.num_classes, step.size, seed=0).eval().requires_grad_(False)
    observed = Observed(network, torch.zeros(2, 3, step.size, step.size), chosen)
    terms = (CrossEntropy(), Distance(0.01, 10.0))
    objective, draws = Objective(observed, terms, NORMALISATION), generator(0, "step")
    compiler = Compiler(choice, warn=lambda line: sys.exit(line))
    gradient = compiler(pixel_gradient, objective, 0.0, observed.narrow)
    pixels = torch.randn(step.num_images, 3, step.size, step.size, generator=draws)
    box = views.resized_boxes(1, step.size, step.size, (0.08, 1.0), draws)
    labels = torch.arange(step.num_images) % step.num_classes
    average = torch.full((1, step.num_images), 1 / step.num_images)
    records, empty = (box, torch.tensor([True]), torch.tensor([[1, 2]])), ({}, {})
    constants = ({}, terms[1].constants_of(observed))
    arguments = (records, (step.size, step.size), labels, average, constants, empty)
    times, ends = [], time.perf_counter() + STEPS_SECONDS
    with memory.kept():
        started = time.process_time()
        gradient(pixels, *arguments)
        first = time.process_time() - started
        while len(times) < 3 or time.perf_counter() < ends:
            started = time.thread_time()
            gradient(pixels, *arguments)
            times.append(time.thread_time() - started)
    if choice == "on":
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()  # only then does the system count what they took
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "step": statistics.median(times),
        "itself": first,
        "first": first + children.ru_utime + children.ru_stime,
        "operations": step.num_images * observed.operations,
        "values": step.num_images * observed.num_values,
        "num_layers": observed.num_layers,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compilation", action="store_true", help="what compiling costs and saves: some minutes")
    parser.add_argument("--precision", choices=["auto", *DTYPES], default="auto", help="of what is compiled")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--compile", choices=["on", "off"], help=argparse.SUPPRESS)
    options, threads = parser.parse_args(arguments), torch.get_num_threads()
    if options.step:
        print(json.dumps(measured(Step(*json.loads(options.step)), options.precision, options.compile)))
        return 0
    found = resolve(Execution(device="cpu", threads=1, precision=options.precision))
    try:
        print(f"{found.describe()}, torch {versions()['torch']}, {datetime.date.today()}", flush=True)
        compilation(found.precision) if options.compilation else arithmetic()
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
