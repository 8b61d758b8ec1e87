"""Recover: make the images unit by unit. Each unit is saved to a file, so finished units are never made twice."""

import functools
import gc
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attar.core import memory, plugin, ranks, work
from attar.core.compiling import Compiler, decision, out_of_memory
from attar.core.device import Device
from attar.core.errors import AttarError
from attar.core.log import Advance, Log
from attar.core.randomness import generator
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.pixels import grid
from attar.stages import assemble, earlier, growth, kept, members, method_code, prepare, teacher_check
from attar.stages import experts as trajectories
from attar.stages.checkup import UnitCheckup
from attar.stages.choices import Experts
from attar.stages.experts import TrainedExperts
from attar.stages.folder import SOURCE, StageFolder, logged, manifest_of, recorded_parents, total
from attar.stages.imported import named_teacher
from attar.stages.methods import method_named
from attar.stages.recorder import Recorder
from attar.stages.unit_checkpoint import FOLDER as CHECKPOINTS
from attar.stages.unit_checkpoint import UnitCheckpoint
from attar.stages.unit_groups import planned, unit_shape
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.store import units
from attar.store.units import Unit
from attar.synthesis.method import MethodConfig, num_iterations
from attar.synthesis.task import Network, RealImages, Task


def run(
    space: Workspace,
    method: str,
    config: MethodConfig,
    folder: Path | None = None,
    experts: Experts | None = None,
    *,
    teachers_label: bool = True,
) -> dict[str, Any]:
    """Make ``<out>/recover``: unit files with images, losses and snapshots, and Parquet files; returns its manifest.

    Pass ``folder`` to write elsewhere, as for a baseline. ``experts`` are the settings of the experts, for methods that
    need them; the defaults if None. ``teachers_label`` says whether students will be trained with the teachers' labels:
    if not, and the method uses no teacher either, a weak teacher stops nothing. Raises AttarError when the teacher
    fails its check or does not fit the method, or when the folder holds other images.
    """
    out = folder or space.out / "recover"
    module = method_named(method)
    asked = members.of_images(space, config)
    device = space.device_of(out)
    request = space.request(method=method, recover=config, precision=device.precision)
    parents = _asked_parents(space, asked, config, out) | {"data": space.real.fingerprint}
    parents |= trajectories.parents(space, config.needs().snapshots)
    if "." in method:
        parents[SOURCE] = plugin.source_sha256(method)
    num_classes = len(space.real.classes)
    earlier_run = kept.find(space.real.classes, config, out)
    if earlier_run is not None:
        parents["kept"] = earlier_run.identity
    stage = StageFolder(
        out,
        "recover",
        request,
        parents,
        space.log.warn,
        lambda: assemble.files_of(planned(num_classes, config, growth.earlier_of(stage), earlier_run), out),
    )
    grown = growth.begin(stage, config, method, space.log, space.out if folder is None else None)
    todo = planned(num_classes, config, grown, earlier_run)
    finished = stage.finished()
    if finished is not None:
        return finished
    found = [members.teacher(space, index) for index in asked]
    for index, teacher in zip(asked, found, strict=True):
        name = f"Teacher {index}" if space.num_teachers > 1 else "The teacher"
        teacher_check.check(
            teacher, space, method, config, name, used=teachers_label or config.needs().teachers != "none"
        )
    stage.begin()
    log = space.log.beside(out)
    if earlier_run is not None:
        kept.copy(earlier_run, out)
        many, names = earlier_run.num_images, len(earlier_run.classes)
        log.say(f"recover   the {many:,} images of {names} classes in {config.keep_from} are kept")
    weights = list(members.weights_sha256(space, asked)) or [""]
    trained = _experts(space, experts or Experts(), config)
    networks = networks_of(found or [teachers.absent(space.real.classes, space.normalisation)], device, log)
    iterations = num_iterations(config.cost(unit_shape(todo[0][0], space.choice.size, len(networks))))
    checkup = None if folder else UnitCheckup(config, networks, space.real.classes, iterations, log)
    _make_units(space, device, module, config, networks, weights, todo, stage, log, trained, checkup)
    if ranks.is_first():
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # of units killed between their files and this
        see = (lambda unit, images: None) if checkup is None else checkup.add
        result = assemble.assemble(config, space.real.classes, todo, stage, see, earlier_run)
        if checkup is not None:
            checkup.whole()
        result |= {"method": method, "size": space.choice.size, "classes": list(space.real.classes)}
        if folder is None:
            result[kept.REAL] = kept.real_images(space)
        if config.storage().factor > 1:
            result["storage"] = config.storage().plain()
        before = [] if earlier_run is None else [earlier_run.elapsed]
        elapsed = total([logged(out, "prepare"), logged(out, "unit"), *before])
        finished = stage.finish(result, elapsed, space.device.describe(), assemble.files_of(todo, out))
    ranks.wait()
    return finished or manifest_of(out, "recover")


def _asked_parents(space: Workspace, asked: Sequence[int], config: MethodConfig, out: Path) -> dict[str, str]:
    """Return the teachers that the images depend on.

    Those of a method that asks none depend on none. Earlier versions recorded them there, too, and what they recorded
    stays.
    """
    if config.needs().teachers != "none":
        return members.parents(space, asked)
    return recorded_parents(out, ("teacher", "committee"))


def _experts(space: Workspace, choice: Experts, config: MethodConfig) -> TrainedExperts | None:
    snapshots = config.needs().snapshots
    return None if snapshots == "none" else TrainedExperts(space, choice, snapshots)


_TOO_LARGE = object()
"""Stands for the images of a group that does not fit in memory."""


class RealByClass:
    """Real training images by class, for methods."""

    def __init__(self, space: Workspace) -> None:
        self._feed = space.train
        self._classes = space.real.classes
        order = np.argsort(space.train.labels, kind="stable")
        ends = np.bincount(space.train.labels, minlength=len(self._classes)).cumsum()
        self._rows = np.split(order, ends[:-1])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self._classes)

    def count(self, label: int) -> int:
        """Return the class's number of images."""
        return len(self._rows[label])

    def take(self, label: int, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """Return these images of the class, on the CPU."""
        return self._feed.take([int(self._rows[label][index]) for index in indices]).cpu()

    def class_name(self, label: int) -> str:
        """Return the class's name."""
        return self._classes[label]


def _make_units(
    space: Workspace,
    device: Device,
    module: Any,
    config: MethodConfig,
    networks: tuple[Network, ...],
    weights: Sequence[str],
    todo: list[tuple[Unit, ...]],
    stage: StageFolder,
    log: Log,
    experts: TrainedExperts | None,
    checkup: UnitCheckup | None,
) -> None:
    folder, warn = stage.path / "units", work.once(log.warn)
    folder.mkdir(parents=True, exist_ok=True)
    with method_code.run_by(module):
        steps = prepare.steps_of(module, config, networks)
        real = RealByClass(space) if steps or config.needs().real_images else None
        tables = prepare.run(space, steps, config, networks, weights, real, log) if real else prepare.Tables()
    shown = method_code.real_for(module.__name__, config, real)
    making = _Making(space, device, module, config, networks, shown, tables, todo, stage, log, experts, checkup)
    iterations = num_iterations(config.cost(unit_shape(todo[0][0], space.choice.size, len(networks))))
    jobs = [
        work.Job(
            name=group[0].name,
            run=functools.partial(making.run, group),
            done=lambda group=group: all(_is_whole(folder, unit, stage, warn) for unit in group),
            steps=len(group) * (iterations or 1),
            cost=sum(_shape(group)),
            num_results=len(group),
        )
        for group in todo
    ]
    with memory.kept():
        work.do(jobs, log, "recover", unit="iterations" if iterations else "units", results="units", event="group")


class _Making:
    """Makes groups of units; splits groups that do not fit into the device's memory."""

    def __init__(
        self,
        space: Workspace,
        device: Device,
        module: Any,
        config: MethodConfig,
        networks: tuple[Network, ...],
        real: RealImages | None,
        tables: prepare.Tables,
        todo: list[tuple[Unit, ...]],
        stage: StageFolder,
        log: Log,
        experts: TrainedExperts | None,
        checkup: UnitCheckup | None,
    ) -> None:
        self._experts, self._checkup = experts, checkup
        self._space, self._device, self._module, self._config = space, device, module, config
        self._networks, self._real, self._tables = networks, real, tables
        self._stage, self._log, self._todo = stage, log, todo
        self._first, self._alike = todo[0][0], Counter(map(_shape, todo))
        self._most = config.parallel_units
        self._iterations = num_iterations(config.cost(unit_shape(self._first, space.choice.size, len(networks))))

    @functools.cached_property
    def _verifier(self) -> Teacher | None:
        return named_teacher(self._space, self._config.verifier, "verifier") if self._config.verifier else None

    def run(self, group: tuple[Unit, ...], advance: Advance) -> None:
        """Make and save a group's units; when memory runs out, halves this group and all later ones."""
        waiting = _parts(group, self._most)
        while waiting:
            if self._make(waiting[0], advance):
                waiting.pop(0)
                continue
            # No exception is being handled here: what it held of the failed group is free again.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._most = _half(waiting[0], self._config, self._log)
            waiting = [part for each in waiting for part in _parts(each, self._most)]

    def _make(self, group: tuple[Unit, ...], advance: Advance) -> bool:
        """Make the group; returns False when memory ran out."""
        device = self._device.device
        labels = torch.tensor([label for unit in group for label in unit.labels], device=device)
        recorder = Recorder(self._config, labels, advance, group)
        recorder.verifier, recorder.snapshots = self._verifier, self._config.snapshots_within(self._iterations)
        recorder.examine = self._checkup.iteration if self._checkup else None
        if group[0] == self._first and self._iterations:
            recorder.preview = _previewer(self._stage.path)
        checkpoint = UnitCheckpoint(self._stage.path, self._stage.identity, group, recorder)
        recovered = self._recovered(group, labels, recorder, checkpoint)
        if recovered is _TOO_LARGE:
            advance(-recorder.num_iterations * len(group))
            return False
        shape = (len(labels), len(self._space.real.classes))
        method_code.check(recovered, shape, self._space.choice.size, group[0].name)
        elapsed = checkpoint.clock.elapsed().part(len(group)).plain()
        for unit, result in zip(group, recorder.results(recovered), strict=True):
            units.save(self._stage.path / "units", unit, result, self._stage.identity)
            final = {name: float(values[-1]) for name, values in result.curves.items()}
            sure = self._checkup.finished(unit, result.images) if self._checkup else {}
            self._log.event("unit", name=unit.name, **elapsed, **final, **sure)
        checkpoint.remove()
        if not recorder.num_iterations:
            advance(len(group))
        return True

    def _recovered(
        self, group: tuple[Unit, ...], labels: Tensor, recorder: Recorder, checkpoint: UnitCheckpoint
    ) -> Any:
        """Run the method on the group; returns its unchecked result, or ``_TOO_LARGE`` when memory ran out."""
        seed = self._space.seed
        task = Task(
            labels=labels,
            slots=torch.tensor([slot for unit in group for slot in unit.slots]),
            size=(self._space.choice.size, self._space.choice.size),
            teachers=self._networks,
            device=self._device.device,
            streams=lambda *names: tuple(generator(seed, "recover", unit.name, *names) for unit in group),
            shared_stream=lambda *names: generator(seed, "recover", *names),
            monitor=recorder,
            unit_sizes=_shape(group),
            num_alike=max(1, self._alike[_shape(group)]),
            real=self._real,
            table=self._tables,
            checkpoint=checkpoint,
            earlier=lambda: earlier.tasks(task, group, self._todo, seed),
            experts=self._experts,
        )
        try:
            with method_code.run_by(self._module):
                return self._module.recover(task, self._config)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return _TOO_LARGE


def networks_of(found: Sequence[Teacher], device: Device, log: Log) -> tuple[Network, ...]:
    """Wrap the teachers for methods; what is compiled, and why, is said once for all of them."""
    said = set[str]()

    def say(line: str) -> None:
        if not said:
            log.say(f"recover   {device.precision}, {device.why}")
        if decision(line) not in said:
            log.say(f"recover   {line}")
            log.event("execution", precision=device.precision, why=device.why, compilation=line)
        said.add(decision(line))

    def warn(line: str) -> None:
        log.warn(f"recover {line}")

    def network(teacher: Teacher) -> Network:
        compiler = Compiler(device.compile, device.device.type, say, warn, network=teacher.architecture)
        return Network(teacher.module, teacher.normalisation, device.precision, compiler, teacher.accuracy)

    return tuple(map(network, found))


def _half(group: tuple[Unit, ...], config: MethodConfig, log: Log) -> int:
    """Return the largest group to try after one that ran out of memory; raises AttarError for a single unit."""
    if len(group) == 1:
        smaller = "--recover.unit-classes or --recover.unit-slots"
        if config.needs().unit == "set":
            smaller = "--recover.batch-size" if hasattr(config, "batch_size") else "--recover.ipc"
        raise AttarError(
            f"Not enough memory for {group[0].name} with {len(group[0].labels)} images at a time; lower "
            f"{smaller}, or use a device with more memory."
        )
    most = len(group) // 2
    log.warn(f"out of memory with {len(group)} units in one batch; continuing with {most}")
    return most


def _parts(group: tuple[Unit, ...], most: int) -> list[tuple[Unit, ...]]:
    return [group[start : start + most] for start in range(0, len(group), most)]


def _is_whole(folder: Path, unit: Unit, stage: StageFolder, warn: Callable[[str], object]) -> bool:
    """Return whether a unit is complete; warns why an existing one must be made again."""
    if not unit.path(folder).exists():
        return False
    fault = units.fault(folder, unit, stage.identity)
    if fault:
        warn(f"{fault.partition('; ')[0]}; it is made again")
    return not fault


def _shape(group: tuple[Unit, ...]) -> tuple[int, ...]:
    return tuple(len(unit.labels) for unit in group)


def _previewer(out: Path) -> Callable[[int, Tensor], None]:
    def write(done: int, images: Tensor) -> None:
        image_files.save_picture(out / "previews" / f"iteration-{done:06d}.png", grid(images[:100], columns=10))

    return write
