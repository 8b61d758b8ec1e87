"""Make the baselines: small sets of real images, labelled like the distilled set, to compare it with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.config import Config, digest
from attar.core.errors import AttarError
from attar.ops.choices import PLAIN, Storage
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.stages import equal_bytes, label_choice, members, recover, relabel, scores
from attar.stages.dataset_info import read_info
from attar.stages.evaluate import Evaluate, shared_folder
from attar.stages.label_choice import Relabel
from attar.stages.protocol import Protocol
from attar.stages.rows import DISTILLED, EQUAL_BYTES, Row, SmallSet, real_sets
from attar.stages.run import Run, images_in, is_finished, labels_in
from attar.stages.workspace import Workspace
from attar.synthesis.method import MethodConfig

_AS_DISTILLED = {"ipc", "ipc_start", "image_format", "jpeg_quality", "webp_quality", "rounding"}
_UNIT_CLASSES = 10
_TITLES = {"random": "random real images", "herding": "real images by herding", "kcentre": "real images by k-centre"}


def of_run(judging: Evaluate) -> list[str]:
    """Return the names of the baselines that are stored in the run's own folder."""
    return [] if judging.baselines else real_sets(judging.rows)


def check(
    space: Workspace, method: str, config: MethodConfig, labelling: Relabel, own: Sequence[str], storage: Storage
) -> None:
    """Check, before labelling, that all labels fit on the disk and that existing baselines used the same settings.

    ``method``, ``config`` and ``storage`` describe the distilled set. The size includes the labels of the run's ``own``
    baselines. Raises AttarError when a check fails.
    """
    if own and not labelling.imported:
        _refuse_other_labels(space.out / "baselines", own, labelling)
    if labelling.mode == "stored":
        num_sets, num_classes = 1 + sum(name != method for name in own), len(space.real.classes)
        count = (config.ipc - config.ipc_start) * num_classes
        needed = num_sets * label_choice.planned_bytes(count, num_classes, labelling, space.choice.size, storage)
        label_choice.refuse_full_disk(needed, space.out)


def check_labels(labelling: Relabel, judging: Evaluate, size: int, num_classes: int, storage: Storage = PLAIN) -> None:
    """Check the label settings of every row before the run starts; raises AttarError where they cannot work."""
    taught = [row for row in judging.rows if row.labels != "hard"]
    if taught and labelling.mode == "none" and judging.protocol.loss != "hard":
        raise AttarError(
            f"The row {taught[0]} trains with soft labels, and --relabel.mode none makes none; use --relabel.mode "
            f"stored or online, or ask for rows with hard labels (--evaluate.rows distilled-hard random-hard)."
        )
    label_choice.check(labelling, judging.protocol, size, num_classes, storage)
    if any(row.labels == "noaug" for row in judging.rows):
        label_choice.check(unaugmented(labelling, storage), judging.protocol, size, num_classes, storage)


def make(space: Workspace, config: MethodConfig, labelling: Relabel, judging: Evaluate) -> dict[Row, SmallSet]:
    """Make the baselines and the labels without augmentation; returns the set that each row's students train on.

    Baselines use the settings that the manifests of the distilled images and labels record. When the distilled images
    were imported, ``config`` sets how baseline images are stored. Baselines are in ``<out>/baselines``, or in
    ``judging.baselines``, which several runs share. A row that cannot be made, for example because a class has too
    few real images, is left out with a warning.
    """
    images, labelling = Run(space.out).images, label_choice.of_stored(space.out / "distilled", labelling)
    config = config.changed(**{key: value for key, value in images.settings.items() if key in _AS_DISTILLED})
    if labelling.imported:
        labelling = _as_imported(space.out / "distilled", labelling)
    of_real = real_labelling(labelling)
    sets: dict[str, SmallSet] = {DISTILLED.images: SmallSet(space.out / "distilled", space.out / "recover")}
    homes = {DISTILLED.images: space.out / "baselines" / "distilled"}
    for name in real_sets(judging.rows):
        if name == images.method:  # the distilled set is this baseline
            sets[name], homes[name] = sets[DISTILLED.images], homes[DISTILLED.images]
        elif _suffices(space, name, config.ipc):
            homes[name] = _home(space, name, config, of_real, judging)
            sets[name] = _real_set(space, name, config, of_real, judging.protocol, homes[name])
    if EQUAL_BYTES in judging.rows and (small := _equal_bytes(space, config, labelling, judging)):
        sets[EQUAL_BYTES.images] = small
    found: dict[Row, SmallSet] = {}
    for row in judging.rows:
        if row.images not in sets:
            continue
        found[row] = sets[row.images]
        if row.labels == "noaug":
            found[row] = SmallSet(homes[row.images] / "noaug", sets[row.images].recovered)
            storage = images_in(found[row].recovered).storage
            plain = unaugmented(labelling if row.images == DISTILLED.images else of_real, storage)
            relabel.run(space, plain, judging.protocol, found[row].recovered, found[row].folder)
    return found


def real_labelling(labelling: Relabel) -> Relabel:
    """Return the label settings of real images: where the method makes the labels of its own, the teachers label real
    ones online."""
    return labelling.changed(mode="online") if labelling.mode == "given" else labelling


def unaugmented(labelling: Relabel, storage: Storage = PLAIN) -> Relabel:
    """Return label settings without augmentation: no crop, no flip, no mixing, one epoch used in all epochs.

    Stored images that hold several show them in turn, each enlarged and whole, in as many epochs.
    """
    plain = LookChoice(crop="none", flip=False, part_probability=0.0)
    if storage.factor > 1:
        plain = LookChoice(crop="none", flip=False, part_order="in-turn")
    mode, epochs = labelling.mode if labelling.mode in ("given", "none") else "stored", storage.num_parts
    return labelling.changed(mode=mode, epochs=epochs, pool_epochs=0, views=plain, mix=MixChoice(kind="none"))


def baseline_config(name: str, config: MethodConfig) -> MethodConfig:
    """Return the settings of a baseline: IPC and image format of the distilled set, defaults for everything else.

    So runs of different methods share one baseline. All slots of a class are in one unit, because herding and k-centre
    look at all images of the class to choose one.
    """
    return recover.method_named(name).Config(
        **config.model_dump(include=_AS_DISTILLED),
        unit_classes=_UNIT_CLASSES,
        unit_slots=config.ipc,
        accept_weak_teacher=True,
        accept_other_classes=True,
    )


def fewest(space: Workspace) -> tuple[str, int]:
    """Return the class with the fewest real training images that can be used, and how many it has."""
    counts = np.bincount(space.train_labels, minlength=len(space.real.classes))
    return space.real.classes[int(counts.argmin())], int(counts.min())


def _refuse_other_labels(folder: Path, names: Sequence[str], labelling: Relabel) -> None:
    """Raise AttarError when existing baselines were labelled with other settings."""
    places = {name: folder / name / "distilled" for name in names}
    labelling = real_labelling(labelling)
    made = {name: labels_in(place).settings for name, place in places.items() if is_finished(place)}
    others = {
        name: labelling.unlike(one) for name, one in made.items() if not label_choice.lacks_epochs(one, labelling)
    }
    changed = [line for lines in others.values() for line in lines]
    if changed:
        raise AttarError(
            f"{folder} was labelled with other settings ({'; '.join(dict.fromkeys(changed[:4]))}); "
            f"choose another --out, or delete {' and '.join(others)} in it to make them again."
        )


def _suffices(space: Workspace, name: str, ipc: int) -> bool:
    smallest, count = fewest(space)
    if count < ipc:
        space.log.warn(f"class '{smallest}' has only {count} training images, so {_TITLES[name]} are not compared")
    return count >= ipc


def _as_imported(distilled: Path, labelling: Relabel) -> Relabel:
    """Return baseline label settings for imported distilled labels: same views and mixing, but the teacher labels."""
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
    """Return the baseline's folder; in a shared folder its name contains a hash of everything it depends on."""
    shared = shared_folder(judging)
    if shared is None:
        return space.out / "baselines" / name
    own = baseline_config(name, config)
    known_by = _known_by(space, own.identity(), labelling, chosen_by_teacher=own.needs().teachers != "none")
    return shared / f"{name}-ipc{config.ipc}-{known_by}"


def _known_by(space: Workspace, asked: dict[str, Any], labelling: Relabel, *, chosen_by_teacher: bool = False) -> str:
    """Return a hash of everything that a baseline depends on; ``asked`` are the settings of its images."""
    teaches = chosen_by_teacher or labelling.mode != "none"
    parents = members.parents(space, members.of_labels(space, labelling.committee)) if teaches else {}
    teacher = parents.get("committee") or parents.get("teacher", "")
    of_data = [scores.data_of(space, Config.identity), space.real.fingerprint, teacher, space.device.precision]
    return digest([*of_data, asked, labelling.identity()])[:12]


def _equal_bytes(space: Workspace, config: MethodConfig, labelling: Relabel, judging: Evaluate) -> SmallSet | None:
    """Make the real images of as many bytes as the distilled set; returns None when they cannot be made.

    Their folder's name contains a hash in a run of its own, too, because a set of other bytes is another set. Their
    views are those of the other rows, and no soft label is stored.
    """
    labelling = labelling.changed(mode="none" if labelling.mode == "none" else "online", pool_epochs=0)
    num_bytes = equal_bytes.budget(read_info(space.out / "distilled"), judging)
    identity = _known_by(space, equal_bytes.settings(config, num_bytes), labelling)
    home = (shared_folder(judging) or space.out / "baselines") / f"{EQUAL_BYTES}-{identity}"
    found = SmallSet(home / "distilled", home / "recover")
    if not equal_bytes.run(space, config, num_bytes, found.recovered):
        return None
    relabel.run(space, labelling, judging.protocol, found.recovered, found.folder)
    return found


def _real_set(
    space: Workspace, name: str, config: MethodConfig, labelling: Relabel, protocol: Protocol, home: Path
) -> SmallSet:
    found = SmallSet(home / "distilled", home / "recover")
    recover.run(space, name, baseline_config(name, config), found.recovered)
    relabel.run(space, labelling, protocol, found.recovered, found.folder)
    return found
