"""Find the class names of a network's outputs in checkpoints and on modules."""

from collections.abc import Iterable, Mapping
from typing import Any

_KEYS = (
    "class_to_idx",
    "classes",
    "class_names",
    "label_names",
    "labels",
    "idx_to_class",
    "id2label",
    "label2id",
    "categories",
)
"""Keys for class names: of torchvision's datasets, attar, fastai, tutorials, Hugging Face and torchvision's weights."""
_BY_INDEX = ("idx_to_class", "id2label")
"""Keys of mappings from index to name."""
_NESTED = ("hyper_parameters", "hparams", "meta", "metadata", "config")
"""Mappings in a checkpoint that may contain these keys."""


def in_content(content: Any) -> tuple[str, ...] | None:
    """Return the names in the order of the outputs, from a checkpoint's plain values; None if it has none."""
    if not isinstance(content, Mapping):
        return None
    for place in (content, *(content.get(key) for key in _NESTED)):
        if isinstance(place, Mapping):
            for key in _KEYS:
                if names := _ordered(key, place.get(key)):
                    return names
    return None


def of_module(module: object) -> tuple[str, ...] | None:
    """Return the names from a network's attributes (``class_to_idx``, ``classes``, ``config.id2label``)."""
    for place in (module, getattr(module, "config", None)):
        for key in _KEYS:
            if names := _ordered(key, getattr(place, key, None)):
                return names
    return None


def in_terms_of(names: tuple[str, ...], classes: Iterable[str], titles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in the data's spelling, if they include every class of the data by its name or its title.

    ``titles`` are the English names of classes. Case, underscores and hyphens are ignored. Otherwise returns the names
    unchanged.
    """
    known, wanted = set(names), tuple(classes)
    if known.issuperset(wanted):
        return names
    for spelling in (wanted, tuple(titles.get(name, name) for name in wanted)):
        known_as = {_plain(text): name for text, name in zip(spelling, wanted, strict=True)}
        if len(known_as) == len(wanted) and len({_plain(name) for name in names}) == len(names):
            renamed = tuple(known_as.get(_plain(name), name) for name in names)
            if set(renamed).issuperset(wanted) and len(set(renamed)) == len(names):
                return renamed
    return names


def are_numbers(names: tuple[str, ...]) -> bool:
    """Return whether names are only the outputs' numbers ('0', '1', ... or 'LABEL_0', 'LABEL_1', ...)."""
    return names in {tuple(f"{prefix}{index}" for index in range(len(names))) for prefix in ("", "LABEL_", "class_")}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _ordered(key: str, value: Any) -> tuple[str, ...] | None:
    """Return names in the order of the outputs, from a list of distinct names or a mapping of names and indices."""
    if isinstance(value, Mapping):
        value = _by_index(key, value)
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in value):
        return None
    names = tuple(str(name) for name in value)
    return names if len(set(names)) == len(names) else None


def _by_index(key: str, value: Mapping[Any, Any]) -> list[Any] | None:
    """Return the names of a mapping in order; if both directions are possible, ``key`` decides."""
    directions = [[(index, name) for name, index in value.items()], list(value.items())]
    for pairs in directions[1:] if key in _BY_INDEX else directions:
        numbered = [(_number(index), name) for index, name in pairs]
        if sorted(index for index, _ in numbered) == list(range(len(numbered))):
            return [name for _, name in sorted(numbered, key=lambda pair: pair[0])]
    return None


def _number(value: Any) -> int:
    """Return an index, which may be text as in JSON; -1 for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else -1
