"""Import teachers from a squeeze folder, published weights, a checkpoint file, or the caller's module."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from attar.core.errors import AttarError
from attar.models import build, class_names, pretrained
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.stages import examine
from attar.stages.folder import MANIFEST
from attar.stages.run import teacher_in
from attar.stages.workspace import Workspace
from attar.store import atomic, weights

_TWO_PART = re.compile(r"(hf[-_]hub:[^:]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*(?=:.))(?::(.+))?$")
"""Matches architectures whose name contains a colon, and the weights after it."""


@dataclass(frozen=True)
class Imported:
    """An imported teacher, and which of its properties are known."""

    teacher: Teacher
    order_known: bool
    """Whether the teacher names its outputs; if not, the order of the data's classes is assumed."""
    normalisation_known: bool
    """Whether the teacher's input normalisation is known; if not, the data's is used."""


def of_weights(space: Workspace, architecture: str, named: str, stem: build.Stem) -> Imported:
    """Load a teacher from a squeeze folder, a library's weights or a checkpoint file.

    Reorders its outputs to the data's classes if it knows all of them; otherwise recover refuses the teacher.
    """
    if folder := squeeze_folder(named):
        found = teachers.load(folder, factories=space.factories, weights_sha256=_recorded_sha256(folder))
        return _in_order(space, Imported(found, order_known=True, normalisation_known=True))
    size = space.choice.size
    loaded = pretrained.pretrained(architecture, named, len(space.real.classes), size, stem)
    classes = _meant(space, loaded.classes)
    normalisation = loaded.normalisation or space.normalisation
    found = Teacher(
        module=loaded.module,
        architecture=loaded.architecture,
        stem=loaded.stem,
        classes=classes or space.real.classes,
        normalisation=normalisation,
        image_size=loaded.image_size or size,
    )
    known = loaded.normalisation is not None or space.choice.mean is not None
    return _in_order(space, Imported(found, classes is not None, known))


def of_module(space: Workspace, module: nn.Module) -> Imported:
    """Wrap the caller's module as a teacher; uses its class names if they match the data's."""
    classes = _meant(space, class_names.of_module(module))
    if classes is not None and not set(classes).issuperset(space.real.classes):
        classes = None
    found = teachers.of_module(module, classes or space.real.classes, space.normalisation, space.choice.size)
    return _in_order(space, Imported(found, classes is not None, space.choice.mean is not None))


def factories(architectures: Iterable[str], verifier: str) -> frozenset[str]:
    """Return the network factories that the recipe itself names; no file that is read can add any."""
    return frozenset((*architectures, parted(verifier)[0]))


def parted(name: str) -> tuple[str, str]:
    """Split ARCHITECTURE:WEIGHTS, or the path of a squeeze folder, into architecture and weights.

    ARCHITECTURE may be package.module:factory or hf-hub:timm/NAME; weights are '' when none are given.
    """
    if squeeze_folder(name):
        return "", name
    parts = _TWO_PART.match(name)
    if parts is None:
        architecture, _, named = name.partition(":")
        return architecture, named
    return parts[1], parts[2] or ""


def named_teacher(space: Workspace, name: str, role: str) -> Teacher:
    """Load ARCHITECTURE:WEIGHTS or a squeeze folder onto the device, with outputs in the data's class order.

    Raises AttarError, which mentions the network's ``role``, when it does not exist or does not know the classes.
    """
    architecture, named = parted(name)
    if not named:
        raise AttarError(f"The {role} '{name}' has no weights; give ARCHITECTURE:WEIGHTS or a squeeze folder.")
    imported = of_weights(space, architecture, named, "auto")
    found = teachers.aligned(imported.teacher, space.real.classes)
    found.module.to(space.device.device)
    if not imported.order_known:
        examine.glance(space, found)
    return found


def squeeze_folder(named: str) -> Path | None:
    """Return the folder of the single teacher in a squeeze folder; None when there is no such folder.

    Raises AttarError when it holds several teachers.
    """
    path = Path(named).expanduser()
    if not named or (path / teachers.RECORD).is_file():
        return path if named else None
    numbered = sorted(file.parent for file in path.glob(f"[0-9]*/{teachers.RECORD}"))
    if len(numbered) > 1:
        raise AttarError(f"{path} holds {len(numbered)} teachers; name one of them, such as {numbered[0]}.")
    return numbered[0] if numbered else None


def _recorded_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights that the squeeze folder's manifest records; '' without a manifest."""
    if not (folder / MANIFEST).is_file():
        return ""
    return teacher_in(folder).weights_sha256


def content(module: nn.Module | None, named: str) -> str | None:
    """Return the SHA-256 of a network's weights or of a weights file, independent of its path.

    None for published weights, which their name identifies, and for a missing file.
    """
    if module is not None:
        return weights.tensors_sha256(module.state_dict())
    if folder := squeeze_folder(named):
        return atomic.sha256_of(folder / teachers.WEIGHTS)
    path = Path(named).expanduser()
    return atomic.sha256_of(path) if named and path.is_file() and pretrained.is_local(named) else None


def _meant(space: Workspace, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Translate output names to the data's class names; None when there are none, or only plain numbers."""
    if names is None:
        return None
    meant = class_names.in_terms_of(names, space.real.classes, space.real.titles)
    numbers = class_names.are_numbers(meant) and len(meant) == len(space.real.classes)
    return None if numbers and not set(meant).issuperset(space.real.classes) else meant


def _in_order(space: Workspace, imported: Imported) -> Imported:
    if not set(imported.teacher.classes).issuperset(space.real.classes):
        return imported
    return replace(imported, teacher=teachers.aligned(imported.teacher, space.real.classes))
