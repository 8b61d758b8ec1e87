"""Teachers made elsewhere: a squeeze folder, published weights, a checkpoint file, a caller's own network."""

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
"""Architectures that have a colon of their own, and the weights after them."""


@dataclass(frozen=True)
class Brought:
    """A teacher made elsewhere, and what is known of it."""

    teacher: Teacher
    order_told: bool
    """Whether it names its outputs; otherwise they are taken to be in the data's order."""
    normalisation_told: bool
    """Whether the normalisation of its input is known; otherwise the data's is taken."""


def bring(space: Workspace, architecture: str, named: str, stem: build.Stem) -> Brought:
    """A teacher by its weights: a squeeze folder, those of a library, or a checkpoint file.

    Its classes are put in the data's order where it knows them all; otherwise they are left for recover to refuse.
    """
    if folder := squeeze_folder(named):
        found = teachers.load(folder, factories=space.factories, weights_sha256=_recorded_sha256(folder))
        return _in_order(space, Brought(found, order_told=True, normalisation_told=True))
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
    told = loaded.normalisation is not None or space.choice.mean is not None
    return _in_order(space, Brought(found, classes is not None, told))


def of_module(space: Workspace, module: nn.Module) -> Brought:
    """A caller's own network as a teacher; names of classes that it carries are heeded where they are the data's."""
    classes = _meant(space, class_names.of_module(module))
    if classes is not None and not set(classes).issuperset(space.real.classes):
        classes = None
    found = teachers.of_module(module, classes or space.real.classes, space.normalisation, space.choice.size)
    return _in_order(space, Brought(found, classes is not None, space.choice.mean is not None))


def factories(architecture: str, named: Iterable[str]) -> frozenset[str]:
    """The networks by which a recipe lets teachers be built: its own one and those ``named`` with their weights.

    No file that is read adds to them.
    """
    return frozenset((architecture, *(parted(name)[0] for name in named)))


def parted(name: str) -> tuple[str, str]:
    """Architecture and weights of a network that is named ARCHITECTURE:WEIGHTS, or is a squeeze folder.

    ARCHITECTURE may be package.module:factory or hf-hub:timm/NAME; weights are empty where none are named.
    """
    if squeeze_folder(name):
        return "", name
    parts = _TWO_PART.match(name)
    if parts is None:
        architecture, _, named = name.partition(":")
        return architecture, named
    return parts[1], parts[2] or ""


def named_teacher(space: Workspace, name: str, role: str) -> Teacher:
    """A further network by ARCHITECTURE:WEIGHTS or a squeeze folder, answering in the data's classes, on the device.

    Raises AttarError, naming the ``role`` that it was to play, when there is none, or it does not know the classes.
    """
    architecture, named = parted(name)
    if not named:
        raise AttarError(f"The {role} '{name}' names no weights; write ARCHITECTURE:WEIGHTS, or a squeeze folder.")
    brought = bring(space, architecture, named, "auto")
    found = teachers.aligned(brought.teacher, space.real.classes)
    found.module.to(space.device.device)
    if not brought.order_told:
        examine.glance(space, found)
    return found


def squeeze_folder(named: str) -> Path | None:
    """The squeeze folder of this name; None where there is no such."""
    path = Path(named).expanduser()
    return path if named and (path / teachers.RECORD).is_file() else None


def _recorded_sha256(folder: Path) -> str:
    """What the weights in a squeeze folder must be by its manifest; '' where it came without one."""
    if not (folder / MANIFEST).is_file():
        return ""
    return teacher_in(folder).weights_sha256


def content(module: nn.Module | None, named: str) -> str | None:
    """The identity of a network or a file of weights: a SHA-256 of what is in it, not where it lies.

    None for published weights, which their name identifies, and for a file that is not there.
    """
    if module is not None:
        return weights.tensors_sha256(module.state_dict())
    if folder := squeeze_folder(named):
        return atomic.sha256_of(folder / teachers.WEIGHTS)
    path = Path(named).expanduser()
    return atomic.sha256_of(path) if named and path.is_file() and pretrained.is_local(named) else None


def _meant(space: Workspace, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of outputs in the data's words; None where there are none, or mere numbers that the data don't use."""
    if names is None:
        return None
    meant = class_names.in_terms_of(names, space.real.classes, space.real.titles)
    numbers = class_names.are_numbers(meant) and len(meant) == len(space.real.classes)
    return None if numbers and not set(meant).issuperset(space.real.classes) else meant


def _in_order(space: Workspace, brought: Brought) -> Brought:
    if not set(brought.teacher.classes).issuperset(space.real.classes):
        return brought
    return replace(brought, teacher=teachers.aligned(brought.teacher, space.real.classes))
