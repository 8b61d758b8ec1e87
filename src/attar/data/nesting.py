"""Folders that hold classes one level deeper than expected: domains, splits inside classes, pictures beside papers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attar.core.errors import AttarError
from attar.data import splits
from attar.data.scan import class_folders, listed, pictures, scan

_MOST_BESIDE = 50
"""Folders among which the only one with pictures is looked for; classes are often more."""
_ALIKE = 0.8
"""Share of the inner folders that all domains have in common, at least; a domain may lack some classes."""


@dataclass(frozen=True)
class SplitClasses:
    """Class folders that each hold a training and a validation folder."""

    train: dict[str, Path]
    val: dict[str, Path]


def only_one_with_classes(folders: Mapping[str, Path]) -> Path | None:
    """The only folder that holds class folders with pictures, where all others hold files and no picture.

    As where a dataset's pictures lie beside folders of annotations.
    """
    if not 2 <= len(folders) <= _MOST_BESIDE:
        return None
    found: list[Path] = []
    for folder in folders.values():
        inner = class_folders(folder)
        if len([one for one in inner.values() if pictures(one)]) >= 2 and not pictures(folder):
            found.append(folder)
        elif len(found) > 1 or not listed(folder) or scan(folder).count:
            return None
    return found[0] if len(found) == 1 else None


def split_classes(folders: Mapping[str, Path]) -> SplitClasses | None:
    """Training and validation folders inside each class, as in CLASS/train/*.jpg; None where a class has none."""
    train: dict[str, Path] = {}
    val: dict[str, Path] = {}
    for name, folder in folders.items():
        inner = class_folders(folder)
        trains, vals = splits.training(inner), splits.validation(inner)
        if not trains or not vals or class_folders(inner[trains[0]]):
            return None
        train[name], val[name] = inner[trains[0]], inner[vals[0]]
    return SplitClasses(train, val) if train else None


def refuse_domains(path: Path, folders: Mapping[str, Path]) -> None:
    """Raise AttarError where the folders are domains, not classes: they hold the same class folders, or splits.

    Folders that are alike inside and more than what they hold are taken for classes, such as CLASS/day and CLASS/night.
    """
    inner: list[set[str]] = []
    for folder in folders.values():
        names = set(class_folders(folder))
        if not names:
            return
        inner.append(names)
    if len(inner) < 2:
        return
    first, common = next(iter(folders)), set.intersection(*inner)
    with_splits = splits.training(common) and any(
        class_folders(folders[first] / name) for name in splits.training(common)
    )
    alike = len(common) > len(folders) and len(common) >= _ALIKE * max(map(len, inner))
    if with_splits or alike:
        held = "splits" if with_splits else f"{len(common)} class folders ({', '.join(sorted(common)[:2])}, ...)"
        shown = ", ".join(list(folders)[:4]) + (", ..." if len(folders) > 4 else "")
        raise AttarError(
            f"{path} holds {len(folders)} folders ({shown}) with the same {held}, so they are domains and not classes; "
            f"name one of them: {path / first}, or merge them into one folder per class; if they are the classes, list "
            f"them with --data.classes."
        )
