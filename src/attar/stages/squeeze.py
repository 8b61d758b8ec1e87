"""Squeeze: a teacher that knows the real data, trained here or brought along."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import ranks
from attar.core.errors import AttarError
from attar.models import build, pretrained
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.targets import Targets, hard_loss
from attar.ops.training import Epoch, fit
from attar.stages.choices import Squeeze
from attar.stages.folder import StageFolder
from attar.stages.workspace import Workspace
from attar.store import atomic, weights

CHECKPOINT = "checkpoint.safetensors"


def run(space: Workspace, config: Squeeze) -> Teacher:
    """Make ``<out>/squeeze``, a teacher with its accuracy on real validation images, or return the one there is.

    A ``space.module``, the caller's own trained network, is taken as it is. Raises AttarError when the folder holds
    another teacher, or the named weights don't fit.
    """
    out, module = space.out / "squeeze", space.module
    request = space.request(squeeze=config.plain(), precision=space.device.precision)
    if module is not None:
        request["module"] = f"{type(module).__module__}.{type(module).__qualname__}"
    folder = StageFolder(out, "squeeze", request, {"data": space.real.fingerprint})
    if folder.finished() is None:
        brought = _brought(space, config)  # before anything is written: what is named may not be there
        folder.begin()
        if ranks.is_first():
            _make(space, config, folder, brought)
        ranks.wait()
    return teachers.load(out, module)


def check(space: Workspace, config: Squeeze) -> nn.Module | None:
    """The network that would be trained, untrained; None when a teacher is brought along.

    Raises AttarError when there is no such network, or it cannot take images of this size.
    """
    if config.weights or space.module is not None:
        return space.module
    num_classes, size = len(space.real.classes), space.choice.size
    network = build.build(config.architecture, num_classes, size, stem=config.stem, seed=space.seed)
    build.check_forward(network, size, num_classes, name=config.architecture)
    return network


def full_data(space: Workspace, network: nn.Module, config: Squeeze, stream: str, progress: Any, **more: Any) -> None:
    """Train ``network`` on all real images as ``config`` says; evaluate's full-data row is trained the same way.

    ``more`` goes to ``fit``: the seed of what the network draws, and what to resume from.
    """
    device = space.device

    def batches(epoch: int) -> Any:
        draws = space.stream(stream, "epoch", epoch)
        feed = space.train.epoch(config.training.batch_size, config.views, draws, device.device)
        return ((images, Targets(labels)) for images, labels in feed)

    fit(
        network,
        space.normalisation,
        batches,
        lambda logits, targets: hard_loss(logits, targets, config.label_smoothing),
        config.training,
        space.train.num_images,
        device.autocast,
        progress,
        **more,
    )


def _brought(space: Workspace, config: Squeeze) -> Teacher | None:
    if space.module is not None:
        return teachers.of_module(space.module, space.real.classes, space.normalisation, space.choice.size)
    return bring(space, config.architecture, config.weights, config.stem) if config.weights else None


def _make(space: Workspace, config: Squeeze, folder: StageFolder, brought: Teacher | None) -> None:
    log = space.log.beside(folder.path)
    found, seconds = (brought, 0.0) if brought else _train(space, config, folder.path, log)
    found.module.to(space.device.device)
    top1, top5 = None, None
    if len(found.classes) == len(space.real.classes):
        top1, top5 = teachers.accuracy(found.logits, space.val.plain(256, space.device.device))
        log.event("accuracy", top1=top1, top5=top5, num_images=space.val.num_images)
        log.say(f"squeeze   {found.architecture}: {top1:.1%} of {space.val.num_images} real validation images")
    replace(found, accuracy=top1).save(folder.path)
    result = {"weights_sha256": atomic.sha256_of(folder.path / teachers.WEIGHTS), "top1": top1, "top5": top5}
    folder.finish(result, seconds, space.device.describe())
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


def bring(space: Workspace, architecture: str, weights: str, stem: build.Stem) -> Teacher:
    """A teacher made elsewhere: a squeeze folder, the weights of a library, or a checkpoint file.

    Its classes are put in the data's order where it knows them all; otherwise they are left for recover to refuse.
    """
    if (Path(weights) / "teacher.json").is_file():
        found = teachers.load(Path(weights))
    else:
        classes, size = space.real.classes, space.choice.size
        loaded = pretrained.pretrained(architecture, weights, len(classes), size, stem)
        found = Teacher(
            module=loaded.module,
            architecture=loaded.architecture,
            stem=loaded.stem,
            classes=loaded.classes or classes,
            normalisation=loaded.normalisation or space.normalisation,
            image_size=loaded.image_size or size,
        )
    known = set(found.classes)
    return teachers.aligned(found, space.real.classes) if known.issuperset(space.real.classes) else found


def named_teacher(space: Workspace, name: str, role: str) -> Teacher:
    """A further network by ARCHITECTURE:WEIGHTS or a squeeze folder, answering in the data's classes, on the device.

    Raises AttarError, naming the ``role`` that it was to play, when there is none, or it does not know the classes.
    """
    if (Path(name) / "teacher.json").is_file():
        architecture, weights = "", name
    else:
        architecture, _, weights = name.partition(":")
    if not weights:
        raise AttarError(f"The {role} '{name}' names no weights; write ARCHITECTURE:WEIGHTS, or a squeeze folder.")
    found = teachers.aligned(bring(space, architecture, weights, "auto"), space.real.classes)
    found.module.to(space.device.device)
    return found


def _train(space: Workspace, config: Squeeze, out: Path, log: Any) -> tuple[Teacher, float]:
    classes, size = space.real.classes, space.choice.size
    network = check(space, config)
    assert network is not None  # no weights are brought along
    network.to(space.device.device)
    checkpoint = out / CHECKPOINT
    state = weights.load_tree(checkpoint) if checkpoint.exists() else None
    before, started = (state["seconds"] if state else 0.0), time.perf_counter()
    epochs = config.training.epochs
    if state:
        log.say(f"squeeze   continues after epoch {state['fit']['epoch']} of {epochs}")

    def elapsed() -> float:
        return before + time.perf_counter() - started

    with log.progress("squeeze", epochs, state["fit"]["epoch"] if state else 0, "epochs") as advance:

        def after(epoch: Epoch) -> None:
            advance(0, note=f"loss {epoch.loss:.3f}")
            log.event("epoch", epoch=epoch.number, loss=epoch.loss, seconds=round(elapsed(), 3))
            if epoch.number % config.checkpoint_epochs == 0 and epoch.number < epochs:
                weights.save_tree(checkpoint, {"fit": epoch.state(), "seconds": elapsed()})

        def after_batch(num_images: int) -> None:
            advance(num_images / space.train.num_images)

        resume = state["fit"] if state else None
        full_data(space, network, config, "squeeze", after, resume=resume, seed=space.seed, after_batch=after_batch)
    _refuse_broken(network)
    found = Teacher(
        module=network,
        architecture=config.architecture,
        stem=build.resolve_stem(config.architecture, size, config.stem),
        classes=classes,
        normalisation=space.normalisation,
        image_size=size,
    )
    return found, elapsed()


def _refuse_broken(network: nn.Module) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise AttarError(
            "The teacher's training diverged (its weights are not finite); lower --squeeze.training.learning-rate."
        )
