"""Which folder, file or Hub split holds the training images and which the validation images, by its name."""

import re
from collections.abc import Iterable

TRAIN_WORDS = ("train", "training")
VAL_WORDS = ("val", "validation", "valid", "dev", "eval", "test", "testing")
"""From the best to the last choice: where there are several, the first one is validated on."""
_FILLERS = {
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data", "dataset", "set", "split"),
    *("folder", "dir", "seg", "imagenet", "imagenet21k", "resized"),
}
"""Words that may be added to a split's name, as in ``train_images`` or ``seg_train``."""


def role(name: str) -> str:
    """The word of TRAIN_WORDS or VAL_WORDS that names this split, in any case and with fillers; "" where none does."""
    words = re.findall(r"[a-z]+(?:\d+k)?", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    found = [word for word in words if word in TRAIN_WORDS + VAL_WORDS]
    rest = [word for word in words if word not in found]
    return found[0] if len(found) == 1 and all(_is_filler(word) for word in rest) else ""


def training(names: Iterable[str]) -> list[str]:
    """The names of training splits, the plainest first."""
    return _ranked(names, TRAIN_WORDS)


def validation(names: Iterable[str]) -> list[str]:
    """The names of validation splits, the best choice first."""
    return _ranked(names, VAL_WORDS)


def is_test(name: str) -> bool:
    """Whether a split is a test set, whose labels may well be kept secret."""
    return role(name) in ("test", "testing")


def _ranked(names: Iterable[str], words: tuple[str, ...]) -> list[str]:
    found = [name for name in names if role(name) in words]
    strange = {name: (name.lower() != role(name), name != role(name), name) for name in found}
    return sorted(found, key=lambda name: (words.index(role(name)), strange[name]))


def _is_filler(word: str) -> bool:
    return word in _FILLERS or word == "v"
