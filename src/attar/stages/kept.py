"""A finished set gets more classes: a new run keeps the images of an earlier run, and makes those of the other classes.

A teacher has an output for each class, so more classes need another teacher. Images do not: the new run copies those of
the earlier classes bit for bit (``recover.keep_from``), makes images of the other classes with its own teacher, and
labels all of them with it. The earlier run is only read. Units never influence one another, so the images of a class do
not depend on the classes of other units.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.core import ranks
from attar.core.config import digest
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.stages import dataset_files
from attar.stages.folder import identity_of, manifest_of
from attar.stages.run import FOLDERS, images_in, is_finished
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.store import sealed
from attar.synthesis.method import MethodConfig

FOLDER, RECORD, RESULT = "kept", "kept.json", "kept"
"""Folder of the copied images in recover's folder; its record; and the manifest's key that says who made which
classes."""
REAL = "real_images"
"""The manifest's key for the numbers of real images by class."""
_SETTING = "--recover.keep-from"


@dataclass(frozen=True)
class Kept:
    """The images of an earlier run."""

    folder: Path
    """Folder of recover that the images are copied from."""
    classes: tuple[str, ...]
    """Names of the earlier run's classes, by label there."""
    labels: tuple[int, ...]
    """Label of each of them in this run."""
    ipc: int
    num_images: int
    images_sha256: str
    elapsed: Elapsed
    """Time that the earlier run took for them."""
    makers: tuple[dict[str, Any], ...]
    """Which teachers made which classes: one entry per run, the earliest first."""
    run: str
    """Folder of the earlier run, as typed."""
    is_copied: bool
    """Whether this run has a copy already, so that the earlier run may change or go."""

    @property
    def identity(self) -> str:
        """Return a hash of the images and their class names."""
        return digest([self.images_sha256, list(self.classes), self.ipc])

    def plain(self) -> dict[str, Any]:
        """Return the record that is stored with the images."""
        return {
            "classes": list(self.classes),
            "ipc": self.ipc,
            "num_images": self.num_images,
            "images_sha256": self.images_sha256,
            "makers": list(self.makers),
            "run": self.run,
            **self.elapsed.plain(),
        }


def find(classes: tuple[str, ...], config: MethodConfig, out: Path | None = None) -> Kept | None:
    """Return the images that ``config.keep_from`` names, for a run with these classes; None if it names none.

    ``out`` is the run's recover folder: once they are copied into it, the earlier run may change or go. Raises
    AttarError when the earlier run is not finished, or classes or numbers do not fit.
    """
    if not config.keep_from:
        return None
    run, own = Path(config.keep_from).expanduser(), None if out is None else out / FOLDER / RECORD
    folder = run / FOLDERS["recover"]
    if own is not None and own.is_file():
        record = sealed.read_json(own, sealed.FIX_DAMAGED)
        if record["run"] == config.keep_from or not run.exists():
            return _placed(folder / "data", record, classes, config, is_copied=True)
    if not is_finished(folder):
        raise AttarError(f"{_SETTING} {run} is not the folder of a run with finished images; check the path.")
    made, manifest = images_in(folder), manifest_of(folder, "recover")
    before = manifest["result"].get(RESULT, ())
    known = {name for one in before for name in one["classes"]}
    maker = {
        "classes": [name for name in made.classes if name not in known],
        "method": made.method,
        "teachers": {name: sha for name, sha in made.parents.items() if name in ("teacher", "committee")},
        "images_sha256": made.images_sha256,
    }
    record = {
        "classes": list(made.classes),
        "ipc": made.settings.get("ipc", 0),
        "num_images": made.num_images,
        "images_sha256": made.images_sha256,
        "makers": [*before, maker],
        "run": config.keep_from,
        **made.elapsed.plain(),
    }
    return _placed(folder / "data", record, classes, config, is_copied=False)


def _placed(
    folder: Path, record: dict[str, Any], classes: tuple[str, ...], config: MethodConfig, is_copied: bool
) -> Kept:
    """Return the images with their labels in this run."""
    names, run = tuple(record["classes"]), record["run"]
    if absent := [name for name in names if name not in classes]:
        raise AttarError(
            f"{_SETTING} {run}: the class '{absent[0]}' of its images is not among the data's; add it to the data, or "
            f"leave the setting out."
        )
    if len(names) == len(classes):
        raise AttarError(
            f"{_SETTING} {run} holds images of all {len(classes)} classes already; to add images to each class, run "
            f"it again with a larger --recover.ipc."
        )
    if not 0 < record["ipc"] <= config.ipc:
        raise AttarError(
            f"{_SETTING} {run} holds {record['ipc']} images per class, and this run asks for {config.ipc}; use "
            f"--recover.ipc {record['ipc']}, or more."
        )
    labels = tuple(classes.index(name) for name in names)
    more = {key: record[key] for key in ("ipc", "num_images", "images_sha256", "run")}
    elapsed = Elapsed(record["seconds"], record["processor_seconds"])
    return Kept(folder, names, labels, elapsed=elapsed, makers=tuple(record["makers"]), is_copied=is_copied, **more)


def check(space: Workspace, method: str, config: MethodConfig) -> None:
    """Raise AttarError, before anything is made, when the images that are to be kept do not fit this run."""
    found = find(space.real.classes, config, space.out / FOLDERS["recover"])
    if found is None:
        return
    run = Path(config.keep_from).expanduser()
    if config.needs().unit == "set" or config.uses_groups() or config.learns():
        raise AttarError(
            f"{_SETTING} cannot be used with the method {method} as it is set, because it makes each image together "
            f"with those of all other classes; leave it out, and all images are made again."
        )
    if found.ipc < config.ipc and not config.grows():
        raise AttarError(
            f"{_SETTING} {run} holds {found.ipc} images per class, and the method {method} as it is set cannot add any "
            f"to a class; use --recover.ipc {found.ipc}."
        )
    if found.is_copied:
        return  # it was checked before
    manifest = manifest_of(run / FOLDERS["recover"], "recover")
    made, choice = manifest["request"], space.choice.changed(classes=(), num_classes=None)
    same = {"ipc": config.ipc, "keep_from": True}
    lines = [f"method {made.get('method')} -> {method}"] * (made.get("method") != method)
    lines = lines or config.unlike({**made.get("recover", {}), **same}, "recover")
    lines += config.gone(identity_of(manifest).get("recover", {}), "recover")
    lines += choice.unlike({**made.get("data", {}), "classes": [], "num_classes": None}, "data")
    lines += [f"seed {made.get('seed')} -> {space.seed}"] * (made.get("seed") != space.seed)
    if lines:
        raise AttarError(
            f"{_SETTING} {run} was made with other settings ({'; '.join(lines[:4])}); begin with the recipe in "
            f"{run / 'recipe.yaml'}, and change nothing but its classes."
        )
    _warn_of_changes(space, manifest["result"], found)


def real_images(space: Workspace) -> dict[str, list[int]]:
    """Return the numbers of training and validation images by class, for the manifest."""
    count = len(space.real.classes)
    parts = {"train": space.real.train, "val": space.real.val}
    return {name: np.bincount(part.labels, minlength=count).tolist() for name, part in parts.items()}


def _warn_of_changes(space: Workspace, result: dict[str, Any], found: Kept) -> None:
    """Warn when an earlier class has other numbers of real images now: then another part of them may be held out."""
    now, before = real_images(space), result.get(REAL)
    for place, (name, label) in enumerate(zip(found.classes, found.labels, strict=True)):
        if before and any(before[part][place] != now[part][label] for part in now):
            space.log.warn(
                f"'{name}' has {now['train'][label]} training and {now['val'][label]} validation images, and had "
                f"{before['train'][place]} and {before['val'][place]} when its images were made; if the validation "
                f"images are held out of the others, the kept images may have been made from some of them"
            )
            return


def copy(found: Kept, out: Path) -> None:
    """Put the kept images and their record into recover's folder ``out``, unless they are there; checks their pixels.

    Raises AttarError when the earlier run's files are damaged. All processes call it; the first one writes.
    """
    target = out / FOLDER
    if ranks.is_first() and not _is_whole(found, target):
        if not found.folder.is_dir():
            raise AttarError(
                f"{target} is damaged, and the run {found.run} that it was copied from is gone; restore one."
            )
        (target / RECORD).unlink(missing_ok=True)
        for stale in target.glob("train-*.parquet"):
            stale.unlink()
        dataset_files.link_images(found.folder, target)
        if image_files.identity(target)[0] != found.images_sha256:
            raise AttarError(f"{found.folder} holds other images than its manifest lists; {sealed.FIX_DAMAGED}.")
        sealed.write_json(target / RECORD, found.plain())
    ranks.wait()


def _is_whole(found: Kept, target: Path) -> bool:
    try:
        record = sealed.read_json(target / RECORD, sealed.FIX_DAMAGED)
        return record == found.plain() and image_files.identity(target)[0] == found.images_sha256
    except (FileNotFoundError, AttarError):
        return False


def files_of(out: Path) -> list[Path]:
    """Return the files of the kept images in recover's folder."""
    return [out / FOLDER / RECORD, *image_files.files_of(out / FOLDER)]


def refuse_more_classes(space: Workspace) -> None:
    """Raise AttarError, with what to do, when the data have more classes than the run's finished images."""
    folder = space.out / FOLDERS["recover"]
    if not is_finished(folder):
        return
    made, now = images_in(folder).classes, space.real.classes
    more = [name for name in now if name not in made]
    if more and set(made) < set(now):
        names = ", ".join(more[:3]) + (f" and {len(more) - 3} others" if len(more) > 3 else "")
        raise AttarError(
            f"{space.out} holds images of {len(made)} classes, and the data now have {names}, too; to keep the images "
            f"and add classes, use a new folder: attar run {space.out / 'recipe.yaml'} --out NEW {_SETTING} {space.out}"
            f"{' --data.classes ...' if space.choice.classes else ''}."
        )
