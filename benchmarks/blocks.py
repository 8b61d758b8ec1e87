"""Blocks of epochs of the published way and of attar in turn, and the table of how they compare."""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

import tables
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.ops import views
from sides import DisagreementError, photographs, pictures_in, product_speed

T = TypeVar("T")
Side = Literal["plain", "attar"]
SIDES: tuple[Side, ...] = ("plain", "attar")
WIDTHS = {
    "row": 13,
    "side": 5,
    "images/s": 9,
    "attar is faster": 20,
    "target": 13,
    "CPU ms/image": 12,
    "network": 7,
    "GFLOP/s": 8,
    "of product": 10,
    "peak": 10,
}
NOTES = """\
'attar is faster' is the median of the alternations, with their range. 'CPU' is what the side's processes took of the
processors, workers included: other load hardly alters it, as it does what passes on the clock. 'network' is the share
of the time that passes in the teacher's or the student's passes. 'of product' is the network's FLOP/s, over the whole
time, against a large matrix product's in the same precision. 'peak' is GPU memory above the level before the block."""


@dataclass(frozen=True)
class Row:
    """What is compared: the data path alone, or with a network."""

    size: int
    num_images: int
    batch_size: int
    network: str = ""
    """The teacher or the student; empty: the data path alone."""
    num_classes: int = 200
    device: str = "cpu"
    target: float | None = None
    """How much faster attar is to be."""
    target_share: float | None = None
    """Share of attar's time that is to pass in the network."""

    def skipped(self) -> str:
        """Why this machine cannot do it; empty when it can."""
        return "there is no CUDA device here" if self.device == "cuda" and not torch.cuda.is_available() else ""

    def quick(self) -> Self:
        """The same with a few images."""
        return replace(self, num_images=24, batch_size=8, num_classes=10)

    def content(self) -> str:
        """What a row is, in words."""
        what = self.network or "no network"
        return f"{self.num_images} images of {self.size} px, batches of {self.batch_size}, {what}"


@dataclass(frozen=True)
class Block:
    """A few epochs of one side."""

    num_images: int
    seconds: float
    cpu_seconds: float | None
    """Of all its processes; None where not known."""
    network_seconds: float
    peak_bytes: int | None = None
    """Of GPU memory, above the level before."""


@dataclass(frozen=True)
class Line:
    """One side of a row, as measured; medians over the blocks."""

    row: str
    side: Side
    images_per_second: float
    num_blocks: int
    faster: float
    """How much faster attar is than this side: median over the alternations."""
    faster_low: float
    faster_high: float
    target: float | None
    target_share: float | None
    cpu_seconds_per_image: float | None
    network_share: float | None
    flops: float | None
    """Floating-point operations of the network per second of the whole."""
    of_product: float | None
    peak_bytes: int | None

    def cells(self) -> list[str]:
        """What the table shows of it."""
        reached, share = "", self.network_share
        if self.side == "plain" and self.target is not None:
            reached = f"{self.target:g}x " + ("reached" if self.faster >= self.target else "missed")
        if self.side == "attar" and self.target_share is not None and share is not None:
            reached = f"{self.target_share:.0%} " + ("reached" if share >= self.target_share else "missed")
        return [
            self.row,
            self.side,
            f"{self.images_per_second:,.0f}",
            "" if self.side == "attar" else f"{self.faster:.1f}x ({self.faster_low:.1f} to {self.faster_high:.1f})",
            reached,
            "" if self.cpu_seconds_per_image is None else f"{1e3 * self.cpu_seconds_per_image:.3f}",
            "" if share is None else f"{share:.0%}",
            "" if self.flops is None else f"{self.flops / 1e9:,.0f}",
            "" if self.of_product is None else f"{self.of_product:.0%}",
            "" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:,.0f} MiB",
        ]


class Contest(Protocol):
    """Both sides of a row on the same images."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    """Of the network."""
    operations: float
    """Floating-point operations that an image takes in the network; 0 without one."""

    def run(self, side: Side, num_epochs: int) -> Block:
        """Time some epochs."""
        ...

    def check(self) -> list[str]:
        """That both sides show and answer the same, in words; raises DisagreementError where they do not."""
        ...

    def close(self) -> None:
        """Let workers go."""
        ...


class Clock:
    """What a block takes: time, processors, and the time in the network, without waiting for a GPU on the way."""

    def __init__(self, device: torch.device, workers: Sequence[int] = ()) -> None:
        self._device, self._workers = device, workers
        self._spans: list[tuple[Any, Any]] = []
        self._finish()
        self._started, self._cpu = time.perf_counter(), cpu_seconds(workers)

    def timed(self, use: Callable[..., T]) -> Callable[..., T]:
        """``use``, with its time noted."""

        def noted(*arguments: Any) -> T:
            started = self._mark()
            found = use(*arguments)
            self._spans.append((started, self._mark()))
            return found

        return noted

    def fetched(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with the time that their making takes noted."""
        iterator, nothing = iter(batches), object()
        fetch = self.timed(lambda: next(iterator, nothing))
        while (batch := fetch()) is not nothing:
            yield batch  # type: ignore[misc]

    def noted_seconds(self) -> float:
        """All that was noted."""
        self._finish()
        if self._device.type == "cuda":
            return sum(first.elapsed_time(last) for first, last in self._spans) / 1e3
        return sum(last - first for first, last in self._spans)

    def block(self, num_images: int, noted: Literal["network", "data"] = "network") -> Block:
        """What has passed until now; ``noted`` says what was."""
        self._finish()
        seconds, now = time.perf_counter() - self._started, cpu_seconds(self._workers)
        cpu = None if now is None or self._cpu is None else now - self._cpu
        network = self.noted_seconds() if noted == "network" else seconds - self.noted_seconds()
        return Block(num_images, seconds, cpu, network)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def cpu_seconds(workers: Sequence[int]) -> float | None:
    """Processor time of this process and these others until now; None where the system does not tell."""
    total = time.process_time()
    for worker in workers:
        try:
            fields_after_name = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += (int(fields_after_name[11]) + int(fields_after_name[12])) / os.sysconf("SC_CLK_TCK")
    return total


def workers_of(loader: Any) -> list[int]:
    """Process ids of a loader's persistent workers; it has none before its first epoch."""
    return [worker.pid for worker in getattr(loader._iterator, "_workers", [])]


def write_pictures(folder: Path, row: Row, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """JPEG files of random crops of the pictures, a folder a class; returns their pixels and classes, as files sort."""
    draws, found = generator(0, "benchmark pictures"), []
    num_classes = min(row.num_classes, row.num_images)
    labels = torch.arange(row.num_images) * num_classes // row.num_images
    for place, label in enumerate(labels.tolist()):
        picture = pictures[int(torch.randint(len(pictures), (1,), generator=draws))]
        _, height, width = picture.shape
        box = views.resized_boxes(1, height, width, (0.08, 1.0), draws)[0].tolist()
        pixels = tv.resized_crop(picture, *box, size=[row.size, row.size], antialias=True)
        path = folder / f"new{label:03d}" / f"class{label:03d}_id{place:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        tv.to_pil_image(pixels).save(path, quality=75)
        found.append(torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1))
    return torch.stack(found), labels


def compared(
    name: str, row: Row, contest: Contest, options: argparse.Namespace, tell: Callable[[str], None]
) -> list[Line]:
    """Time both sides in turn."""
    counts: dict[Side, int] = {}
    for side in SIDES:
        warm = contest.run(side, 1)
        tell(f"{name}: {side} warmed up in {warm.seconds:.1f} s")
        counts[side] = 1 if options.quick else max(1, round(options.seconds / warm.seconds))
    blocks: dict[Side, list[Block]] = {side: [] for side in SIDES}
    for place in range(_alternations(options)):
        for side in SIDES:
            blocks[side].append(measured(contest, side, counts[side]))
        last = (f"{side} {blocks[side][-1].num_images / blocks[side][-1].seconds:,.0f} images/s" for side in SIDES)
        tell(f"{name}: alternation {place + 1}, " + ", ".join(last))
    product = None
    if contest.operations:
        product = product_speed(contest.device, contest.precision, 512 if options.quick else 4096)
    lines = []
    for side in SIDES:
        faster = [
            (ours.num_images / ours.seconds) / (block.num_images / block.seconds)
            for ours, block in zip(blocks["attar"], blocks[side], strict=True)
        ]
        speed = statistics.median(block.num_images / block.seconds for block in blocks[side])
        peaks = [block.peak_bytes for block in blocks[side] if block.peak_bytes is not None]
        cpu = [block.cpu_seconds / block.num_images for block in blocks[side] if block.cpu_seconds is not None]
        lines.append(
            Line(
                row=name,
                side=side,
                images_per_second=speed,
                num_blocks=len(blocks[side]),
                faster=statistics.median(faster),
                faster_low=min(faster),
                faster_high=max(faster),
                target=row.target,
                target_share=row.target_share,
                cpu_seconds_per_image=statistics.median(cpu) if cpu else None,
                network_share=statistics.median(b.network_seconds / b.seconds for b in blocks[side])
                if row.network
                else None,
                flops=speed * contest.operations if product else None,
                of_product=speed * contest.operations / product if product else None,
                peak_bytes=max(peaks, default=None),
            )
        )
    return lines


def measured(contest: Contest, side: Side, num_epochs: int) -> Block:
    """A block, with the memory that it took on a GPU."""
    if contest.device.type != "cuda":
        return contest.run(side, num_epochs)
    torch.cuda.reset_peak_memory_stats(contest.device)
    level = torch.cuda.memory_allocated(contest.device)
    block = contest.run(side, num_epochs)
    return replace(block, peak_bytes=torch.cuda.max_memory_allocated(contest.device) - level)


def main(
    doc: str, rows: Mapping[str, Row], enter: Callable[[Row, Path, Sequence[Tensor]], Contest], arguments: Any
) -> int:
    """A script of rows; returns the exit code: 1 when the sides disagree, 2 when the command is at fault."""
    options = tables.options_of(doc, rows, alternations=5).parse_args(arguments)
    try:
        asked = tables.chosen(options.rows, rows)
        _compare({name: row.quick() if options.quick else row for name, row in asked.items()}, enter, options)
    except (AttarError, DisagreementError) as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, DisagreementError) else 2
    return 0


def _compare(
    rows: Mapping[str, Row], enter: Callable[[Row, Path, Sequence[Tensor]], Contest], options: argparse.Namespace
) -> None:
    pictures = pictures_in(options.images) if options.images else photographs()
    able = tables.able(rows, _alternations(options), ("torchvision", "Pillow"))
    lines: list[Line] = []
    notes, table, tell = [], tables.Table(WIDTHS), tables.Progress()
    for name, row in able.items():
        tell(f"{name}: making pictures")
        with tempfile.TemporaryDirectory() as folder:
            contest = enter(row, Path(folder), pictures)
            try:
                found = contest.check()
                measured_lines = compared(name, row, contest, options, tell)
            finally:
                contest.close()
        table.add(measured_lines)
        lines += measured_lines
        notes += [f"{name}: {row.content()}{tables.load()} after", *(f"    {words}" for words in found)]
        if options.csv:
            tables.write_csv(options.csv, Line, lines)
    if lines:
        print(NOTES, *notes, sep="\n", flush=True)


def _alternations(options: argparse.Namespace) -> int:
    return 2 if options.quick else options.alternations
