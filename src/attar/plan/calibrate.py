"""Run a few steps of every stage on this device, to estimate the time and memory of a whole run.

Reads no real data and writes nothing: images, labels and weights are random.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core import memory
from attar.core.compiling import Compiler, out_of_memory
from attar.core.device import Device, Execution, resolve
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.core.stopwatch import NUM_STEADY, NUM_WARM, Pace, Peak
from attar.models import build, record
from attar.models import teacher as teachers
from attar.models.committee import Committee
from attar.models.teacher import Teacher
from attar.ops import replay
from attar.ops.mixing import MixChoice
from attar.ops.pixels import Normalisation
from attar.ops.replay import LookChoice
from attar.ops.targets import Targets, hard_loss
from attar.stages import method_code, prepare
from attar.stages.evaluate import Evaluate
from attar.stages.imported import squeeze_folder
from attar.stages.label_choice import Relabel
from attar.stages.members import choose
from attar.stages.methods import method_named
from attar.stages.recover import check_network, planned, unit_shape
from attar.stages.relabel import label_epoch
from attar.stages.squeeze import Squeeze
from attar.store.images import ImageSet
from attar.store.labels import Header
from attar.store.units import Unit
from attar.synthesis.method import MethodConfig, Preparation, Stretch, num_iterations
from attar.synthesis.task import Network, Task
from attar.training.choices import Optimisation
from attar.training.loop import Loss, TrainingBatch, fit

RECOVER_SECONDS, OTHER_SECONDS = 2.0, 0.5
"""Approximate duration of the measured steady steps, in seconds."""
PROBE_IMAGES, SLOW_SECONDS = 8, 1.0
"""Images of a first, short measurement. If it predicts more than SLOW_SECONDS for a batch, a smaller batch is
measured."""
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # any normalisation takes the same time


@dataclass(frozen=True)
class Work:
    """The work that a recipe asks of this device."""

    execution: Execution
    counts: Sequence[int]
    """Number of real training images of each class."""
    size: int
    """Side of the images in pixels."""
    squeeze: Squeeze
    method: str
    recover: MethodConfig
    relabel: Relabel
    evaluate: Evaluate
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False)
    known: dict[Hashable, float] = field(default_factory=dict, repr=False)

    @cached_property
    def device(self) -> Device:
        """The resolved device."""
        return resolve(self.execution)

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @cached_property
    def groups(self) -> list[tuple[Unit, ...]]:
        """Units of recover, in groups that share a batch."""
        return planned(self.num_classes, self.recover)

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """Stretches of a unit's iterations; empty for a method without iterations."""
        return self.recover.cost(
            unit_shape(self.groups[0][0], self.size, len(self.recover.members_of(len(self.squeeze.each))))
        )

    @property
    def iterations(self) -> int:
        """Number of iterations of each unit."""
        return num_iterations(self.stretches)

    @property
    def num_images(self) -> int:
        """Number of distilled images."""
        return sum(map(sum, map(shape_of, self.groups)))

    def pace(self, seconds: float, num_steps: int = sys.maxsize) -> Pace:
        """Return a started stopwatch for steps on the device."""
        return Pace(self.device.device, seconds, num_steps, self.clock)


@dataclass(frozen=True)
class Recovering:
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

    @property
    def compiled(self) -> bool:
        return self.compilation.startswith("compiled") or "; compiled" in self.compilation

    def seconds(self, groups: Sequence[tuple[Unit, ...]], iterations: int) -> float:
        """Return the seconds of all groups in one process: time is proportional to images; each shape is compiled
        once."""
        shapes = list(map(shape_of, groups))
        preparations = len(set(shapes)) if self.compiled else 1
        steps = iterations * sum(map(sum, shapes)) / self.num_images
        return self.prepare_seconds + steps * self.step_seconds + preparations * self.preparation_seconds


def shape_of(group: tuple[Unit, ...]) -> tuple[int, ...]:
    """Return the number of images of each unit."""
    return tuple(len(unit.labels) for unit in group)


def recovering(work: Work) -> Recovering:
    """Run the method for some iterations on the recipe's first units, with as many units per batch as in the run.

    Raises AttarError when the teacher cannot be built, does not fit the method, or memory does not suffice.
    """
    device, said = work.device, dict[str, None]()
    compiler = Compiler(device.compile, device.device.type, lambda line: said.update({line: None}))
    try:
        with Peak(device.device) as peak, memory.kept():
            networks = []
            for index in work.recover.members_of(len(work.squeeze.each)):
                teacher = untrained_teacher(work, index)
                check_network(teacher.module, teacher.architecture, work.method, work.recover)
                networks.append(Network(teacher.module, teacher.normalisation, device.precision, compiler))
            watch = _iterate(work, tuple(networks))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        few = f"for {len(work.groups[0])} units side by side; lower --recover.parallel-units or --recover.unit-classes"
        raise AttarError(f"there is not memory enough {few}") from None
    return Recovering(
        step_seconds=sum(each.iterations * watch.step_seconds(each) for each in work.stretches) / work.iterations,
        preparation_seconds=watch.preparation_seconds(),
        num_images=sum(shape_of(work.groups[0])),
        compilation=compiler.reason(0) if compiler.failed else "; ".join(said),
        memory_bytes=peak.num_bytes,
        prepare_seconds=watch.prepare_seconds,
    )


def full_epoch_seconds(work: Work, architecture: str, stem: build.Stem, squeeze: Squeeze | None = None) -> float:
    """Return the seconds of one squeeze epoch on all real images, without reading and decoding them.

    ``squeeze`` holds the settings of one of several teachers, by default those of the recipe.
    """
    config, num_images = squeeze or work.squeeze, sum(work.counts)

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        return hard_loss(logits, targets, config.label_smoothing)

    network = (architecture, stem, config.training, LookChoice(**config.views.model_dump()), MixChoice())
    key = (*network[:2], config.training.changed(epochs=1), config.views)
    if key not in work.known:
        work.known[key] = _training_seconds(work, *network, loss, num_images)
    return work.known[key]


def distilled_epoch_seconds(work: Work, student: str) -> float:
    """Return the seconds of one epoch of training a student on existing distilled images and labels."""
    judging, labels = work.evaluate, work.relabel
    how = (
        judging.student_stem,
        judging.protocol.training_of(student),
        labels.views,
        labels.mix,
        judging.protocol.value,
    )
    return _training_seconds(work, student, *how, work.num_images)


def labels_epoch_seconds(work: Work) -> float:
    """Return the seconds of one epoch of labelling the distilled images."""
    config, size, stream = work.relabel, work.size, generator(0, "labels")
    asked = choose(len(work.squeeze.each), config.committee.members, "--relabel.committee.members")
    choice = config.committee.changed(policy="mean", weights=())
    committee = Committee([untrained_teacher(work, index) for index in asked], choice, work.device.device)

    def label(count: int, pace: Pace) -> None:
        images = ImageSet(_noise(count, size).to(work.device.device), torch.zeros(count), torch.zeros(count))
        counts = {"num_images": count, "num_classes": work.num_classes, "num_epochs": 1, "epochs_per_file": 1}
        shown = {"height": size, "width": size, "views": config.views, "mix": config.mix}
        header = Header(images_sha256="", teacher="", **counts, **shown)
        enough = False
        while not enough:
            label_epoch(images, committee, header, stream, count)
            enough = pace.tick()

    return seconds_per_image(work, min(config.batch_size, work.num_images), label) * work.num_images


def seconds_per_image(work: Work, batch_size: int, run: Callable[[int, Pace], None]) -> float:
    """Return the seconds per image in steps of ``batch_size`` images, or fewer if such a step is slow.

    ``run(count, pace)`` takes steps of ``count`` images until the pace has enough.
    """
    count, pace = min(PROBE_IMAGES, batch_size), work.pace(0, NUM_WARM + NUM_STEADY)
    run(count, pace)
    bearable = int(count * SLOW_SECONDS / max(pace.step_seconds, 1e-6))
    if count < batch_size and 2 * count < bearable:
        count, pace = min(bearable, batch_size), work.pace(OTHER_SECONDS)
        run(count, pace)
    return pace.step_seconds / count


def untrained_teacher(work: Work, index: int = 0) -> Teacher:
    """Return one of the recipe's teachers with random weights, on the device; raises AttarError if it cannot be
    built."""
    config = work.squeeze.each[index]
    name, stem, size = config.architecture, config.stem, work.size
    file = Path(config.weights).expanduser()
    if folder := squeeze_folder(config.weights):
        path = folder / teachers.RECORD
        found = record.parse(path.read_bytes(), path)
        teachers.refuse_untyped(found.architecture, path, (name,))
        name, stem = found.architecture, found.stem
    elif config.weights and stem == "auto" and not file.is_file():
        stem = "standard"  # which published weights have
    network = build.build(name, work.num_classes, size, stem=stem, seed=0)
    build.check_forward(network, size, work.num_classes, name=name)
    classes = tuple(map(str, range(work.num_classes)))
    stem = build.resolve_stem(name, size, stem)
    return Teacher(network.to(work.device.device), name, stem, classes, NORMALISATION, size)


class _Enough(Exception):  # noqa: N818
    """Ends an optimisation after enough iterations."""


_REHEARSED_IMAGES = 16
"""Largest number of images per class that preparations read in a forecast."""


class _Watch:
    """Measures some iterations of each stretch, once per shape, and then makes the method go on to the next stretch."""

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
            self.paces[stretch.shape()] = self._work.pace(RECOVER_SECONDS, steps)

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> bool:
        """Return True when this stretch is measured, which makes the method go on to the next one."""
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

    def preparation_seconds(self) -> float:
        """Return the additional seconds of first iterations."""
        return sum(pace.preparation_seconds for pace in self.paces.values())


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
        return _noise(len(indices), self.work.size)

    def class_name(self, label: int) -> str:
        return str(label)


def _iterate(work: Work, networks: tuple[Network, ...]) -> _Watch:
    """Begin a task exactly as the stage does, so that the same choices are made; the watch ends it."""
    device, module, group = work.device.device, method_named(work.method), work.groups[0]
    watch = _Watch(work)
    steps = prepare.steps_of(module, work.recover, networks)
    real = _RandomBytes(work) if steps or work.recover.needs().real_images else None
    table, watch.prepare_seconds = _rehearsed(work, steps, networks)
    task = Task(
        labels=torch.tensor([label for unit in group for label in unit.labels], device=device),
        slots=torch.tensor([slot for unit in group for slot in unit.slots]),
        size=(work.size, work.size),
        teachers=networks,
        device=device,
        streams=lambda *names: tuple(generator(0, unit.name, *names) for unit in group),
        shared_stream=lambda *names: generator(0, *names),
        watch=watch,
        unit_sizes=shape_of(group),
        num_alike=list(map(shape_of, work.groups)).count(shape_of(group)),
        real=method_code.real_for(module.__name__, work.recover, real),
        table=table,
    )
    with contextlib.suppress(_Enough):
        module.recover(task, work.recover)
    if not all(pace.times for pace in watch.paces.values()):
        raise AttarError(f"the method '{work.method}' declares iterations in Config.cost() and does not report them")
    return watch


def _rehearsed(
    work: Work, steps: Sequence[Preparation], networks: Sequence[Network]
) -> tuple[Callable[..., torch.Tensor], float]:
    """Return tables of the method's preparations, and an estimate of the seconds for all their rows.

    The first row is made from a few images; its time is scaled by the number of images.
    """
    few = _RandomBytes(work, most=_REHEARSED_IMAGES)
    device = work.device.device
    begun = work.clock()
    table = prepare.rehearsed(steps, work.recover, networks, few, (work.size, work.size), device)
    seconds = (work.clock() - begun) / max(1, sum(step.num_shown(work.recover, few.count(0)) for step in steps))
    shown = sum(step.num_shown(work.recover, count) for step in steps for count in work.counts)
    return table, seconds * shown


def _training_seconds(
    work: Work,
    name: str,
    stem: build.Stem,
    training: Optimisation,
    views: LookChoice,
    mix: MixChoice,
    loss: Loss,
    num_images: int,
) -> float:
    """Return the seconds of an epoch of training a fresh network on views of this number of images."""
    device, stream, size = work.device.device, generator(0, "training"), (work.size, work.size)
    module = build.build(name, work.num_classes, work.size, stem=stem, seed=0).to(device)
    build.check_forward(module, work.size, work.num_classes, name=name)

    def train(count: int, pace: Pace) -> None:
        images, labels = _noise(count, work.size).to(device), torch.arange(count, device=device) % work.num_classes
        logits = torch.zeros(count, work.num_classes, device=device)

        def batches(_: int) -> Iterator[TrainingBatch]:
            enough = False
            while not enough:
                records = replay.draw(count, size, views, mix, stream)
                mixed = records.mix
                weight = None if mixed is None else mixed.weight.to(device)
                partners = None if mixed is None else labels[mixed.partner.to(device)]
                shown = replay.show(images, torch.arange(count), records)
                yield shown, Targets(labels, partners, weight, logits)
                enough = pace.tick()

        once = training.changed(epochs=1)
        fit(module, NORMALISATION, batches, loss, once, count, work.device.autocast, lambda _: None)

    return seconds_per_image(work, min(training.batch_size, num_images), train) * num_images


def _noise(count: int, size: int) -> UInt8[Tensor, "image 3 height width"]:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(0, "noise"))
