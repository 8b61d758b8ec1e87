"""What is compared: rows, each with the plain loop and attar on one teacher, and the check that both mean the same."""

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from attar.core import device as devices
from attar.core import memory
from attar.core.compiling import Compiler
from attar.core.device import Execution, resolve
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import cda
from attar.models.build import batchnorm_layers, build
from attar.ops import views
from attar.ops.pixels import Normalisation, from_bytes
from attar.recipes.cda import CIFAR, IMAGENET_1K, TINY
from attar.stages.unit_groups import planned
from attar.synthesis.objective import Objective, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.starts import noise
from attar.synthesis.statistics import statistics_of
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy
from attar.synthesis.views import views_of
from plain import PlainLoop, agreement

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNTIMED = 1
"""Iterations at the start of a block that are not timed: they fill caches and the memory that is kept."""
Side = Literal["plain", "plain, memory kept", "attar"]


@dataclass(frozen=True)
class Row:
    """What is optimised, where, and how much faster attar is to be."""

    network: str
    num_classes: int
    size: int
    config: cda.Config
    device: str
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """attar's; auto is what a run takes on this device."""
    target: float | None = None
    target_seconds: float | None = None
    """Of an image in 4,000 iterations."""

    def skipped(self) -> str:
        """Why this machine cannot do it; empty when it can."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "there is no CUDA device here"
        emulated = self.precision == "bf16" and not devices.computes_bf16(torch.device(self.device))
        return "this processor has no instructions for bf16" if emulated else ""


TEN_UNITS = CIFAR.changed(ipc=10, unit_classes=10, parallel_units=10)
ROWS = {
    "tiny-cpu": Row("resnet18", 200, 64, TINY, "cpu", target=5.0),
    "tiny-cpu-bf16": Row("resnet18", 200, 64, TINY, "cpu", "bf16"),
    "tiny-cpu-fp32": Row("resnet18", 200, 64, TINY, "cpu", "fp32", 1.5),
    "cifar-cpu": Row("resnet20", 10, 32, TEN_UNITS, "cpu", target=8.0),
    "imagenet-gpu": Row("resnet18", 1000, 224, IMAGENET_1K, "cuda", target=5.0, target_seconds=0.12),
    "tiny-gpu": Row("resnet18", 200, 64, TINY, "cuda", target=6.0),
    "tiny-gpu-4": Row("resnet18", 200, 64, TINY.changed(parallel_units=4), "cuda"),
    "cifar-gpu": Row("resnet20", 10, 32, TEN_UNITS, "cuda"),
    "rehearsal": Row("convnet3", 3, 16, TEN_UNITS.changed(ipc=2, unit_classes=3, parallel_units=2), "cpu", "fp32"),
}
"""The last one is to try scripts out, and is measured only when it is named."""


class DisagreementError(Exception):
    """The two sides of a row do not compute the same."""


class Stopwatch:
    """A task's monitor that times a block of iterations, without waiting for the device in between."""

    def __init__(self, device: torch.device, last: int) -> None:
        self._device, self._ends = device, (UNTIMED, last)
        self.times: list[float] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        if iteration + 1 in self._ends:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.times.append(time.perf_counter())


class Remembering(Compiler):
    """Keeps the objective it was given and the function it made of it, to check the very one that is timed."""

    objective: Objective
    gradient: Callable[..., Any]

    def __call__(self, use: Callable[..., Any], function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        assert isinstance(function, Objective)
        self.objective, self.gradient = function, super().__call__(use, function, *given, **named)
        return self.gradient


class Sides:
    """Both sides of a row: the same teacher, units and views."""

    def __init__(self, row: Row, teacher: nn.Module, quick: bool) -> None:
        self.row, self.teacher = row, teacher
        resolved = resolve(Execution(device=row.device, precision=row.precision))
        self.device, self.precision = resolved.device, resolved.precision
        self.group = planned(row.num_classes, row.config)[0]
        say = functools.partial(print, file=sys.stderr)
        self.compiler = Remembering("off" if quick else "on", row.device, warn=say)
        self.network = Network(teacher, NORMALISATION, self.precision, self.compiler)
        self.plain = PlainLoop(teacher, row.config, NORMALISATION)
        self.peaks: dict[str, int] = {}

    def num_images(self, side: Side) -> int:
        """Images that go through the teacher at once."""
        return sum(len(unit.labels) for unit in (self.group if side == "attar" else self.group[:1]))

    def state(self) -> str:
        """Whether attar's side is compiled, in words."""
        return self.compiler.reason(0.0)

    def task(self, num_units: int | None = None, monitor: Any = None) -> Task:
        """The first units of the run, side by side, as the recover stage hands them to a method."""
        group = self.group[:num_units]
        return Task(
            labels=torch.tensor([label for unit in group for label in unit.labels], device=self.device),
            slots=torch.tensor([slot for unit in group for slot in unit.slots]),
            size=(self.row.size, self.row.size),
            teachers=(self.network,),
            device=self.device,
            streams=lambda *names: tuple(generator(0, "recover", unit.name, *names) for unit in group),
            shared_stream=lambda *names: generator(0, "recover", *names),
            monitor=monitor,
            unit_sizes=tuple(len(unit.labels) for unit in group),
        )

    def run(self, side: Side, iterations: int) -> float:
        """Image-iterations per second of a block; the plain loop makes one unit at a time, attar the whole group."""
        monitor = Stopwatch(self.device, UNTIMED + iterations)
        task = self.task(None if side == "attar" else 1, monitor)
        config = self.row.config.changed(iterations=UNTIMED + iterations)
        level = 0
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = side == "attar"  # as the users of either side have it
            torch.cuda.reset_peak_memory_stats(self.device)
            level = torch.cuda.memory_allocated(self.device)
        with nullcontext() if side == "plain" else memory.kept():
            if side == "attar":
                cda.recover(task, config)
            else:
                self.plain.config = config
                self.plain.recover(noise(task).to(self.device), task.labels, drawing(task, config), monitor)
        if self.device.type == "cuda":
            self.peaks[side] = torch.cuda.max_memory_allocated(self.device) - level
        return len(task.labels) * iterations / (monitor.times[1] - monitor.times[0])


def drawing(task: Task, config: cda.Config) -> Callable[[int], views.View]:
    """The views of the method, as the plain loop takes them."""
    drawn = views_of(task, config)
    return lambda iteration: views.View(*drawn.draw(iteration, task.size, task.size))


def crops(pictures: Sequence[Tensor], count: int, size: int, *names: str) -> tuple[Tensor, Tensor]:
    """Random crops in normalised units, and from which picture each one is."""
    draws, found = generator(0, "crops", *names), []
    source = torch.randint(len(pictures), (count,), generator=draws)
    for place in source.tolist():
        height, width = pictures[place].shape[1:]
        box = views.resized_boxes(1, height, width, (0.08, 1.0), draws)[0].tolist()
        found.append(tv.resized_crop(pictures[place], *box, size=[size, size], antialias=True))
    return NORMALISATION.apply(from_bytes(torch.stack(found))), source


def photographs() -> list[Tensor]:
    """scikit-learn's two, each in four parts."""
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    return [part for image in whole for half in image.tensor_split(2, 1) for part in half.tensor_split(2, 2)]


def pictures_in(folder: Path) -> list[Tensor]:
    """The first hundred pictures of a folder; raises AttarError when there are none."""
    known = Image.registered_extensions()
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in known][:100]
    if not paths:
        raise AttarError(f"There are no pictures in {folder}; name a folder with some, or leave --images out.")
    return [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths]


@functools.cache
def teacher_of(network: str, num_classes: int, size: int, device: str) -> nn.Module:
    """A teacher that tells the parts of the photographs apart, its statistics those of crops of its size."""
    module = build(network, num_classes, size, seed=0).to(device)
    optimiser = torch.optim.SGD(module.train().parameters(), lr=0.05, momentum=0.9, nesterov=True)
    images, sources = (part.to(device) for part in crops(photographs(), 640, 32, "training"))
    for batch, truth in zip(images.split(32), sources.split(32), strict=True):
        optimiser.zero_grad()
        F.cross_entropy(module(batch), truth % num_classes).backward()
        optimiser.step()
    for layer in batchnorm_layers(module):
        layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]  # the average of all batches
    with torch.no_grad():
        for batch in crops(photographs(), 96, size, "statistics")[0].to(device).split(32):
            module(batch)
    return module.eval().requires_grad_(False)


def check(sides: Sides, pictures: Sequence[Tensor]) -> list[str]:
    """That both sides mean the same, in words; raises DisagreementError where they do not.

    The objective in float32, and the function that is timed in its own precision.
    """
    task, row = sides.task(), sides.row
    observed = Observed(sides.teacher, noise(task)[:2].to(task.device), "fp32")
    exact = Objective(observed, (CrossEntropy(), statistics_of(task, row.config)), NORMALISATION).to(task.device)
    cases: list[tuple[str, Objective, Callable[..., Any], tuple[int, ...]]]
    cases = [("fp32", exact, functools.partial(pixel_gradient, exact), (min(20, task.unit_sizes[0]),))]
    cases.append((sides.precision, sides.compiler.objective, sides.compiler.gradient, task.unit_sizes))
    words = []
    for precision, objective, gradient, sizes in cases:
        count = sum(sizes)
        view = drawing(sides.task(len(sizes)), row.config)(row.config.iterations // 2)
        own = objective.constants(task), objective.begin(task)
        for kind, images in (("noise", noise(task)), ("pictures", crops(pictures, count, row.size, "check")[0])):
            with full_float32(precision == "fp32"):
                pixels = images[:count].to(task.device)
                found = agreement(sides.plain, gradient, own, pixels, view, task.labels[:count], sizes)
            last = f"gradient {found.gradient:.0e} off, " if precision == "fp32" else ""
            last += f"cosine of gradients {found.cosine:.5f}"
            words.append(f"{precision}, {count} images of {kind}: loss {found.loss:.0e} off, {last}")
            exact_enough = max(found.loss, found.gradient) <= 1e-4 and found.cosine >= 0.999
            if not (exact_enough if precision == "fp32" else found.cosine >= 0.97):
                raise DisagreementError(f"attar and the plain loop do not compute the same: {words[-1]}.")
    return words


@functools.cache
def product_speed(device: torch.device, precision: str, side: int) -> float:
    """Floating-point operations per second of a product of square matrices, the best of five; fp32 on CUDA is TF32."""
    dtype, num_products = torch.bfloat16 if precision == "bf16" else torch.float32, 20 if device.type == "cuda" else 1
    matrix, times = torch.randn(side, side, generator=generator(0, "product")).to(device, dtype), []
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(num_products):
            torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 * num_products / min(times[1:])


@contextmanager
def full_float32(wanted: bool) -> Iterator[None]:
    """Within, convolutions on CUDA take float32 as it is and not as TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and not wanted
    yield
    torch.backends.cudnn.allow_tf32 = before
