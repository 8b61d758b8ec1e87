"""The run's teachers on disk: where each lies, what it is known by, and the committees that they form.

A single teacher lies in ``squeeze`` itself, several in ``squeeze/0``, ``squeeze/1`` and so on.
"""

from collections.abc import Sequence
from pathlib import Path

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.models import record
from attar.models import teacher as teachers
from attar.models.choices import CommitteeChoice
from attar.models.committee import Committee, check_weights
from attar.models.teacher import Teacher
from attar.stages.folder import MANIFEST, PLAN
from attar.stages.run import TeacherMade, numbered, teacher_in
from attar.stages.workspace import Workspace


def folder_of(squeeze: Path, index: int, num_teachers: int) -> Path:
    """Where a run's teacher lies or will lie; the first may lie in ``squeeze`` itself, where it was alone at first."""
    begun = any((squeeze / name).is_file() for name in (MANIFEST, PLAN))
    if index == 0 and (begun or (num_teachers == 1 and not numbered(squeeze))):
        return squeeze
    return squeeze / str(index)


def made(space: Workspace, index: int) -> TeacherMade:
    """The manifest of a teacher; raises AttarError when it is not finished."""
    return teacher_in(folder_of(space.out / "squeeze", index, space.num_teachers))


def chosen(space: Workspace, members: Sequence[int], setting: str) -> tuple[int, ...]:
    """The numbers of the teachers that ``members`` names, all when it is empty.

    ``setting`` is named in the AttarError that a number without a teacher raises.
    """
    return choose(space.num_teachers, members, setting)


def choose(num_teachers: int, members: Sequence[int], setting: str) -> tuple[int, ...]:
    """``chosen`` of a number of teachers."""
    for index in members:
        if index >= num_teachers:
            there = "is only teacher 0" if num_teachers == 1 else f"are teachers 0 to {num_teachers - 1}"
            raise AttarError(f"{setting} names teacher {index}, and there {there}; add it to --squeeze.members.")
    return tuple(members) or tuple(range(num_teachers))


def of_labels(space: Workspace, choice: CommitteeChoice) -> tuple[int, ...]:
    """The numbers of the teachers that label."""
    return chosen(space, choice.members, "--relabel.committee.members")


def resolved(num_teachers: int, choice: CommitteeChoice) -> CommitteeChoice:
    """The choice with the numbers of its members, where there are several teachers.

    So the labels of all of two teachers are not taken for those of all of three. Raises AttarError when it names
    teachers that are not there, or weights that do not fit.
    """
    found = choose(num_teachers, choice.members, "--relabel.committee.members")
    check_weights(choice, len(found))
    return choice.changed(members=() if num_teachers == 1 else found)


def weights_sha256(space: Workspace, members: Sequence[int]) -> tuple[str, ...]:
    """What the weights of these teachers must have as their SHA-256, by the manifests."""
    return tuple(made(space, index).weights_sha256 for index in members)


def parents(space: Workspace, members: Sequence[int]) -> dict[str, str]:
    """What work with these teachers starts from: the first one's weights, and of several the weights of all."""
    known = weights_sha256(space, members)
    return {"teacher": known[0]} | ({"committee": digest(list(known))} if len(known) > 1 else {})


def answers_sha256(space: Workspace, choice: CommitteeChoice) -> str:
    """What the answers of a committee are known by: its weights, and of several teachers how they answer together."""
    known = weights_sha256(space, of_labels(space, choice))
    return known[0] if len(known) == 1 else digest([list(known), choice.policy, list(choice.weights)])


def teacher(space: Workspace, index: int) -> Teacher:
    """One of the run's teachers, on the device; each is loaded once.

    Raises AttarError when it is not finished, its files are damaged, or name a network that the user did not type.
    """
    if index not in space.loaded:
        folder = folder_of(space.out / "squeeze", index, space.num_teachers)
        known = weights_sha256(space, (index,))[0]
        module = space.modules[index] if index < len(space.modules) else None
        found = teachers.load(folder, module, factories=space.factories, weights_sha256=known)
        found.module.to(space.device.device)
        space.loaded[index] = found
    return space.loaded[index]


def committee(space: Workspace, choice: CommitteeChoice) -> Committee:
    """The chosen teachers, on the device."""
    members = [teacher(space, index) for index in of_labels(space, choice)]
    return Committee(members, choice, space.device.device)


def architecture(space: Workspace, choice: CommitteeChoice) -> str:
    """The architectures of the chosen teachers, joined by +; loads none."""
    paths = [
        folder_of(space.out / "squeeze", index, space.num_teachers) / teachers.RECORD
        for index in of_labels(space, choice)
    ]
    return "+".join(record.parse(path.read_bytes(), path).architecture for path in paths)
