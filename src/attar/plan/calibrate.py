"""Time some steps of training and labelling on this device, to estimate a whole run.

Reads no real data and writes nothing: images, labels and weights are random. ``recover_cost.py`` times the method.
"""

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from attar.core.device import Device, Execution, resolve
from attar.core.randomness import generator
from attar.core.stopwatch import NUM_STEADY, NUM_WARM, PATIENCE_SECONDS, Pace, fair_clock
from attar.models import build, record
from attar.models import teacher as teachers
from attar.models.choices import Stem
from attar.models.committee import Committee
from attar.models.teacher import Teacher
from attar.ops import replay
from attar.ops.mixing import MixChoice
from attar.ops.pixels import Normalisation
from attar.ops.replay import LookChoice
from attar.ops.targets import Targets, hard_loss
from attar.stages.asked import asks_teachers
from attar.stages.evaluate import Evaluate
from attar.stages.imported import squeeze_folder
from attar.stages.kept import Kept
from attar.stages.label_choice import Relabel
from attar.stages.members import choose
from attar.stages.relabel import label_epoch
from attar.stages.run import IMPORTED
from attar.stages.squeeze import Squeeze
from attar.stages.unit_groups import planned, unit_shape
from attar.store.images import ImageSet
from attar.store.labels import Header
from attar.store.units import Unit
from attar.synthesis.method import MethodConfig, Needs, Stretch, num_iterations
from attar.training.choices import Optimisation
from attar.training.loop import Loss, TrainingBatch, fit

STEADY_SECONDS = 0.5
"""Approximate duration of the measured steady steps, in seconds."""
PROBE_IMAGES, SLOW_SECONDS = 8, 0.3
"""Images of a first, short measurement. If it predicts more than SLOW_SECONDS for a batch, a smaller batch is
measured."""
PATIENT_SECONDS, HASTE_SECONDS = 30.0, 2.0
"""After PATIENT_SECONDS on the wall clock every further measurement ends HASTE_SECONDS after its first step."""
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
    kept: Kept | None = None
    """Images of an earlier run that are kept."""
    clock: Callable[[], float] | None = field(default=None, repr=False)
    """Clock of all measurements; None: on a CPU processor seconds, which other programs hardly change, else the wall
    clock."""
    begun: float = field(default_factory=time.perf_counter, repr=False)
    known: dict[Hashable, float] = field(default_factory=dict, repr=False)

    @cached_property
    def device(self) -> Device:
        """The resolved device."""
        return resolve(self.execution)

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @property
    def asks_teachers(self) -> bool:
        """Whether the run trains or imports teachers."""
        needs = Needs(teachers="none") if self.method == IMPORTED else self.recover.needs()
        return asks_teachers(needs, self.relabel, self.evaluate)

    @cached_property
    def groups(self) -> list[tuple[Unit, ...]]:
        """Units of recover, in groups that share a batch."""
        return planned(self.num_classes, self.recover, earlier_run=self.kept)

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
        """Number of distilled images, with those that are kept from an earlier run."""
        return sum(map(sum, map(shape_of, self.groups))) + (0 if self.kept is None else self.kept.num_images)

    def pace(self, seconds: float, num_steps: int = sys.maxsize) -> Pace:
        """Return a started stopwatch for steps on the device."""
        wall = self.clock or time.perf_counter
        patience = HASTE_SECONDS if time.perf_counter() - self.begun > PATIENT_SECONDS else PATIENCE_SECONDS
        return Pace(self.device.device, seconds, num_steps, self.timer, wall, patience)

    @property
    def timer(self) -> Callable[[], float]:
        """The clock of all measurements."""
        return self.clock or fair_clock(self.device.device)


def shape_of(group: tuple[Unit, ...]) -> tuple[int, ...]:
    """Return the number of images of each unit."""
    return tuple(len(unit.labels) for unit in group)


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
    choice = config.committee.changed(policy="mean", weights=(), priors=())
    committee = Committee([untrained_teacher(work, index) for index in asked], choice, work.device.device)

    def label(count: int, pace: Pace) -> None:
        images = ImageSet(random_bytes(count, size).to(work.device.device), torch.zeros(count), torch.zeros(count))
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
        count, pace = min(bearable, batch_size), work.pace(STEADY_SECONDS)
        run(count, pace)
    return pace.step_seconds / count


def untrained_teacher(work: Work, index: int = 0) -> Teacher:
    """Return one of the recipe's teachers with random weights, on the device; raises AttarError if it cannot be
    built."""
    size, num_classes = work.size, work.num_classes
    network, name, stem = untrained_network(work.squeeze.each[index], size, num_classes)
    build.check_forward(network, size, num_classes, name=name)
    stem = build.resolve_stem(name, size, stem)
    return Teacher(network.to(work.device.device), name, stem, tuple(map(str, range(num_classes))), NORMALISATION, size)


def untrained_network(config: Squeeze, size: int, num_classes: int) -> tuple[nn.Module, str, Stem]:
    """Return a teacher's network with random weights, its architecture and its stem; for images of ``size`` pixels.

    Raises AttarError if it cannot be built.
    """
    name, stem = config.architecture, config.stem
    file = Path(config.weights).expanduser()
    if folder := squeeze_folder(config.weights):
        path = folder / teachers.RECORD
        found = record.parse(path.read_bytes(), path)
        teachers.refuse_untyped(found.architecture, path, (name,))
        name, stem = found.architecture, found.stem
    elif config.weights and stem == "auto" and not file.is_file():
        stem = "standard"  # which published weights have
    return build.build(name, num_classes, size, stem=stem, seed=0), name, stem


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
        images, labels = (
            random_bytes(count, work.size).to(device),
            torch.arange(count, device=device) % work.num_classes,
        )
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


def random_bytes(count: int, size: int) -> UInt8[Tensor, "image 3 height width"]:
    """Return random images."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(0, "noise"))
