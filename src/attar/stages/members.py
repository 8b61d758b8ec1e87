"""The run's teachers on disk: their folders, their hashes, and the committees that they form.

A single teacher is stored in ``squeeze`` itself, several in ``squeeze/0``, ``squeeze/1`` and so on.
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
from attar.synthesis.method import MethodConfig


def folder_of(squeeze: Path, index: int, num_teachers: int) -> Path:
    """Return a teacher's folder; the first stays in ``squeeze`` itself if it was once the only one."""
    begun = any((squeeze / name).is_file() for name in (MANIFEST, PLAN))
    if index == 0 and (begun or (num_teachers == 1 and not numbered(squeeze))):
        return squeeze
    return squeeze / str(index)


def made(space: Workspace, index: int) -> TeacherMade:
    """Return the manifest of a teacher; raises AttarError when it is not finished."""
    return teacher_in(folder_of(space.out / "squeeze", index, space.num_teachers))


def chosen(space: Workspace, members: Sequence[int], setting: str) -> tuple[int, ...]:
    """Return ``members``, or all teacher numbers when it is empty.

    Raises AttarError, which mentions ``setting``, for a number without a teacher.
    """
    return choose(space.num_teachers, members, setting)


def choose(num_teachers: int, members: Sequence[int], setting: str) -> tuple[int, ...]:
    """Do as ``chosen``, for ``num_teachers`` teachers."""
    for index in members:
        if index >= num_teachers:
            there = "only teacher 0" if num_teachers == 1 else f"teachers 0 to {num_teachers - 1}"
            raise AttarError(f"{setting} names teacher {index}, but the run has {there}; add it to --squeeze.members.")
    return tuple(members) or tuple(range(num_teachers))


def of_images(space: Workspace, config: MethodConfig) -> tuple[int, ...]:
    """Return the numbers of the teachers that a method is given; none in a run that asks none."""
    return config.members_of(space.num_teachers) if space.num_teachers else ()


def of_labels(space: Workspace, choice: CommitteeChoice) -> tuple[int, ...]:
    """Return the numbers of the teachers that label."""
    return chosen(space, choice.members, "--relabel.committee.members")


def resolved(num_teachers: int, choice: CommitteeChoice) -> CommitteeChoice:
    """Return the choice with explicit member numbers when there are several teachers.

    So labels by "all" of two teachers differ from labels by "all" of three. A run without teachers has no choice to
    resolve. Raises AttarError for teachers that do not exist, or weights that do not fit.
    """
    if not num_teachers:
        return choice
    found = choose(num_teachers, choice.members, "--relabel.committee.members")
    check_weights(choice, len(found))
    return choice.changed(members=() if num_teachers == 1 else found)


def weights_sha256(space: Workspace, members: Sequence[int]) -> tuple[str, ...]:
    """Return the SHA-256 of these teachers' weights, as the manifests record them."""
    return tuple(made(space, index).weights_sha256 for index in members)


def parents(space: Workspace, members: Sequence[int]) -> dict[str, str]:
    """Return the parents of work with these teachers: the first one's weights and, for several, the weights of all.

    Without teachers there are none.
    """
    known = weights_sha256(space, members)
    first = {"teacher": known[0]} if known else {}
    return first | ({"committee": digest(list(known))} if len(known) > 1 else {})


def answers_sha256(space: Workspace, choice: CommitteeChoice) -> str:
    """Return a hash of a committee's answers: its weights and, for several teachers, how they are combined."""
    known = weights_sha256(space, of_labels(space, choice))
    if len(known) == 1:
        return known[0]
    combined = [list(known), choice.policy, list(choice.weights)]
    if choice.policy == "weighted" and not choice.weights:  # accuracies follow from the teachers' weights
        combined += [list(choice.priors), choice.prior_temperature]
    return digest(combined)


def teacher(space: Workspace, index: int) -> Teacher:
    """Return one of the run's teachers, on the device; each is loaded once.

    Raises AttarError when the teacher is unfinished or damaged, or names a network that the user did not type.
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
    """Return the chosen teachers, on the device."""
    members = [teacher(space, index) for index in of_labels(space, choice)]
    return Committee(members, choice, space.device.device)


def architecture(space: Workspace, choice: CommitteeChoice) -> str:
    """Return the chosen teachers' architectures, joined by +, without loading them."""
    paths = [
        folder_of(space.out / "squeeze", index, space.num_teachers) / teachers.RECORD
        for index in of_labels(space, choice)
    ]
    return "+".join(record.parse(path.read_bytes(), path).architecture for path in paths)
