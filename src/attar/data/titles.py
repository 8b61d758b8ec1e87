"""Names of classes that people read, and whose terms their images are under."""

import importlib.util
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


def wordnet_ids(name: str) -> tuple[str, ...]:
    """The classes of imagenet-1k or imagenet-21k-p in their usual order, from timm's lists; empty for others."""
    lists = {"imagenet-1k": "imagenet_synsets.txt", "imagenet-21k-p": "imagenet21k_miil_w21_synsets.txt"}
    return tuple(line.strip() for line in _timm_list(lists[name])) if name in lists else ()


def licence(classes: Sequence[str]) -> str:
    """ImageNet's terms for classes named by WordNet ids, else 'unknown'."""
    return IMAGENET_TERMS if are_wordnet_ids(classes) else "unknown"


def _lemmas(classes: Sequence[str]) -> dict[str, str]:
    wanted = set(classes)
    rows = (line.split("\t", 1) for line in _timm_list("imagenet_synset_to_lemma.txt"))
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0] in wanted}


def _timm_list(name: str) -> list[str]:
    """The lines of one of timm's lists of classes, without importing timm, which takes seconds."""
    spec = importlib.util.find_spec("timm")
    folders = (spec and spec.submodule_search_locations) or ()
    files = [Path(folder, "data", "_info", name) for folder in folders]
    return next((file.read_text(encoding="utf-8").splitlines() for file in files if file.is_file()), [])
