"""Squeeze: a teacher that knows the real data, trained here or brought along."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import plugin, ranks
from attar.core.errors import AttarError
from attar.core.spent import Clock, Spent
from attar.models import build, factory
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops.targets import Targets, hard_loss
from attar.stages import brought, examine
from attar.stages.brought import Brought
from attar.stages.choices import Squeeze
from attar.stages.folder import FEED, MANIFEST, SOURCE, StageFolder
from attar.stages.run import teacher_in
from attar.stages.workspace import Workspace
from attar.store import atomic, weights
from attar.training.loop import FinishedEpoch, all_finite, fit

CHECKPOINT = "checkpoint.safetensors"


def run(space: Workspace, config: Squeeze) -> Teacher:
    """Make ``<out>/squeeze``, a teacher with its accuracy on real validation images, or return the one there is.

    A ``space.module``, the caller's own trained network, is taken as it is. Raises AttarError when the folder holds
    another teacher, the named weights don't fit, or a teacher from elsewhere cannot be relied on.
    """
    out = space.out / "squeeze"
    if space.module is None and config.architecture.startswith(factory.PYTHON):
        raise factory.not_given(config.architecture)
    folder = StageFolder(out, "squeeze", *_identity(space, config, out), again=False)
    if folder.finished() is None:
        given = _brought(space, config)  # before anything is written: what is named may not be there
        rated = _rate(space, given) if given and ranks.is_first() else None
        folder.begin()
        if ranks.is_first():
            _make(space, config, folder, given, rated)
        ranks.wait()
    return own_teacher(space)


def own_teacher(space: Workspace) -> Teacher:
    """The run's teacher, whose weights are those that squeeze's manifest names.

    Raises AttarError when squeeze is not finished, its files are damaged, or name a network that the user did not type.
    """
    folder = space.out / "squeeze"
    known = teacher_in(folder).weights_sha256
    return teachers.load(folder, space.module, factories=space.factories, weights_sha256=known)


def as_given(config: Squeeze, module: nn.Module) -> Squeeze:
    """The choices with the name of a caller's own network in them, as a recipe's file says it."""
    return config.changed(architecture=teachers.name_of_module(module), weights="")


def check(space: Workspace, config: Squeeze) -> nn.Module | None:
    """The network that would be trained, untrained; None when a teacher is brought along, or was given from Python.

    Raises AttarError when there is no such network, or it cannot take images of this size.
    """
    if space.module is not None and not isinstance(space.module, nn.Module):
        raise AttarError(f"teacher= takes a torch.nn.Module, not a {type(space.module).__name__}; wrap it in one.")
    if config.weights or space.module is not None:
        return space.module
    if config.architecture.startswith(factory.PYTHON) and (space.out / "squeeze" / MANIFEST).is_file():
        return None
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
        forward=space.training_forward(network, config.training.epochs * space.train.num_images),
        **more,
    )


def _identity(space: Workspace, config: Squeeze, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The request and the parents that identify a teacher.

    Weights from a file or from Python are known by their content, wherever they lie. Folders from before that was
    written down are known by the name of the file. How training images are read matters where a teacher is trained.
    """
    module = space.module
    known = teacher_in(out) if (out / MANIFEST).is_file() else None
    choices, parents = config, {"data": space.real.fingerprint}
    given = brought.content(module, config.weights)
    if given is None and config.weights and known and known.weights_from == config.weights:
        given = known.parents.get("teacher")
        space.log.warn(f"there is no {config.weights} any more; the teacher that was made from it stands")
    if given is not None and (known is None or "teacher" in known.parents):
        parents["teacher"] = given
        choices = Squeeze(architecture=config.architecture, stem=config.stem, weights="file")
        choices = choices if module is None else Squeeze(weights="python")
    if module is None and build.is_outside(config.architecture):
        plugin.reach_working_folder()
        parents[SOURCE] = plugin.source_sha256(config.architecture)
    request = space.request(squeeze=choices, precision=space.device.precision)
    if module is None and not config.weights:
        request[FEED] = space.feed
    if module is not None:
        request["module"] = teachers.name_of_module(module).removeprefix(factory.PYTHON)
    return request, parents


def _brought(space: Workspace, config: Squeeze) -> Brought | None:
    if space.module is not None:
        return brought.of_module(space, space.module)
    return brought.bring(space, config.architecture, config.weights, config.stem) if config.weights else None


def _rate(space: Workspace, found: Brought) -> tuple[float, float] | None:
    """Its accuracy on real validation images; None where it has other classes than the data."""
    found.teacher.module.to(space.device.device)
    if len(found.teacher.classes) != len(space.real.classes):
        return None
    return examine.rate(space, found.teacher, found.order_told, found.normalisation_told)


def _make(
    space: Workspace,
    config: Squeeze,
    folder: StageFolder,
    given: Brought | None,
    rated: tuple[float, float] | None,
) -> None:
    log = space.log.beside(folder.path)
    if given is not None:
        found, spent = given.teacher, Spent(0.0, 0.0)
    else:
        found, spent = _train(space, config, folder.path, folder.identity, log)
        rated = _rate(space, Brought(found, order_told=True, normalisation_told=True))
    if rated is not None:
        log.event("accuracy", top1=rated[0], top5=rated[1], num_images=space.val.num_images)
        log.say(f"squeeze   {found.architecture}: {rated[0]:.1%} of {space.val.num_images} real validation images")
    top1, top5 = rated or (None, None)
    replace(found, accuracy=top1).save(folder.path)
    result = {"weights_sha256": atomic.sha256_of(folder.path / teachers.WEIGHTS), "top1": top1, "top5": top5}
    result |= {"weights_from": config.weights} if "teacher" in folder.parents and space.module is None else {}
    files = (folder.path / teachers.WEIGHTS, folder.path / teachers.RECORD)
    folder.finish(result, spent, space.device.describe(), files)
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


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

    with log.progress("squeeze", epochs, state["fit"]["epoch"] if state else 0, "epochs") as advance:

        def after(epoch: FinishedEpoch) -> None:
            advance(0, note=f"loss {epoch.loss:.3f}")
            _refuse_diverged(network, epoch)
            log.event("epoch", epoch=epoch.number, loss=epoch.loss, **clock.spent().plain())
            if epoch.number % config.checkpoint_epochs == 0 and epoch.number < epochs:
                state = {"fit": epoch.state(), **clock.spent().plain(), "made_for": made_for}
                weights.save_tree(checkpoint, state)

        def after_batch(num_images: int) -> None:
            advance(num_images / space.train.num_images)

        resume = state["fit"] if state else None
        full_data(space, network, config, "squeeze", after, resume=resume, seed=space.seed, after_batch=after_batch)
    found = Teacher(
        module=network,
        architecture=build.plain_name(config.architecture),
        stem=build.resolve_stem(config.architecture, size, config.stem),
        classes=classes,
        normalisation=space.normalisation,
        image_size=size,
    )
    return found, clock.spent()


def _refuse_diverged(network: nn.Module, epoch: FinishedEpoch) -> None:
    """End a training that cannot recover, as soon as it is seen."""
    if not all_finite(network):
        raise AttarError(
            f"The teacher's training diverged in epoch {epoch.number} (its weights are not finite); lower "
            f"--squeeze.training.learning-rate and run the same command again."
        )
