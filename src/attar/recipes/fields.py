"""The settings of a recipe: their names on the command line, how they are parsed, and their help texts."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
import yaml

from attar.core import raw_yaml
from attar.core.errors import AttarError
from attar.stages.rows import KNOWN, Row

Kind = Literal["switch", "one", "many", "group"]
"""A setting with an optional value, with one value, with several values, or a group of settings."""
_NAMES = {int: "INT", float: "NUMBER", bool: "yes|no"}
_SHORT_FOR = {"lr": "learning rate", "wd": "weight decay"}
"""What people type for two settings."""
_SHORT = 40
"""Choices longer than this many characters are listed in the explanation, not after the flag."""


@dataclass(frozen=True)
class Field:
    """One setting, or one group of settings."""

    key: str
    """Dotted name as in Python and YAML: ``recover.ipc_start``."""
    annotation: Any
    text: str
    """Help text: the docstring of the field."""

    @property
    def flag(self) -> str:
        """Flag as typed: ``--recover.ipc-start``."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def flag_off(self) -> str:
        """The short form of ``FLAG no``: ``--recover.no-flip``."""
        group, dot, name = self.flag.removeprefix("--").rpartition(".")
        return f"--{group}{dot}no-{name}"

    @cached_property
    def optional(self) -> bool:
        """Whether ``none`` is a value."""
        return type(None) in get_args(_bare(self.annotation))

    @cached_property
    def type(self) -> Any:
        """The type of a value that is not None."""
        bare = _bare(self.annotation)
        return next(_bare(part) for part in get_args(bare) if part is not type(None)) if self.optional else bare

    @cached_property
    def kind(self) -> Kind:
        """Return how many words the setting takes."""
        if _is_model(self.type):
            return "group"
        if get_origin(self.type) in (tuple, list):
            return "many"
        return "switch" if self.type is bool else "one"

    @cached_property
    def items(self) -> tuple[Any, ...]:
        """For a setting with several values: their types, only one round if they repeat (pairs: two types)."""
        inner = [_bare(part) for part in get_args(self.type) if part is not Ellipsis]
        return tuple(map(_bare, get_args(inner[0]))) if self.nested else tuple(inner)

    @cached_property
    def repeats(self) -> bool:
        """Whether the number of values is unlimited."""
        return get_origin(self.type) is list or Ellipsis in get_args(self.type)

    @cached_property
    def nested(self) -> bool:
        """Whether each value is itself a tuple, as in a list of pairs."""
        return self.repeats and get_origin(_bare(get_args(self.type)[0])) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, if they are few and known."""
        kind = self.items[0] if self.kind == "many" else self.type
        if kind is Row:
            return tuple(map(str, KNOWN))
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()

    @cached_property
    def told(self) -> str:
        """All words of the setting's name, explanation and choices, in small letters."""
        return _plain(" ".join((self.key, self.text, *self.choices)))

    @property
    def lists_choices(self) -> bool:
        """Whether the choices are too long to show after the flag."""
        return len("|".join(self.choices)) > _SHORT

    @property
    def metavar(self) -> str:
        """Placeholder of the value in help texts: ``INT``, ``png|jpeg``, ``NUMBER NUMBER``, ``TEXT ...``."""
        kinds = self.items if self.kind == "many" else (self.type,)
        choices = "NAME" if self.lists_choices else "|".join(self.choices)
        words = " ".join(choices or ("MAPPING" if _is_mapping(kind) else _NAMES.get(kind, "TEXT")) for kind in kinds)
        return words + " ..." * self.repeats + "|none" * self.optional

    def read(self, flag: str, values: list[str]) -> Any:
        """Convert typed words to what pydantic reads: a string, a list of strings, a boolean or None.

        A model or a dictionary is typed as a YAML mapping in one word: ``'{epochs: 3}'``. Raises AttarError, naming
        ``flag``, for too many or too few words, or a word that is not a mapping.
        """
        if self.optional and [value.lower() for value in values] == ["none"]:
            return None
        if self.kind == "many":
            return self._read_many(flag, [] if values == [""] else values)
        if self.kind == "switch" and not values:
            return True
        value = one_value(flag, values)
        if not value and self.type is not str:
            raise AttarError(f"{flag} needs a value; write {flag} {self.metavar}.")
        return _mapping(flag, value, self.type) if _is_mapping(self.type) else value

    def _read_many(self, flag: str, values: list[str]) -> list[Any]:
        length = len(self.items)
        if len(values) % length if self.repeats else len(values) != length:
            raise AttarError(f"{flag} takes {self.metavar}, not {_joined(values)}.")
        if self.nested:
            return [values[start : start + length] for start in range(0, len(values), length)]
        return [_mapping(flag, value, self.items[0]) for value in values] if _is_mapping(self.items[0]) else values


def fields_of(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[Field]:
    """Return every setting of a model and of its groups, each group before its settings."""
    for name, info in model.model_fields.items():
        field = Field(prefix + name, info.annotation, " ".join((info.description or "").split()))
        yield field
        if field.kind == "group":
            yield from fields_of(field.type, f"{field.key}.")


def by_name(fields: Iterable[Field]) -> dict[str, Field]:
    """Return settings by every name that can be typed: their keys, and ``recover.no_flip`` for ``recover.flip no``."""
    fields = list(fields)
    off = {key_of(field.flag_off): field for field in fields if field.kind == "switch"}
    return off | {field.key: field for field in fields}


def with_words(fields: Iterable[Field], words: str) -> list[Field]:
    """Return the settings in whose name, explanation or choices each of the words begins a word."""
    asked = [_SHORT_FOR.get(word, word) for word in _plain(words).split()]
    return [
        field for field in fields if asked and field.kind != "group" and all(f" {word}" in field.told for word in asked)
    ]


def _plain(text: str) -> str:
    """Return the words in small letters, with a space before each."""
    return "".join(f" {word}" for word in re.findall("[a-z0-9]+", text.lower()))


def key_of(flag: str) -> str:
    """Return the key of a flag: ``recover.ipc_start`` for ``--recover.ipc-start``."""
    return flag.lstrip("-").replace("-", "_")


def one_value(flag: str, values: list[str]) -> str:
    """Return the only one of these words; raises AttarError for none or several."""
    if not values:
        raise AttarError(f"{flag} needs a value; write {flag} VALUE.")
    if len(values) > 1:
        raise AttarError(f"{flag} takes one value, not {_joined(values)}; leave out all but one, or quote the words.")
    return values[0]


def no_value(flag: str, values: list[str]) -> None:
    """Raise AttarError if a flag without a value has one."""
    if values:
        raise AttarError(f"{flag} takes no value; leave out {_joined(values)}.")


def _mapping(flag: str, word: str, kind: Any) -> dict[str, Any]:
    try:
        values = raw_yaml.convert(raw_yaml.load(word), kind)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise AttarError(f"{flag} takes a mapping in YAML, as in '{{key: value}}', not '{word}'.")
    return values


def _joined(values: list[str]) -> str:
    return " and ".join(f"'{value}'" for value in values) or "nothing"


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _is_mapping(kind: Any) -> bool:
    return _is_model(kind) or get_origin(kind) is dict
