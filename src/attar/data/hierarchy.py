"""A hierarchy of classes that the user brings as a file: which classes contain which."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError
from attar.store import pickles

MOST_BYTES = 64 * 1024**2
_TREE = pickles.Kind(
    missing="There is no file {path}; check --squeeze.semantic-tree.",
    code="{path} refers to code ({name}), which attar does not run; write lines 'CLASS PARENT' instead.",
    damaged="{path} cannot be read as a tree of classes ({reason}); fetch it again, or write lines 'CLASS PARENT'.",
    not_readable="it is not a file of torch.save",
)


def read(path: Path, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return for each class its ancestors among the classes, the nearest first.

    The file has a line ``CLASS PARENT`` for each relation; or it is a JSON object of classes and their parents, or the
    tree published for ImageNet-21K-P (.pth, read without running code). Names that are no classes may lie between. If a
    class has several parents, the first counts. Raises AttarError when the file cannot be read, has a circle, or no
    class has an ancestor.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise AttarError(f"{path} has {path.stat().st_size:,} bytes, more than a tree of classes needs.")
        parents = _published(path) if path.suffix in (".pth", ".pt") else _written(path)
    except OSError as error:
        raise AttarError(f"{path} cannot be read ({error.strerror}); check --squeeze.semantic-tree.") from None
    index = {name: place for place, name in enumerate(classes)}
    found = tuple(tuple(index[name] for name in _above(one, parents, path) if name in index) for one in classes)
    if not any(found):
        raise AttarError(
            f"In {path} no class of the data has another one above it, so there are no levels; check that it has the "
            f"names of the classes (such as '{classes[0]}'), each before its parent."
        )
    return found


def _above(name: str, parents: Mapping[str, str], path: Path) -> list[str]:
    chain, seen = list[str](), {name}
    while (above := parents.get(name)) is not None:
        if above in seen:
            raise AttarError(f"{path} says that '{above}' lies above itself; remove that circle.")
        seen.add(above)
        chain.append(above)
        name = above
    return chain


def _written(path: Path) -> dict[str, str]:
    """Return the parent of each name in a text or JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text)
            if not isinstance(found, dict) or not all(isinstance(one, str | None) for one in found.values()):
                raise AttarError(f"{path} must hold one JSON object, of classes and the names of their parents.")
            return {name: parent for name, parent in found.items() if parent}
    except (ValueError, RecursionError) as error:
        raise AttarError(f"{path} cannot be read as a tree of classes ({error}); write lines 'CLASS PARENT'.") from None
    parents: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("\t") if "\t" in line else line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2:
            raise AttarError(f"Line {number} of {path} must have two names, CLASS PARENT; it has {len(words)}.")
        parents.setdefault(words[0].strip(), words[1].strip())
    return parents


def _published(path: Path) -> dict[str, str]:
    """Return the parent of each class in the tree of the repository of ImageNet-21K-P."""
    tree: Any = pickles.read(path, _TREE, [])
    try:
        names = [str(name) for name in tree["class_list"]]
        chains = [[names[int(place)] for place in chain] for chain in tree["class_tree_list"]]
        return {chain[0]: chain[1] for chain in chains if len(chain) > 1}
    except (KeyError, TypeError, ValueError, IndexError):
        raise _TREE.refusal(path, "it lacks class_list or class_tree_list") from None
