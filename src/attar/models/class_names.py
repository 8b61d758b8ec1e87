"""The names of a network's outputs, as trainers leave them in checkpoints and on modules."""

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
"""Where names are: torchvision's datasets, attar and fastai, tutorials, Hugging Face, torchvision's weights."""
_BY_INDEX = ("idx_to_class", "id2label")
"""Those whose keys are indices and whose values are names."""
_ROOMS = ("hyper_parameters", "hparams", "meta", "metadata", "config")
"""Mappings of a checkpoint in which these are looked for next."""


def in_content(content: Any) -> tuple[str, ...] | None:
    """The names in the order of the outputs, from a checkpoint's plain values; None where it has none."""
    if not isinstance(content, Mapping):
        return None
    for place in (content, *(content.get(room) for room in _ROOMS)):
        if isinstance(place, Mapping):
            for key in _KEYS:
                if names := _ordered(key, place.get(key)):
                    return names
    return None


def of_module(module: object) -> tuple[str, ...] | None:
    """The names that a network carries as an attribute (``class_to_idx``, ``classes``, ``config.id2label``)."""
    for place in (module, getattr(module, "config", None)):
        for key in _KEYS:
            if names := _ordered(key, getattr(place, key, None)):
                return names
    return None


def in_terms_of(names: tuple[str, ...], classes: Iterable[str], titles: Mapping[str, str]) -> tuple[str, ...]:
    """The names as the data write them, where every class of the data is among them under its own name or its title.

    ``titles`` says what classes are called in English. Upper case, underscores and hyphens make no difference. Names
    that fit otherwise come back as they are.
    """
    known, wanted = set(names), tuple(classes)
    if known.issuperset(wanted):
        return names
    for written in (wanted, tuple(titles.get(name, name) for name in wanted)):
        meant = {_plain(text): name for text, name in zip(written, wanted, strict=True)}
        if len(meant) == len(wanted) and len({_plain(name) for name in names}) == len(names):
            renamed = tuple(meant.get(_plain(name), name) for name in names)
            if set(renamed).issuperset(wanted) and len(set(renamed)) == len(names):
                return renamed
    return names


def are_numbers(names: tuple[str, ...]) -> bool:
    """Whether names say no more than the outputs' numbers ('0', '1', ... or 'LABEL_0', 'LABEL_1', ...)."""
    return names in {tuple(f"{prefix}{index}" for index in range(len(names))) for prefix in ("", "LABEL_", "class_")}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _ordered(key: str, value: Any) -> tuple[str, ...] | None:
    """Names by output: a list of distinct names, or a mapping between names and 0, 1, ..."""
    if isinstance(value, Mapping):
        value = _by_index(key, value)
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in value):
        return None
    names = tuple(str(name) for name in value)
    return names if len(set(names)) == len(names) else None


def _by_index(key: str, value: Mapping[Any, Any]) -> list[Any] | None:
    """The names of a mapping in order; where both directions are possible, ``key`` says which it is."""
    directions = [[(index, name) for name, index in value.items()], list(value.items())]
    for pairs in directions[1:] if key in _BY_INDEX else directions:
        numbered = [(_number(index), name) for index, name in pairs]
        if sorted(index for index, _ in numbered) == list(range(len(numbered))):
            return [name for _, name in sorted(numbered, key=lambda pair: pair[0])]
    return None


def _number(value: Any) -> int:
    """An index, which JSON writes as text; -1 for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else -1
