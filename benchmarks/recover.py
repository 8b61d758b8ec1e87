"""What optimising images costs: the published loop (plain.py) against attar's, on the same teacher, in one run.

    python benchmarks/recover.py --rows tiny-cpu,cifar-cpu --csv recover.csv

Before a row is timed both sides must mean the same: equal loss and pixel gradient in float32, and in bf16 a gradient
that points the same way, on noise and on pictures; else the exit code is 1. Then blocks of iterations alternate, so
that other load meets every side; shown are medians, and the range over the alternations of how much faster attar is.
A row is printed as soon as it is measured; what is going on meanwhile stands on standard error.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor

import tables
from attar.core.errors import AttarError
from attar.models.build import build
from sides import ROWS, DisagreementError, Row, Side, Sides, check, photographs, pictures_in, product_speed, teacher_of

ITERATIONS = 4000
WIDTHS = {
    "row": 13,
    "side": 23,
    "img-it/s": 9,
    "attar is faster": 18,
    "target": 13,
    "s/image": 8,
    "GFLOP/s": 8,
    "of product": 10,
    "peak": 10,
    "warm-up": 8,
}
NOTES = """\
'attar is faster' is the median of the alternations, with their range; 's/image' is for 4,000 iterations.
'of product' is FLOP/s (an image's way forth and back) against a large matrix product's in the side's own precision.
'peak' is memory above the level before the loop: on CPUs resident, a process for each side, compilation included but
not the processes it starts; on CUDA allocated. 'plain' has the C library's memory settings as they are; 'memory kept'
is the plain loop with attar's: memory that is freed stays with the process."""


@dataclass(frozen=True)
class Line:
    """One side of a row, as measured."""

    row: str
    side: str
    precision: str
    image_iterations_per_second: float
    """Median over the blocks."""
    num_blocks: int
    faster: float
    """How much faster attar is than this side: median over the alternations."""
    faster_low: float
    faster_high: float
    target: float | None
    target_seconds: float | None
    seconds_per_image: float
    flops: float
    """Floating-point operations per second."""
    of_product: float
    peak_bytes: int | None
    warm_up_seconds: float | None

    def cells(self) -> list[str]:
        """What the table shows of it."""
        reached = ""
        if self.target is not None:
            reached = f"{self.target:g}x " + ("reached" if self.faster >= self.target else "missed")
        elif self.target_seconds is not None:
            reached = f"{self.target_seconds:g} s " + (
                "reached" if self.seconds_per_image <= self.target_seconds else "missed"
            )
        return [
            self.row,
            f"{self.side} {self.precision}",
            f"{self.image_iterations_per_second:,.1f}",
            "" if self.side == "attar" else f"{self.faster:.1f}x ({self.faster_low:.1f} to {self.faster_high:.1f})",
            reached,
            f"{self.seconds_per_image:.3g}",
            f"{self.flops / 1e9:,.0f}",
            f"{self.of_product:.0%}",
            "" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:,.0f} MiB",
            "" if self.warm_up_seconds is None else f"{self.warm_up_seconds:.1f} s",
        ]


def measure(
    name: str, sides: Sides, pictures: Sequence[Tensor], options: argparse.Namespace, tell: Callable[[str], None]
) -> tuple[list[Line], list[str]]:
    """The lines of a row and what its check found; raises DisagreementError when that failed."""
    row, cpu, warm_up = sides.row, sides.device.type == "cpu", {}
    counts: dict[str, int] = {}
    found: list[str] = []
    for side in ("attar", "plain"):
        started = time.perf_counter()
        speed = sides.run(side, 1)
        warm_up[side] = time.perf_counter() - started
        tell(f"{name}: {side} warmed up in {warm_up[side]:.1f} s, {speed:,.1f} img-it/s")
        counts[side] = 1 if options.quick else max(1, round(options.seconds * speed / sides.num_images(side)))
        found = found or check(sides, pictures)
    timed: list[Side] = ["plain", "plain, memory kept", "attar"] if cpu else ["plain", "attar"]
    speeds: dict[str, list[float]] = {side: [] for side in timed}
    for place in range(_alternations(options)):
        for side in timed:
            speeds[side].append(sides.run(side, counts["attar" if side == "attar" else "plain"]))
        tell(f"{name}: alternation {place + 1}, " + ", ".join(f"{side} {speeds[side][-1]:,.1f}" for side in timed))
    lines = []
    for side in timed:
        speed, precision = statistics.median(speeds[side]), sides.precision if side == "attar" else "fp32"
        flops = speed * sides.compiler.objective.observed.operations
        faster = [fast / slow for fast, slow in zip(speeds["attar"], speeds[side], strict=True)]
        lines.append(
            Line(
                row=name,
                side=side,
                precision=precision,
                image_iterations_per_second=speed,
                num_blocks=len(speeds[side]),
                faster=statistics.median(faster),
                faster_low=min(faster),
                faster_high=max(faster),
                target=row.target if side == "plain" else None,
                target_seconds=row.target_seconds if side == "attar" else None,
                seconds_per_image=ITERATIONS / speed,
                flops=flops,
                of_product=flops / product_speed(sides.device, precision, 512 if options.quick else 4096),
                peak_bytes=_peak(name, side, sides, options),
                warm_up_seconds=warm_up.get(side),
            )
        )
    return lines, found


def _peak(name: str, side: Side, sides: Sides, options: argparse.Namespace) -> int | None:
    if sides.device.type == "cuda":
        return sides.peaks[side]
    return None if options.no_memory else peak_of(name, side, options.quick)


def peak_of(name: str, side: Side, quick: bool) -> int | None:
    """Peak of resident memory above the level before the loop, in bytes, in a fresh process; None where not known."""
    command = [sys.executable, __file__, "--rows", name, "--measure-memory", side, *(["--quick"] if quick else [])]
    if sys.platform != "linux":
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AttarError(f"Measuring the memory of {name}, {side} failed: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])


def peak_here(row: Row, side: Side, quick: bool) -> int:
    """The same for this process; the processes that compile are not counted."""
    sides = Sides(row, build(row.network, row.num_classes, row.size, seed=0), quick)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of getting ready
    level = resident("VmRSS")
    sides.run(side, 1)
    return resident("VmHWM") - level


def resident(field: str) -> int:
    """Resident memory in bytes as Linux has it: VmRSS now, VmHWM at most (getrusage's includes the parent's)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def compare(rows: Mapping[str, Row], options: argparse.Namespace) -> None:
    """Measure the rows this machine can do, and print the table."""
    pictures = pictures_in(options.images) if options.images else photographs()
    lines: list[Line] = []
    notes, table, tell = [], tables.Table(WIDTHS), tables.Progress()
    for name, row in tables.able(rows, _alternations(options)).items():
        tell(f"{name}: training a teacher")
        sides = Sides(row, teacher_of(row.network, row.num_classes, row.size, row.device), options.quick)
        measured, found = measure(name, sides, pictures, options, tell)
        table.add(measured)
        lines += measured
        notes.append(
            f"{name}: {row.network}, {row.num_classes} classes, {row.size} px; at a time plain makes "
            f"{sides.num_images('plain')} images, attar {sides.num_images('attar')} ({len(sides.group)} units), "
            f"{sides.state()}"
        )
        notes += [f"    {words}" for words in found]
        if options.csv:
            tables.write_csv(options.csv, Line, lines)
    if lines:
        print(NOTES, *notes, sep="\n", flush=True)


def _alternations(options: argparse.Namespace) -> int:
    return 2 if options.quick else options.alternations


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 when the sides disagree, 2 when the command is at fault."""
    parser = tables.options_of(__doc__ or "", [name for name in ROWS if name != "rehearsal"], alternations=3)
    parser.add_argument(
        "--measure-memory", choices=get_args(Side), help="print a side's peak on a CPU, and nothing else"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peaks on a CPU, a process for each side")
    options = parser.parse_args(arguments)
    try:
        rows = tables.chosen(options.rows, ROWS)
        if options.measure_memory:
            print(peak_here(next(iter(rows.values())), options.measure_memory, options.quick))
        else:
            compare(rows, options)
    except (AttarError, DisagreementError) as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, DisagreementError) else 2
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:  # compilation is part of what is measured, so it starts from nothing
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
        code = main()
    sys.exit(code)
