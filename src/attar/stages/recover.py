"""Recover: images from a teacher, unit by unit; every unit is a file of its own, so nothing is made twice."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from attar.core import plugin, ranks
from attar.core.errors import AttarError
from attar.core.log import Advance, Log
from attar.core.randomness import generator
from attar.models import build
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.pixels import grid, to_bytes
from attar.ops.task import MethodConfig, Network, Task
from attar.stages.folder import StageFolder, logged_seconds, manifest_of
from attar.stages.squeeze import bring
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.store import units
from attar.store.units import Unit, UnitResult

METHODS = "attar.methods"
WEAK = 0.05
"""A teacher is near chance when it closes less than this part of the gap between guessing and knowing."""


def method_named(name: str) -> Any:
    """The module of a method: a file of ``attar.methods``, or a dotted path.

    Raises AttarError when there is none, or it offers no Config, needs and recover.
    """
    module = plugin.resolve(METHODS, name, "method")
    missing = [part for part in ("Config", "needs", "recover") if not hasattr(module, part)]
    if missing:
        raise AttarError(f"The module '{name}' is no method: it lacks {' and '.join(missing)} (see docs/methods.md).")
    return module


def run(space: Workspace, method: str, config: MethodConfig, folder: Path | None = None) -> dict[str, Any]:
    """Make ``<out>/recover``: images of every unit, losses and snapshots, and the set as Parquet; returns its manifest.

    ``folder`` is another place for the result, as for a baseline. Raises AttarError when the teacher cannot be relied
    on or does not fit the method, or the folder holds other images.
    """
    out = folder or space.out / "recover"
    module = method_named(method)
    squeezed = manifest_of(space.out / "squeeze", "squeeze")
    request = space.request(method=method, recover=config.plain(), precision=space.device.recovering)
    parents = {"teacher": squeezed["result"]["weights_sha256"], "data": space.real.fingerprint}
    stage = StageFolder(out, "recover", request, parents)
    finished = stage.finished()
    if finished is not None:
        return finished
    teacher = teachers.load(space.out / "squeeze", space.module)
    check(teacher, space, method, config)
    stage.begin()
    log = space.log.beside(out)
    todo = units.plan(len(space.real.classes), config.ipc_start, config.ipc, config.unit_classes, config.unit_slots)
    _make_units(space, module, config, teacher, todo, out, log)
    ranks.wait()
    if ranks.is_first():
        result = _assemble(config, space.real.classes, todo, out)
        result |= {"method": method, "size": space.choice.size, "classes": list(space.real.classes)}
        finished = stage.finish(result, logged_seconds(out, "unit"), space.device.describe())
    ranks.wait()
    return finished or manifest_of(out, "recover")


def check(teacher: Teacher, space: Workspace, method: str, config: MethodConfig) -> None:
    """Refuse, in a sentence, a teacher on which hours of recovering would be wasted."""
    chance = 1 / len(space.real.classes)
    if teacher.classes != space.real.classes and not config.accept_other_classes:
        first = next((name for name in teacher.classes if name not in space.real.classes), teacher.classes[0])
        raise AttarError(
            f"The teacher knows other classes than the data ({len(teacher.classes)} against "
            f"{len(space.real.classes)}; '{first}' is the first that differs); squeeze a teacher on these data, or "
            f"insist with --recover.accept-other-classes True."
        )
    if len(teacher.classes) != len(space.real.classes):
        raise AttarError(
            f"The teacher has {len(teacher.classes)} classes and the data {len(space.real.classes)}; "
            f"squeeze a teacher on these data."
        )
    if teacher.image_size != space.choice.size:
        raise AttarError(
            f"The teacher was made for {teacher.image_size} pixels and the data are prepared at {space.choice.size}; "
            f"use --data.size {teacher.image_size}, or squeeze again."
        )
    check_network(teacher.module, teacher.architecture, method)
    rated = teacher.accuracy
    if rated is not None and (rated - chance) / (1 - chance) < WEAK and not config.accept_weak_teacher:
        raise AttarError(
            f"The teacher is right on {rated:.1%} of the real validation images, about chance ({chance:.1%}); "
            f"train it longer, check its class order, or insist with --recover.accept-weak-teacher True."
        )


def check_network(network: nn.Module, architecture: str, method: str) -> None:
    """Refuse a network that lacks what the method works with."""
    if method_named(method).needs.batchnorm and not build.has_batchnorm(network):
        raise AttarError(
            f"The teacher '{architecture}' has no BatchNorm layers, which method '{method}' matches; "
            f"choose a network with BatchNorm (resnet18), or another method."
        )


class RealByClass:
    """Real training images by class, as methods see them."""

    def __init__(self, space: Workspace) -> None:
        self._feed = space.train
        self._classes = space.real.classes
        self._rows = [np.flatnonzero(space.train.labels == label) for label in range(len(self._classes))]

    def count(self, label: int) -> int:
        """How many images the class has."""
        return len(self._rows[label])

    def take(self, label: int, indices: Sequence[int]) -> UInt8[Tensor, "image 3 height width"]:
        """These images of the class, on the CPU."""
        return self._feed.take([int(self._rows[label][index]) for index in indices]).cpu()

    def class_name(self, label: int) -> str:
        """The class's name."""
        return self._classes[label]


class Recorder:
    """Follows one unit: losses of every iteration, images at some, a progress bar, a verifier's opinion."""

    def __init__(self, config: MethodConfig, labels: Tensor, advance: Advance, name: str) -> None:
        self.curves: dict[str, list[Tensor]] = {}
        self.snapshots: dict[int, UInt8[Tensor, "image 3 height width"]] = {}
        self.verified: dict[int, float] = {}
        self.verifier: Teacher | None = None
        self.preview: Callable[[int, Tensor], None] | None = None
        self._config, self._labels, self._advance, self._name = config, labels, advance, name

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor | float) -> None:
        """Remember the metrics without waiting for the device; keep the images when it is time."""
        for name, value in metrics.items():
            self.curves.setdefault(name, []).append(torch.as_tensor(value))
        done = iteration + 1
        self._advance(note=self._note(done, metrics) if done % 50 == 0 else "")
        if done in self._config.snapshots:
            self.keep(done, images())

    def keep(self, done: int, images: Tensor) -> None:
        """Keep the images as they are after ``done`` iterations."""
        self.snapshots[done] = to_bytes(images, self._config.rounding).cpu()
        if self.verifier is not None:
            right = self.verifier.logits(images.clamp(0, 1)).argmax(1) == self._labels
            self.verified[done] = float(right.float().mean())
        if self.preview is not None:
            self.preview(done, self.snapshots[done])

    def num_iterations(self) -> int:
        """Iterations seen so far."""
        return max((len(values) for values in self.curves.values()), default=0)

    def _note(self, done: int, metrics: dict[str, Any]) -> str:
        shown = "  ".join(f"{name} {float(value):.3g}" for name, value in metrics.items())
        return f"{self._name} iteration {done}  {shown}"


def _make_units(
    space: Workspace, module: Any, config: MethodConfig, teacher: Teacher, todo: list[Unit], out: Path, log: Log
) -> None:
    device = space.device
    teacher.module.to(device.device)
    network = Network(teacher.module, teacher.normalisation)
    real = RealByClass(space) if module.needs.real_images else None
    verifier = _verifier(space, config) if config.verifier else None
    folder = out / "units"
    folder.mkdir(parents=True, exist_ok=True)
    mine = ranks.mine(todo)
    open_units = [unit for unit in mine if not unit.path(folder).exists()]
    steps = getattr(config, "iterations", 1)
    if len(open_units) < len(mine):
        log.say(f"recover   {len(mine) - len(open_units)} of {len(mine)} units are there already")
    with log.progress("recover", len(mine) * steps, (len(mine) - len(open_units)) * steps) as advance:
        for unit in open_units:
            started = time.perf_counter()
            labels = torch.tensor(unit.labels, device=device.device)
            recorder = Recorder(config, labels, advance, unit.name)
            recorder.verifier = verifier
            if unit == todo[0] and steps > 1:
                recorder.preview = _previewer(out)
            task = Task(
                labels=labels,
                slots=torch.tensor(unit.slots),
                size=(space.choice.size, space.choice.size),
                teachers=(network,),
                device=device.device,
                autocast=lambda: device.autocast(device.recovering),
                stream=lambda *names, unit=unit: generator(space.seed, "recover", unit.name, *names),
                shared_stream=lambda *names: generator(space.seed, "recover", *names),
                watch=recorder,
                real=real,
            )
            images = module.recover(task, config)
            _refuse_broken(images, unit)
            if recorder.curves:
                recorder.keep(recorder.num_iterations(), images)
            result = UnitResult(
                images=to_bytes(images, config.rounding).cpu(),
                labels=labels.cpu(),
                snapshots=recorder.snapshots,
                curves={name: torch.stack(values).float().cpu() for name, values in recorder.curves.items()},
                verifier=recorder.verified,
            )
            units.save(folder, unit, result)
            seconds = time.perf_counter() - started
            final = {name: float(values[-1]) for name, values in result.curves.items()}
            log.event("unit", name=unit.name, seconds=round(seconds, 3), **final)
            if not recorder.curves:
                advance()


def _assemble(config: MethodConfig, classes: tuple[str, ...], todo: list[Unit], out: Path) -> dict[str, Any]:
    def rows() -> Iterator[tuple[Tensor, int, int]]:
        for unit in todo:
            result = units.load(out / "units", unit)
            yield from zip(result.images, unit.labels, unit.slots, strict=True)

    size = image_files.write(out / "data", rows(), classes, config.image_format, config.jpeg_quality)
    stored = image_files.read(out / "data")
    return {"images_sha256": stored.sha256(), "num_images": len(stored.images), "image_bytes": size}


def _verifier(space: Workspace, config: MethodConfig) -> Teacher:
    if (Path(config.verifier) / "teacher.json").is_file():
        architecture, weights = "", config.verifier
    else:
        architecture, _, weights = config.verifier.partition(":")
    if not weights:
        raise AttarError(
            f"The verifier '{config.verifier}' names no weights; write ARCHITECTURE:WEIGHTS, or a squeeze folder."
        )
    found = teachers.aligned(bring(space, architecture, weights, "auto"), space.real.classes)
    found.module.to(space.device.device)
    return found


def _previewer(out: Path) -> Callable[[int, Tensor], None]:
    def write(done: int, images: Tensor) -> None:
        image_files.save_picture(out / "previews" / f"iteration-{done:06d}.png", grid(images[:100], columns=10))

    return write


def _refuse_broken(images: Tensor, unit: Unit) -> None:
    if not bool(images.isfinite().all()):
        raise AttarError(
            f"Recovering {unit.name} diverged (its pixels are not finite); lower --recover.learning-rate or "
            f"--recover.bn-weight."
        )
