"""Baselines: small sets of real images, made and labelled like the distilled set, to compare it with."""

from pathlib import Path

import numpy as np

from attar.core.config import Config, digest
from attar.models.teacher import Teacher
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.stages import recover, relabel, scores
from attar.stages.distilled import read_info
from attar.stages.evaluate import Evaluate, shared_folder
from attar.stages.label_choice import Relabel
from attar.stages.protocols import Protocol
from attar.stages.rows import DISTILLED, Row, SmallSet, real_sets
from attar.stages.run import Run
from attar.stages.workspace import Workspace
from attar.synthesis.method import MethodConfig

_AS_DISTILLED = {"ipc", "ipc_start", "image_format", "jpeg_quality", "rounding"}
_UNIT_CLASSES = 10
_TITLES = {"random": "random real images", "herding": "real images by herding", "kcentre": "real images by k-centre"}


def make(
    space: Workspace, method: str, config: MethodConfig, labelling: Relabel, judging: Evaluate
) -> dict[Row, SmallSet]:
    """The sets that students of each row train on; makes those of real images, and of labels without augmentation.

    ``method`` and ``config`` are those of the distilled set. Baselines lie in ``<out>/baselines``, or are shared with
    other runs in ``judging.baselines``. A row for which a class has too few real images is left out, with a warning.
    """
    if labelling.imported:
        labelling = _as_imported(space.out / "distilled", labelling)
    others = relabel.further_teachers(space, labelling) if shared_folder(judging) else ()
    sets: dict[str, SmallSet] = {DISTILLED.images: SmallSet(space.out / "distilled", space.out / "recover")}
    homes = {DISTILLED.images: space.out / "baselines" / "distilled"}
    for name in real_sets(judging.rows):
        if name == method:  # the distilled set is this baseline
            sets[name], homes[name] = sets[DISTILLED.images], homes[DISTILLED.images]
        elif _suffices(space, name, config.ipc):
            homes[name] = _home(space, name, config, labelling, others, judging)
            sets[name] = _real_set(space, name, config, labelling, judging.protocol, homes[name])
    found: dict[Row, SmallSet] = {}
    for row in judging.rows:
        if row.images not in sets:
            continue
        found[row] = sets[row.images]
        if row.labels == "noaug":
            found[row] = SmallSet(homes[row.images] / "noaug", sets[row.images].recovered)
            relabel.run(space, unaugmented(labelling), judging.protocol, found[row].recovered, found[row].folder)
    return found


def unaugmented(labelling: Relabel) -> Relabel:
    """The same labels for the images as they are: whole, unmirrored, unmixed, the same in every epoch."""
    plain = LookChoice(crop="none", flip=False, part_probability=0.0)
    return labelling.changed(mode="stored", epochs=1, pool_epochs=0, views=plain, mix=MixChoice(kind="none"))


def baseline_config(name: str, config: MethodConfig) -> MethodConfig:
    """A baseline's choices: as many images as the distilled set's, stored alike.

    Nothing else follows the method, so that runs of different methods have the same baseline. All slots of a class are
    in one unit, for herding and k-centre look at all its images to choose one.
    """
    return recover.method_named(name).Config(
        **config.model_dump(include=_AS_DISTILLED),
        unit_classes=_UNIT_CLASSES,
        unit_slots=config.ipc,
        accept_weak_teacher=True,
        accept_other_classes=True,
    )


def fewest(space: Workspace) -> tuple[str, int]:
    """The class with the fewest real training images, and their number."""
    counts = np.bincount(space.real.train.labels, minlength=len(space.real.classes))
    return space.real.classes[int(counts.argmin())], int(counts.min())


def _suffices(space: Workspace, name: str, ipc: int) -> bool:
    smallest, count = fewest(space)
    if count < ipc:
        space.log.warn(f"class '{smallest}' has only {count} training images, so {_TITLES[name]} are not compared")
    return count >= ipc


def _as_imported(distilled: Path, labelling: Relabel) -> Relabel:
    """The teacher's labels for real images where those of the distilled ones are published: in the same ways."""
    made = read_info(distilled).labels
    return labelling.changed(
        imported="",
        epochs=made.epochs,
        pool_epochs=min(labelling.pool_epochs, made.epochs),
        views=made.views,
        mix=made.mix,
    )


def _home(
    space: Workspace,
    name: str,
    config: MethodConfig,
    labelling: Relabel,
    others: tuple[Teacher, ...],
    judging: Evaluate,
) -> Path:
    """Where a baseline lies: among those of several runs, by all that it depends on."""
    shared = shared_folder(judging)
    if shared is None:
        return space.out / "baselines" / name
    teacher = Run(space.out).teachers[0].weights_sha256
    if others:
        teacher = relabel.voices_sha256(teacher, others)
    asked = [baseline_config(name, config).identity(), labelling.identity()]
    identity = digest(
        [scores.told(space, Config.identity), space.real.fingerprint, teacher, space.device.precision, *asked]
    )
    return shared / f"{name}-ipc{config.ipc}-{identity[:12]}"


def _real_set(
    space: Workspace, name: str, config: MethodConfig, labelling: Relabel, protocol: Protocol, home: Path
) -> SmallSet:
    found = SmallSet(home / "distilled", home / "recover")
    recover.run(space, name, baseline_config(name, config), found.recovered)
    relabel.run(space, labelling, protocol, found.recovered, found.folder)
    return found
