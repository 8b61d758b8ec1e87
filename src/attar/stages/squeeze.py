"""Squeeze: a teacher that knows the real data, trained here or brought along."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
from torch import nn

from attar.core import ranks
from attar.core.config import Config
from attar.core.errors import AttarError
from attar.core.spent import Clock, Spent
from attar.models import build, pretrained
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.targets import Targets, hard_loss
from attar.ops.training import Epoch, Optimisation, all_finite, fit
from attar.ops.views import ViewChoice
from attar.stages.folder import MANIFEST, StageFolder, manifest_of
from attar.stages.workspace import Workspace
from attar.store import atomic, weights

CHECKPOINT = "checkpoint.safetensors"
_OUTSIDE = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*):(.+)")
"""package.module:factory:WEIGHTS."""


class Squeeze(Config):
    """Train a teacher on the real data, or take one along."""

    architecture: str = "resnet18"
    """The teacher: a name from 'attar list models', or package.module:factory."""
    stem: build.Stem = "auto"
    """First layers of torchvision ResNets: 'small' is 3x3, stride 1, no pooling; auto: small up to 112 pixels."""
    weights: str = ""
    """Empty: train here. Else a library's own (IMAGENET1K_V1, pretrained), a checkpoint file, a squeeze folder."""
    training: Optimisation = Optimisation(
        epochs=50, batch_size=256, learning_rate=0.2, warmup_epochs=5, weight_decay=1e-4
    )
    """How a teacher is trained here."""
    views: ViewChoice = ViewChoice()
    """Augmentation of the training images."""
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target spread over all classes."""
    checkpoint_epochs: int = pydantic.Field(default=1, ge=1)
    """Epochs between checkpoints; a killed training continues from the last one."""


def run(space: Workspace, config: Squeeze) -> Teacher:
    """Make ``<out>/squeeze``, a teacher with its accuracy on real validation images, or return the one there is.

    A ``space.module``, the caller's own trained network, is taken as it is. Raises AttarError when the folder holds
    another teacher, or the named weights don't fit.
    """
    out, module = space.out / "squeeze", space.module
    request = space.request(squeeze=config.plain(), precision=space.device.precision)
    if module is not None:
        request["module"] = f"{type(module).__module__}.{type(module).__qualname__}"
    folder = StageFolder(out, "squeeze", request, {"data": space.real.fingerprint}, again=False)
    if folder.finished() is None:
        brought = _brought(space, config)  # before anything is written: what is named may not be there
        folder.begin()
        if ranks.is_first():
            _make(space, config, folder, brought)
        ranks.wait()
    return own_teacher(space)


def own_teacher(space: Workspace) -> Teacher:
    """The run's teacher, whose weights are those that squeeze's manifest names.

    Raises AttarError when squeeze is not finished, its files are damaged, or name a network that the user did not type.
    """
    folder = space.out / "squeeze"
    known = manifest_of(folder, "squeeze")["result"]["weights_sha256"]
    return teachers.load(folder, space.module, factories=space.factories, weights_sha256=known)


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
    found, spent = (brought, Spent(0.0, 0.0)) if brought else _train(space, config, folder.path, folder.identity, log)
    found.module.to(space.device.device)
    top1, top5 = None, None
    if len(found.classes) == len(space.real.classes):
        top1, top5 = teachers.accuracy(found.logits, space.val.plain(256, space.device.device))
        log.event("accuracy", top1=top1, top5=top5, num_images=space.val.num_images)
        log.say(f"squeeze   {found.architecture}: {top1:.1%} of {space.val.num_images} real validation images")
    replace(found, accuracy=top1).save(folder.path)
    result = {"weights_sha256": atomic.sha256_of(folder.path / teachers.WEIGHTS), "top1": top1, "top5": top5}
    files = (folder.path / teachers.WEIGHTS, folder.path / teachers.RECORD)
    folder.finish(result, spent, space.device.describe(), files)
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


def bring(space: Workspace, architecture: str, weights: str, stem: build.Stem) -> Teacher:
    """A teacher made elsewhere: a squeeze folder, the weights of a library, or a checkpoint file.

    Its classes are put in the data's order where it knows them all; otherwise they are left for recover to refuse.
    """
    if (Path(weights) / "teacher.json").is_file():
        known = _recorded_sha256(Path(weights))
        found = teachers.load(Path(weights), factories=space.factories, weights_sha256=known)
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


def _recorded_sha256(folder: Path) -> str:
    """What the weights in a squeeze folder must be by its manifest; '' where it came without one."""
    if not (folder / MANIFEST).is_file():
        return ""
    return str(manifest_of(folder, "squeeze").get("result", {}).get("weights_sha256", ""))


def parted(name: str) -> tuple[str, str]:
    """Architecture and weights of a network that is named ARCHITECTURE:WEIGHTS, or is a squeeze folder.

    ARCHITECTURE may be package.module:factory, before the path of its weights or squeeze folder.
    """
    if (Path(name) / teachers.RECORD).is_file():
        return "", name
    outside = _OUTSIDE.fullmatch(name)
    architecture, _, weights = (outside[1], "", outside[2]) if outside else name.partition(":")
    return architecture, weights


def named_teacher(space: Workspace, name: str, role: str) -> Teacher:
    """A further network by ARCHITECTURE:WEIGHTS or a squeeze folder, answering in the data's classes, on the device.

    Raises AttarError, naming the ``role`` that it was to play, when there is none, or it does not know the classes.
    """
    architecture, weights = parted(name)
    if not weights:
        raise AttarError(f"The {role} '{name}' names no weights; write ARCHITECTURE:WEIGHTS, or a squeeze folder.")
    found = teachers.aligned(bring(space, architecture, weights, "auto"), space.real.classes)
    found.module.to(space.device.device)
    return found


def _train(space: Workspace, config: Squeeze, out: Path, made_for: str, log: Any) -> tuple[Teacher, Spent]:
    classes, size = space.real.classes, space.choice.size
    network = check(space, config)
    assert network is not None  # no weights are brought along
    network.to(space.device.device)
    checkpoint = out / CHECKPOINT
    state = weights.load_tree(checkpoint) if checkpoint.exists() else None
    if state and state.get("made_for", made_for) != made_for:
        raise AttarError(f"{checkpoint} belongs to another training; delete the folder {out} to train anew.")
    clock = Clock(Spent(state["seconds"], state.get("processor_seconds")) if state else None)
    epochs = config.training.epochs
    if state:
        log.say(f"squeeze   continues after epoch {state['fit']['epoch']} of {epochs}")

    with log.progress("squeeze", epochs, state["fit"]["epoch"] if state else 0) as advance:

        def after(epoch: Epoch) -> None:
            advance(note=f"loss {epoch.loss:.3f}")
            _refuse_diverged(network, epoch)
            log.event("epoch", epoch=epoch.number, loss=epoch.loss, **clock.spent().plain())
            if epoch.number % config.checkpoint_epochs == 0 and epoch.number < epochs:
                state = {"fit": epoch.state(), **clock.spent().plain(), "made_for": made_for}
                weights.save_tree(checkpoint, state)

        full_data(space, network, config, "squeeze", after, resume=state["fit"] if state else None, seed=space.seed)
    found = Teacher(
        module=network,
        architecture=config.architecture,
        stem=build.resolve_stem(config.architecture, size, config.stem),
        classes=classes,
        normalisation=space.normalisation,
        image_size=size,
    )
    return found, clock.spent()


def _refuse_diverged(network: nn.Module, epoch: Epoch) -> None:
    """End a training that cannot recover, as soon as it is seen."""
    if not all_finite(network):
        raise AttarError(
            f"The teacher's training diverged in epoch {epoch.number} (its weights are not finite); lower "
            f"--squeeze.training.learning-rate and run the same command again."
        )
