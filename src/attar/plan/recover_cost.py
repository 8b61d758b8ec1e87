"""Measure some iterations of the recipe's method on this device, to estimate the time and memory of recover."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from attar.core import memory
from attar.core.compiling import Compiler, decision, out_of_memory
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.core.stopwatch import Pace, Peak
from attar.models import build
from attar.plan.calibrate import NORMALISATION, Work, random_bytes, shape_of, untrained_teacher
from attar.stages import method_code, prepare
from attar.stages.methods import method_named
from attar.stages.teacher_check import check_network
from attar.store.units import Unit
from attar.synthesis.method import Preparation, Stretch
from attar.synthesis.networks import Bare
from attar.synthesis.task import Network, Task

SECONDS = 2.0
"""Approximate duration of the measured steady iterations, in seconds."""


@dataclass(frozen=True)
class RecoverCost:
    """Measurements of recover."""

    step_seconds: float
    """Seconds of an iteration of one group of units, without the first iteration; the mean over different stretches."""
    preparation_seconds: float
    """Additional seconds of first iterations, mostly for compilation."""
    num_images: int
    """Number of images in the group."""
    compilation: str
    """Whether the group is compiled, and why."""
    memory_bytes: int | None = None
    prepare_seconds: float = 0.0
    """Seconds of the method's preparations before its units, such as statistics of the real images."""
    measured_compiled: bool = True
    """Whether what the run compiles was compiled for the measurement, too."""

    @property
    def compiled(self) -> bool:
        return _is_compiled(self.compilation)

    def seconds(self, groups: Sequence[tuple[Unit, ...]], iterations: int) -> float:
        """Return the seconds of all groups in one process: time is proportional to images; each shape is compiled
        once."""
        shapes = list(map(shape_of, groups))
        preparations = len(set(shapes)) if self.compiled and self.measured_compiled else 1
        steps = iterations * sum(map(sum, shapes)) / self.num_images
        return self.prepare_seconds + steps * self.step_seconds + preparations * self.preparation_seconds


def measure(work: Work) -> RecoverCost:
    """Run the method for some iterations on the recipe's first units, with as many units per batch as in the run.

    What the run compiles on a CPU by its own choice is measured uncompiled: compiling takes minutes on a busy machine.
    Raises AttarError when the teacher cannot be built, does not fit the method, or memory does not suffice.
    """
    device, said = work.device, dict[str, str]()
    uncompiled = device.compile == "auto" and device.device.type == "cpu"
    compilers = list[Compiler]()
    try:
        with Peak(device.device) as peak, memory.kept():
            networks = []
            for index in work.recover.members_of(len(work.squeeze.each)):
                teacher = untrained_teacher(work, index)
                check_network(teacher.module, teacher.architecture, work.method, work.recover)
                compiler = Compiler(
                    device.compile,
                    device.device.type,
                    lambda line: said.update({decision(line): said.get(decision(line), line)}),
                    decides_only=uncompiled,
                    network=teacher.architecture,
                )
                compilers.append(compiler)
                accuracy = 1.0  # of an untrained teacher; weights that follow from it alter no time
                networks.append(Network(teacher.module, teacher.normalisation, device.precision, compiler, accuracy))
            timer = _iterate(work, tuple(networks))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        few = f"for {len(work.groups[0])} units side by side; lower --recover.parallel-units or --recover.unit-classes"
        raise AttarError(f"there is not enough memory {few}") from None
    failed = next((each for each in compilers if each.failed), None)
    compilation = failed.reason(0) if failed else _in_short(list(said.values()))
    return RecoverCost(
        step_seconds=sum(each.iterations * timer.step_seconds(each) for each in work.stretches) / work.iterations,
        preparation_seconds=timer.preparation_seconds(_is_compiled(compilation) and not uncompiled),
        num_images=sum(shape_of(work.groups[0])),
        compilation=compilation,
        memory_bytes=peak.num_bytes,
        prepare_seconds=timer.prepare_seconds,
        measured_compiled=not uncompiled,
    )


def _is_compiled(reasons: str) -> bool:
    return any(f"{before}compiled" in f"; {reasons}" for before in ("; ", ": "))


def _in_short(reasons: list[str]) -> str:
    """Return the reasons of a few networks as they are, those of a large committee as a count."""
    if len(reasons) <= 2:
        return "; ".join(reasons)
    num_compiled = sum(map(_is_compiled, reasons))
    if not num_compiled:
        return f"not compiled ({len(reasons)} networks, and for each of them it would take longer than it saves)"
    return f"compiled for {num_compiled} of {len(reasons)} networks, where that saves time"


class _Enough(Exception):  # noqa: N818
    """Ends an optimisation after enough iterations."""


_FEW, _MORE = 8, 32
"""Images per class that preparations read in a forecast, in the first two rehearsals and in the third."""
_LONG_SECONDS = 5.0
"""A first rehearsal that takes longer is not repeated: its fixed costs are small beside the images."""


class _Timer:
    """Measures some iterations of each stretch, once per shape, and then makes the method skip to the next stretch."""

    def __init__(self, work: Work) -> None:
        self.prepare_seconds = 0.0
        self._work, self._stretches, self._number, self._since = work, work.stretches, 0, 0
        self.paces: dict[Stretch, Pace] = {}
        self._enter()

    def _enter(self) -> None:
        stretch = self._stretches[self._number]
        self._measures = stretch.shape() not in self.paces
        if self._measures:
            steps = stretch.iterations // _cycle(stretch)
            self.paces[stretch.shape()] = self._work.pace(SECONDS, steps)

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> bool:
        """Return True when this stretch is measured, which makes the method skip to the next one."""
        stretch = self._stretches[self._number]
        self._since += 1
        known = not self._measures or (
            self._since % _cycle(stretch) == 0 and self.paces[stretch.shape()].tick()
        )  # a tick of the pace is one turn of all teachers
        if not known and self._since < stretch.iterations:
            return False
        self._number, self._since = self._number + 1, 0
        if self._number == len(self._stretches):
            raise _Enough
        self._enter()
        return True

    def step_seconds(self, stretch: Stretch) -> float:
        """Return the seconds of an iteration of this stretch."""
        return self.paces[stretch.shape()].step_seconds / _cycle(stretch)

    def preparation_seconds(self, compiled: bool) -> float:
        """Return the additional seconds of first iterations."""
        paces = self.paces.values()
        return sum(pace.compilation_seconds if compiled else pace.preparation_seconds for pace in paces)


def _cycle(stretch: Stretch) -> int:
    """Return the number of iterations in which every teacher is used."""
    return max(1, min(stretch.iterations, round(1 / min(filter(None, stretch.teachers), default=1.0))))


@dataclass(frozen=True)
class _RandomBytes:
    """Random images in place of the real ones."""

    work: Work
    most: int | None = None
    """Largest number of images per class."""

    @property
    def num_classes(self) -> int:
        return self.work.num_classes

    def count(self, label: int) -> int:
        return self.work.counts[label] if self.most is None else min(self.most, self.work.counts[label])

    def take(self, label: int, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        return random_bytes(len(indices), self.work.size)

    def class_name(self, label: int) -> str:
        return str(label)


class _RandomExperts:
    """Networks with random weights in place of trained experts."""

    def __init__(self, work: Work) -> None:
        choice, needs = work.squeeze.experts, work.recover.needs()
        self.num_experts, self.num_snapshots = choice.number, max(choice.training.epochs, needs.expert_epochs) + 1
        self.normalisation, self._device = NORMALISATION, work.device.device
        self.call = Bare(lambda: build.build(choice.architecture, work.num_classes, work.size, seed=0))

    def weights(self, expert: int, snapshot: int) -> Float[Tensor, " weight"]:
        return self.call.random(generator(expert, "weights", snapshot)).to(self._device)


def _iterate(work: Work, networks: tuple[Network, ...]) -> _Timer:
    """Begin a task exactly as the stage does, so that the same choices are made; the timer ends it."""
    device, module, group = work.device.device, method_named(work.method), work.groups[0]
    timer = _Timer(work)
    steps = prepare.steps_of(module, work.recover, networks)
    real = _RandomBytes(work) if steps or work.recover.needs().real_images else None
    table, timer.prepare_seconds = _rehearsed(work, steps, networks)
    task = Task(
        labels=torch.tensor([label for unit in group for label in unit.labels], device=device),
        slots=torch.tensor([slot for unit in group for slot in unit.slots]),
        size=(work.size, work.size),
        teachers=networks,
        device=device,
        streams=lambda *names: tuple(generator(0, unit.name, *names) for unit in group),
        shared_stream=lambda *names: generator(0, *names),
        monitor=timer,
        unit_sizes=shape_of(group),
        num_alike=list(map(shape_of, work.groups)).count(shape_of(group)),
        real=method_code.real_for(module.__name__, work.recover, real),
        table=table,
        experts=None if work.recover.needs().snapshots == "none" else _RandomExperts(work),
    )
    with contextlib.suppress(_Enough):
        module.recover(task, work.recover)
    if not all(pace.times for pace in timer.paces.values()):
        raise AttarError(f"the method '{work.method}' declares iterations in Config.cost() but does not report them")
    return timer


def _rehearsed(
    work: Work, steps: Sequence[Preparation], networks: Sequence[Network]
) -> tuple[Callable[..., torch.Tensor], float]:
    """Return tables of the method's preparations, and an estimate of the seconds for all their rows.

    The first row is made three times: with few images, which includes what is done once, such as building observers;
    with as few again; and with more. The difference of the last two is the time of an image. What the second took
    beside its images is the time of a row.
    """

    def make(most: int) -> tuple[Callable[..., torch.Tensor], float]:
        few, begun = _RandomBytes(work, most=most), work.timer()
        made = prepare.rehearsed(steps, work.recover, networks, few, (work.size, work.size), work.device.device)
        return made, work.timer() - begun

    def shown(most: int) -> float:
        """Real images that the first rows read."""
        counts = [min(most, count) for count in work.counts]
        return sum(_shown(work, step, counts if step.rows == "slot" else counts[:1]) for step in steps)

    if not steps:
        return make(_FEW)[0], 0.0
    every = sum(_shown(work, step, work.counts) * (work.recover.ipc if step.rows == "slot" else 1) for step in steps)
    table, first = make(_FEW)
    if first > _LONG_SECONDS:
        return table, every * first / max(1.0, shown(_FEW))
    few, more = make(_FEW)[1], make(_MORE)[1]
    added = shown(_MORE) - shown(_FEW)
    each = max(0.0, more - few) / added if added else few / max(1.0, shown(_FEW))
    once, row = max(0.0, first - few), max(0.0, few - each * shown(_FEW))
    num_rows = max(work.num_classes if step.rows == "class" else work.recover.ipc for step in steps)
    return table, once + num_rows * row + every * each


def _shown(work: Work, step: Preparation, counts: Sequence[int]) -> float:
    """Return how many real images of classes of these sizes a row reads; a slot's row reads its part of each class."""
    images = sum(step.num_shown(work.recover, count) for count in counts)
    return images / work.recover.ipc if step.rows == "slot" else images
