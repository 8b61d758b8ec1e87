"""Baselines: small sets of real images, made and labelled like the distilled set, to compare it with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attar.core.config import Config, digest
from attar.core.errors import AttarError
from attar.ops.choices import PLAIN, Storage
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.stages import label_choice, members, recover, relabel, scores
from attar.stages.distilled import read_info
from attar.stages.evaluate import Evaluate, shared_folder
from attar.stages.label_choice import Relabel
from attar.stages.protocols import Protocol
from attar.stages.rows import DISTILLED, Row, SmallSet, real_sets
from attar.stages.run import Run, is_finished, labels_in
from attar.stages.workspace import Workspace
from attar.synthesis.method import MethodConfig

_AS_DISTILLED = {"ipc", "ipc_start", "image_format", "jpeg_quality", "rounding"}
_UNIT_CLASSES = 10
_TITLES = {"random": "random real images", "herding": "real images by herding", "kcentre": "real images by k-centre"}


def of_run(judging: Evaluate) -> list[str]:
    """The baselines that lie in the run's own folder."""
    return [] if judging.baselines else real_sets(judging.rows)


def check(
    space: Workspace, method: str, config: MethodConfig, labelling: Relabel, own: Sequence[str], storage: Storage
) -> None:
    """Raise AttarError, before anything is labelled, where the labels do not fit on the disk or beside others.

    ``method``, ``config`` and ``storage`` are those of the distilled set. The labels of the run's ``own`` baselines
    count, too, and those that are there must have been made with the same settings.
    """
    if own and not labelling.imported:
        _refuse_other_labels(space.out / "baselines", own, labelling)
    if labelling.mode != "online":
        num_sets, num_classes = 1 + sum(name != method for name in own), len(space.real.classes)
        count = (config.ipc - config.ipc_start) * num_classes
        needed = num_sets * label_choice.planned_bytes(count, num_classes, labelling, storage)
        label_choice.refuse_full_disk(needed, space.out)


def check_labels(labelling: Relabel, judging: Evaluate, size: int, num_classes: int, storage: Storage = PLAIN) -> None:
    """Raise AttarError, before hours are spent, on labels of any row that could not be made or not be trained on."""
    label_choice.check(labelling, judging.protocol, size, num_classes, storage)
    if any(row.labels == "noaug" for row in judging.rows):
        label_choice.check(unaugmented(labelling), judging.protocol, size, num_classes)


def make(space: Workspace, config: MethodConfig, labelling: Relabel, judging: Evaluate) -> dict[Row, SmallSet]:
    """The sets that students of each row train on; makes those of real images, and of labels without augmentation.

    Baselines are made as the manifests of the distilled set say that its images and labels were made. ``config`` says
    how images are stored where the distilled ones were imported. Baselines lie in ``<out>/baselines``, or are shared
    with other runs in ``judging.baselines``. A row for which a class has too few real images is left out, with a
    warning.
    """
    images, labelling = Run(space.out).images, label_choice.of_stored(space.out / "distilled", labelling)
    config = config.changed(**{key: value for key, value in images.settings.items() if key in _AS_DISTILLED})
    if labelling.imported:
        labelling = _as_imported(space.out / "distilled", labelling)
    sets: dict[str, SmallSet] = {DISTILLED.images: SmallSet(space.out / "distilled", space.out / "recover")}
    homes = {DISTILLED.images: space.out / "baselines" / "distilled"}
    for name in real_sets(judging.rows):
        if name == images.method:  # the distilled set is this baseline
            sets[name], homes[name] = sets[DISTILLED.images], homes[DISTILLED.images]
        elif _suffices(space, name, config.ipc):
            homes[name] = _home(space, name, config, labelling, judging)
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


def _refuse_other_labels(folder: Path, names: Sequence[str], labelling: Relabel) -> None:
    """Refuse to label a set anew beside baselines that keep their other labels."""
    places = {name: folder / name / "distilled" for name in names}
    others = {name: labelling.unlike(labels_in(place).settings) for name, place in places.items() if is_finished(place)}
    changed = [line for lines in others.values() for line in lines]
    if changed:
        raise AttarError(
            f"{folder} was labelled with other settings ({'; '.join(dict.fromkeys(changed[:4]))}); "
            f"choose another --out, or delete {' and '.join(others)} in it to make them anew."
        )


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
    judging: Evaluate,
) -> Path:
    """Where a baseline lies: among those of several runs, by all that it depends on."""
    shared = shared_folder(judging)
    if shared is None:
        return space.out / "baselines" / name
    parents = members.parents(space, members.of_labels(space, labelling.committee))
    teacher = parents.get("committee", parents["teacher"])
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
