"""Names of classes that people read, and whose terms their images are under."""

import re
from collections.abc import Sequence
from pathlib import Path

IMAGENET_TERMS = "ImageNet terms: non-commercial research"
WORDNET_ID = re.compile(r"n\d{8}")


def titles(folder: Path | None, classes: Sequence[str]) -> dict[str, str]:
    """The first English name of each class: from ``words.txt`` in the folder, else from timm for WordNet ids."""
    words = folder / "words.txt" if folder else None
    if words and words.is_file():
        lines = words.read_text(encoding="utf-8").splitlines()
        named = dict(line.split("\t", 1) for line in lines if "\t" in line)
    elif are_wordnet_ids(classes):
        named = _lemmas(classes)
    else:
        return {}
    return {name: named[name].partition(",")[0].strip() for name in classes if name in named}


def are_wordnet_ids(classes: Sequence[str]) -> bool:
    """Whether every class is named as ImageNet names them."""
    return bool(classes) and all(WORDNET_ID.fullmatch(name) for name in classes)


def licence(classes: Sequence[str]) -> str:
    """ImageNet's terms for classes named by WordNet ids, else 'unknown'."""
    return IMAGENET_TERMS if are_wordnet_ids(classes) else "unknown"


def _lemmas(classes: Sequence[str]) -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    known = set(info.label_names())
    return {name: info.label_name_to_description(name) for name in classes if name in known}
