"""Which folder, file or Hub split holds the training images and which the validation images, by its name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, TypeVar

from attar.core.errors import AttarError
from attar.core.log import Log

TRAIN_WORDS = ("train", "training", "trainset", "trn")
_TEST_WORDS = ("test", "testing", "testset", "tst")
VAL_WORDS = (
    *("val", "validation", "valid", "valset", "validate", "dev", "devset", "eval", "evaluation", "holdout"),
    *_TEST_WORDS,
)
"""From the best to the last choice: where there are several, the first one is validated on."""
_FILLERS = {
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data", "dataset", "set", "split"),
    *("folder", "dir", "seg", "imagenet", "imagenet21k", "resized"),
}
"""Words that may be added to a split's name, as in ``train_images`` or ``seg_train``."""

Place = TypeVar("Place", bound=PurePath)
_NUMBER = re.compile(r"([-_.]?(\d+|of))+$")
_SHOWN, _SHOWN_HOMES = 3, 8


@dataclass(frozen=True)
class Shards(Generic[Place]):
    """The files of a dataset by what they are for."""

    train: list[Place]
    vals: list[list[Place]]
    """Those of each split that may be validated on, the best first."""
    others: list[Place]
    """Files of further splits, or of other datasets, that are not read."""

    def tell(self, log: Log) -> None:
        """Say which files are left out."""
        if self.others:
            log.say(f"data      attar reads {self.train[0]} and files named like it, and not {_few(self.others)}")

    def refuse_others(self, pattern: str) -> None:
        """Raise AttarError when a pattern names files that are not read."""
        if self.others:
            raise AttarError(
                f"'{pattern}' names {_few(self.others)}, which would be left out beside {self.train[0].name}; name the "
                f"files of one dataset, with train or val in their names."
            )


def by_split(groups: Mapping[str, list[Place]]) -> Shards[Place] | None:
    """Return which of the files, grouped by the names of their splits, are for what; None without a split to train."""
    trains, vals = training(groups), validation(groups)
    if not trains:
        return None
    others = [file for name, files in groups.items() if name not in (trains[0], *vals) for file in files]
    return Shards(groups[trains[0]], [groups[name] for name in vals], others)


def without_split(files: Sequence[Place], kind: str, where: str, *, joined: bool) -> Shards[Place]:
    """Return files without any split in their names: all of them are for training.

    ``kind`` is what to call them and ``where`` their folder. Raises AttarError when they have several names, as
    birds-0.tar and cats-0.tar, unless they are ``joined`` by a pattern that names them.
    """
    names = sorted({name_of(file) for file in files})
    if len(names) > 1 and not joined:
        shown = _few([f"{name}*{files[0].suffix}" for name in names])
        raise AttarError(
            f"{where} holds {kind} files of several names ({shown}), and none of them names a split; name the files of "
            f"one dataset by a pattern, as in --data.source '{where}/{names[-1]}*{files[0].suffix}', or put train into "
            f"their names."
        )
    return Shards(list(files), [], [])


def name_of(file: PurePath) -> str:
    """Return a file's name without its ending and the numbers before it, such as those of shards."""
    return _NUMBER.sub("", file.stem)


def refuse_several(where: str, homes: Sequence[PurePath], source: str) -> None:
    """Raise AttarError when a place holds several datasets, in these folders; ``source`` names the first of them."""
    if len(homes) > 1:
        few = ", ".join(home.as_posix() for home in homes[:_SHOWN_HOMES])
        more = f" and {len(homes) - _SHOWN_HOMES} more" if len(homes) > _SHOWN_HOMES else ""
        raise AttarError(
            f"{where} holds several datasets, in the folders {few}{more}; choose one, as in --data.source '{source}', "
            f"or name the files that belong together by a pattern."
        )


def home(file: PurePath) -> PurePath:
    """Return the folder of the dataset that a file belongs to: its own, without ``data`` and folders of splits."""
    return PurePath(*(part for part in file.parts[:-1] if part != "data" and not role(part)))


def tell_homes(files: Iterable[PurePath], log: Log) -> None:
    """Say that files of several folders, which a pattern names, are read as one dataset."""
    homes = sorted({home(file) for file in files})
    if len(homes) > 1:
        log.say(f"data      the files of {_few(homes)} are read as one dataset")


def _few(paths: Sequence[object]) -> str:
    shown = ", ".join(map(str, paths[:_SHOWN]))
    return f"{shown} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else shown


def role(name: str) -> str:
    """The word of TRAIN_WORDS or VAL_WORDS that names this split, in any case and with fillers; "" where none does."""
    word, rest = _parted(name)
    return word if all(_is_filler(other) for other in rest) else ""


def training(names: Iterable[str]) -> list[str]:
    """The names of training splits, the plainest first."""
    return _ranked(names, TRAIN_WORDS)


def validation(names: Iterable[str]) -> list[str]:
    """The names of validation splits, the best choice first."""
    return _ranked(names, VAL_WORDS)


def is_test(name: str) -> bool:
    """Whether a split is a test set, whose labels may well be kept secret."""
    return _parted(name)[0] in _TEST_WORDS


def _ranked(names: Iterable[str], words: tuple[str, ...]) -> list[str]:
    roles = _roles(list(names))
    found = [name for name, word in roles.items() if word in words]
    strange = {name: (name.lower() != roles[name], name != roles[name], name) for name in found}
    return sorted(found, key=lambda name: (words.index(roles[name]), strange[name]))


def _roles(names: list[str]) -> dict[str, str]:
    """The role of each name, also of names that differ in the split's word only, as birds_train and birds_test."""
    found = {name: role(name) for name in names}
    if any(word in TRAIN_WORDS for word in found.values()):
        return found
    parted = {name: _parted(name) for name in names}
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, (word, rest) in parted.items():
        if word:
            alike.setdefault(tuple(rest), []).append(name)
    for group in alike.values():
        words = {parted[name][0] for name in group}
        if words & set(TRAIN_WORDS) and words & set(VAL_WORDS):
            return found | {name: parted[name][0] for name in group}
    return found


def _parted(name: str) -> tuple[str, list[str]]:
    """The only word of a name that names a split, "" if there is none or are several; and its other words."""
    words = re.findall(r"[a-z]+(?:\d+k)?", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    found = [word for word in words if word in TRAIN_WORDS + VAL_WORDS]
    return (found[0] if len(found) == 1 else ""), [word for word in words if word not in found]


def _is_filler(word: str) -> bool:
    return word in _FILLERS or word == "v"
