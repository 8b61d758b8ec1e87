"""Squeeze: train teachers on the real data, or import them; each has its own folder."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import plugin, ranks, work
from attar.core.config import digest
from attar.core.elapsed import Clock, Elapsed
from attar.core.errors import AttarError
from attar.core.log import Advance
from attar.core.randomness import seed_of
from attar.data import hierarchy
from attar.models import build, factory, record
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops import semantic
from attar.ops.targets import Targets, hard_loss
from attar.stages import examine, imported, members, together
from attar.stages.choices import Member, Squeeze
from attar.stages.folder import FEED, MANIFEST, SOURCE, StageFolder
from attar.stages.imported import Imported
from attar.stages.run import teacher_in
from attar.stages.workspace import Workspace
from attar.store import atomic, weights
from attar.store.checkpoint import Pace
from attar.training import memory
from attar.training.loop import FinishedEpoch, Loss, all_finite, fit
from attar.training.parallel import Together

CHECKPOINT = "checkpoint.safetensors"
TREE = "tree"
"""The parent that identifies the hierarchy of the classes."""


@dataclass(frozen=True)
class _Place:
    """A teacher to make: its number, settings and folder."""

    index: int
    config: Squeeze
    """Settings of this teacher only."""
    folder: StageFolder
    module: nn.Module | None
    """The caller's trained module, to use instead of training; None: train or import."""


def run(space: Workspace, config: Squeeze) -> None:
    """Make ``<out>/squeeze``: all teachers, each with its accuracy on real validation images; keeps finished ones.

    Uses ``space.modules``, the caller's trained networks, without training. Processes divide the trainings among
    themselves. Raises AttarError when a folder holds another teacher, weights do not fit the network, or an imported
    teacher fails its check.
    """
    places = [_place(space, own, index) for index, own in enumerate(_settings(space, config))]
    todo = [place for place in places if place.folder.finished() is None]
    found = {place.index: _imported(space, place) for place in todo}  # before anything is written
    rated = {index: _rate(space, one) for index, one in found.items() if one} if ranks.is_first() else {}
    for place in todo:
        place.folder.begin()
    if ranks.is_first():
        for place in todo:
            if (one := found[place.index]) is not None:
                _finish(space, place, one.teacher, Elapsed(0.0, 0.0), rated[place.index])
    trained = [place for place in todo if found[place.index] is None]
    shared = together.shares(space, (_training(space, place) for place in trained), len(trained))
    if shared and trained:
        space.log.say(f"squeeze   {work.launcher().team_size()} processes train each teacher together")
    jobs = [  # finished ones, too: a job whose process was lost after its last step is asked for again
        work.Job(
            name=place.folder.path.name,
            run=functools.partial(_make, space, place, shared),
            done=(place.folder.path / MANIFEST).is_file,
            steps=place.config.training.epochs,
        )
        for place in places
        if place.module is None and not place.config.weights
    ]
    work.do(jobs, space.log, "squeeze", unit="epochs", results="teachers", together=shared)
    for place in todo:
        _say_accuracy(space, place)


def of_modules(config: Squeeze, modules: Sequence[nn.Module]) -> Squeeze:
    """Return the settings with the names of the caller's own networks, for the recipe file."""
    names = [teachers.name_of_module(module) for module in modules]
    several = tuple(Member(architecture=name) for name in names) if len(names) > 1 else ()
    return config.changed(architecture=names[0], weights="", members=several)


def check(space: Workspace, config: Squeeze) -> list[nn.Module | None]:
    """Return every teacher's untrained network; None for a teacher that is imported or was passed from Python.

    Raises AttarError when a network does not exist or cannot take images of this size.
    """
    for module in space.modules:
        if not isinstance(module, nn.Module):
            raise AttarError(f"teacher= takes a torch.nn.Module, not a {type(module).__name__}; wrap it in a module.")
    ancestors(space, config)
    return list(space.modules) or [_check(space, own, index) for index, own in enumerate(config.each)]


def _check(space: Workspace, config: Squeeze, index: int) -> nn.Module | None:
    if config.weights:
        return None
    folder = members.folder_of(space.out / "squeeze", index, space.num_teachers)
    if config.architecture.startswith(factory.PYTHON) and (folder / MANIFEST).is_file():
        return None
    num_classes, size = len(space.real.classes), space.choice.size
    seed = _seed(space, index)
    network = build.build(config.architecture, num_classes, size, stem=config.stem, seed=seed)
    build.check_forward(network, size, num_classes, name=config.architecture)
    return network


def full_data(
    space: Workspace,
    network: nn.Module,
    config: Squeeze,
    stream: str,
    progress: Any,
    joined: Together | None = None,
    **more: Any,
) -> None:
    """Train ``network`` on all real images with the settings in ``config``; also used by evaluate's row ``full``.

    ``joined`` holds the network when all processes train it. ``more`` is passed to ``fit``: the seed of the network's
    random draws, and the state to resume from.
    """
    device, part = space.device, joined.part if joined else ranks.WHOLE

    def batches(epoch: int, first: int = 0) -> Any:
        draws = space.stream(stream, "epoch", epoch)
        how = (config.training.batch_size, config.views, draws, device.device, part, first, config.augmentation)
        feed = space.train.epoch(*how)
        return ((images, Targets(labels)) for images, labels in feed)

    with memory.explained(config.training, "squeeze.training"):
        fit(
            network,
            space.normalisation,
            batches,
            _loss(space, config),
            config.training,
            space.train.num_images,
            device.autocast,
            progress,
            forward=space.training_forward(network, config.training.epochs * space.train.num_images, joined),
            together=joined,
            **more,
        )


def ancestors(space: Workspace, config: Squeeze) -> tuple[tuple[int, ...], ...] | None:
    """Return the ancestors of each class if teachers are trained with the semantic softmax; raises AttarError."""
    tree = config.semantic_tree
    return hierarchy.read(Path(tree).expanduser(), space.real.classes) if tree else None


def _loss(space: Workspace, config: Squeeze) -> Loss:
    found = ancestors(space, config)
    if found is None:
        return lambda logits, targets: hard_loss(logits, targets, config.label_smoothing)
    levels = semantic.levels(found).to(space.device.device)
    return lambda logits, targets: semantic.semantic_loss(logits, targets.labels, levels, config.label_smoothing)


def _settings(space: Workspace, config: Squeeze) -> tuple[Squeeze, ...]:
    """Return the settings of each teacher; the caller's own networks, if any, replace all of them."""
    return (config.changed(members=()),) * len(space.modules) if space.modules else config.each


def _seed(space: Workspace, index: int) -> int:
    """Return the seed of a teacher's initial weights and random draws, which differs for each teacher."""
    return space.seed if index == 0 else seed_of(space.seed, "squeeze", index)


def _place(space: Workspace, config: Squeeze, index: int) -> _Place:
    module = space.modules[index] if space.modules else None
    if module is None and config.architecture.startswith(factory.PYTHON):
        raise factory.not_passed(config.architecture)
    out = members.folder_of(space.out / "squeeze", index, space.num_teachers)
    request, parents = _identity(space, config, out, index, module)
    return _Place(index, config, StageFolder(out, "squeeze", request, parents, again=False), module)


def _identity(
    space: Workspace, config: Squeeze, out: Path, index: int, module: nn.Module | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the request and the parents that identify a teacher.

    Weights from a file or from Python are identified by their content, not their path. Older folders, which did not
    record it, are identified by the file's name. How training images are read counts only if the teacher is trained.
    """
    known = teacher_in(out) if (out / MANIFEST).is_file() else None
    choices, parents = config, {"data": space.real.fingerprint}
    content = imported.content(module, config.weights)
    if content is None and config.weights and known and known.weights_from == config.weights:
        content = known.parents.get("teacher")
        space.log.warn(f"{config.weights} no longer exists; the teacher that was imported from it is used")
    if content is not None and (known is None or "teacher" in known.parents):
        parents["teacher"] = content
        choices = Squeeze(architecture=config.architecture, stem=config.stem, weights="file")
        choices = choices if module is None else Squeeze(weights="python")
    if module is None and build.is_outside(config.architecture):
        plugin.reach_working_folder()
        parents[SOURCE] = plugin.source_sha256(config.architecture)
    request = space.request(squeeze=choices, precision=space.device.precision)
    if module is None and not config.weights:
        request[FEED] = space.feed
        if (tree := ancestors(space, config)) is not None:
            parents[TREE] = digest(tree)
    if module is not None:
        request["module"] = teachers.name_of_module(module).removeprefix(factory.PYTHON)
    elif index and not config.weights:
        request["member"] = index  # which alters what it draws
    return request, parents


def _imported(space: Workspace, place: _Place) -> Imported | None:
    """Return the imported teacher; None when the teacher is trained."""
    if place.module is not None:
        return imported.of_module(space, place.module)
    config = place.config
    return imported.of_weights(space, config.architecture, config.weights, config.stem) if config.weights else None


def _rate(space: Workspace, found: Imported) -> tuple[float, float] | None:
    """Return the teacher's accuracy on real validation images; None when its classes are not the data's."""
    found.teacher.module.to(space.device.device)
    if len(found.teacher.classes) != len(space.real.classes):
        return None
    return examine.rate(space, found.teacher, found.order_known, found.normalisation_known)


def _finish(
    space: Workspace,
    place: _Place,
    found: Teacher,
    elapsed: Elapsed,
    rated: tuple[float, float] | None,
    processes: int = 1,
) -> None:
    """Save a teacher, which ``processes`` have trained together."""
    folder = place.folder
    if rated is not None:
        log = space.log.beside(folder.path)
        log.event("accuracy", top1=rated[0], top5=rated[1], num_images=space.val.num_images)
    top1, top5 = rated or (None, None)
    replace(found, accuracy=top1).save(folder.path)
    result = {"weights_sha256": atomic.sha256_of(folder.path / teachers.WEIGHTS), "top1": top1, "top5": top5}
    result |= {"weights_from": place.config.weights} if "teacher" in folder.parents and place.module is None else {}
    result |= {"processes": processes} if processes > 1 else {}
    files = (folder.path / teachers.WEIGHTS, folder.path / teachers.RECORD)
    folder.finish(result, elapsed, space.device.describe(), files)
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


def _say_accuracy(space: Workspace, place: _Place) -> None:
    folder = place.folder.path
    top1 = teacher_in(folder).top1
    if top1 is not None:
        architecture = record.parse((folder / teachers.RECORD).read_bytes(), folder / teachers.RECORD).architecture
        name = f"teacher {place.index}, {architecture}" if space.num_teachers > 1 else architecture
        space.log.say(f"squeeze   {name}: {top1:.1%} of {space.val.num_images} real validation images")


def _make(space: Workspace, place: _Place, shared: bool, advance: Advance) -> None:
    """Train a teacher; if the work is ``shared``, all processes train it, and the first measures and saves it."""
    trained, elapsed = _train(space, place, shared, advance)
    if ranks.is_first() or not shared:
        accuracy = _rate(space, Imported(trained, order_known=True, normalisation_known=True))
        _finish(space, place, trained, elapsed, accuracy, ranks.world_size() if shared else 1)


def _network(space: Workspace, place: _Place) -> nn.Module:
    """Return a teacher's untrained network, on the device."""
    network = _check(space, place.config, place.index)
    assert network is not None  # no weights are imported
    return network.to(space.device.device)


def _training(space: Workspace, place: _Place) -> together.Training:
    return _network(space, place), place.config.training.epochs * len(space.real.train)


def _train(space: Workspace, place: _Place, shared: bool, advance: Advance) -> tuple[Teacher, Elapsed]:
    config, out, identity = place.config, place.folder.path, place.folder.identity
    classes, size = space.real.classes, space.choice.size
    network = _network(space, place)
    joined = together.join(space, network) if shared else None
    log, checkpoint = space.log.beside(out), out / CHECKPOINT
    state = weights.load_tree(checkpoint) if checkpoint.exists() else None
    if state and state.get("made_for", identity) != identity:
        raise AttarError(f"{checkpoint} belongs to another training; delete the folder {out} to train again.")
    earlier = Elapsed(state["seconds"], state.get("processor_seconds")) if state else None
    clock = Clock(earlier, joined.part.size if joined else 1)
    epochs = config.training.epochs
    name = f"teacher {place.index} " if space.num_teachers > 1 else ""
    per_epoch = -(-space.train.num_images // config.training.batch_size)
    if state:
        done, step = state["fit"]["epoch"], state["fit"].get("step", 0)
        after_which = (
            f"step {step} of {per_epoch} in epoch {done + 1} of {epochs}" if step else f"epoch {done} of {epochs}"
        )
        log.say(f"squeeze   {name}continues after {after_which}")
        advance(done + step / per_epoch, earlier=True)
    pace = Pace(60 * config.checkpoint_minutes)

    def save(fit_state: dict[str, Any]) -> None:
        with pace.saving():
            weights.save_tree(checkpoint, {"fit": fit_state, **clock.elapsed().plain(), "made_for": identity})

    def inside(fit_state: Callable[[], dict[str, Any]]) -> None:
        if pace.is_due() and (ranks.is_first() or not joined):
            save(fit_state())

    def after(epoch: FinishedEpoch) -> None:
        advance(0, note=f"{name}loss {epoch.loss:.3f}")
        _refuse_diverged(network, epoch)
        if joined and not ranks.is_first():
            return
        log.event("epoch", epoch=epoch.number, loss=epoch.loss, **clock.elapsed().plain())
        if epoch.number % config.checkpoint_epochs == 0 and epoch.number < epochs:
            save(epoch.state())

    def after_batch(num_images: int) -> None:
        advance(num_images / space.train.num_images)

    resume = state["fit"] if state else None
    stream = f"squeeze-{place.index}" if place.index else "squeeze"
    seed = _seed(space, place.index)
    more = {"resume": resume, "seed": seed, "after_batch": after_batch, "offer": inside}
    full_data(space, network, config, stream, after, joined, **more)
    found = Teacher(
        module=together.plain(network, _network(space, place)) if joined else network,
        architecture=build.plain_name(config.architecture),
        stem=build.resolve_stem(config.architecture, size, config.stem),
        classes=classes,
        normalisation=space.normalisation,
        image_size=size,
    )
    return found, clock.elapsed()


def _refuse_diverged(network: nn.Module, epoch: FinishedEpoch) -> None:
    """Raise AttarError as soon as weights are not finite, because such a training cannot recover."""
    if not all_finite(network):
        raise AttarError(
            f"The teacher's training diverged in epoch {epoch.number} (its weights are not finite); lower "
            f"--squeeze.training.learning-rate and run the same command again."
        )
