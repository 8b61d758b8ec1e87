"""Base class of all configurations: settings with help texts, and the identity of their results.

The identity of a result is the values that can change it. It leaves out fields at their default, so that a class can
gain a field and finished work stays valid. Mark a field that never changes a result ``Annotated[..., NO_EFFECT]``, and
a path of a file or folder ``Annotated[..., BY_CONTENT]``. Return the fields that have no effect because of another
field's value from ``idle``. Raise ``revision`` when a default changes.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, ClassVar, Self

import pydantic
import pydantic_core
from pydantic.fields import FieldInfo

from attar.core.errors import AttarError

_KINDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "yes or no",
    "a valid string": "text",
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping",
}
"""Pydantic's names of value types, and the names that users know."""
REVISION = "revision"
"""Key of the class's revision in an identity, if it is above 1."""


class Effect(Enum):
    """How a field affects the result's identity, if not simply by its value."""

    NO_EFFECT = "none"
    BY_CONTENT = "content"


NO_EFFECT = Effect.NO_EFFECT
"""Marks a field that changes no result: how often to save, a metric to measure, a check to skip."""
BY_CONTENT = Effect.BY_CONTENT
"""Marks one or several paths. The identity contains only how many there are; the stage that reads the files adds a hash
of their content to its parents."""


class Config(pydantic.BaseModel):
    """A frozen set of settings; the string under a field is its help text and its documentation."""

    revision: ClassVar[int] = 1
    """Raise it when a default or the meaning of a value changes: earlier results are then not reused."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from plain values; errors mention ``where``, such as a file or "the command line".

        Raises AttarError with one sentence on the first error: an unknown key or an invalid value.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise AttarError(explain(error, where, cls)) from None

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, with all defaults."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with these fields replaced; the replaced fields count as set, too."""
        merged: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields} | values
        return type(self).model_validate(merged).with_set(self.model_fields_set | values.keys())

    def with_set(self, names: set[str]) -> Self:
        """Return a copy in which only ``names`` count as set; the other fields count as defaults."""
        return type(self).model_construct(_fields_set=names, **{key: getattr(self, key) for key in self._names()})

    def idle(self) -> dict[str, str]:
        """Return the fields that have no effect because of other fields' values, each with what would make it count.

        By default none. The words continue the sentence "it counts only with ..."; settings in them are written as
        flags without their group, such as '--target mixed'.
        """
        return {}

    @classmethod
    def upgraded(cls, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an earlier manifest's values under today's names; override it in a class that renames a field."""
        return made

    def recorded(self) -> dict[str, Any]:
        """Return the plain values for a manifest: all fields that can change the result, with defaults."""
        return self._values(lambda one: one.recorded()) | self._revised()

    def identity(self) -> dict[str, Any]:
        """Return the identity of the result: ``recorded`` without fields at their default.

        Equal identities mean equal results, even if the class had other fields when one of them was made.
        """
        said = self._values(lambda one: one.identity())
        return {name: value for name, value in said.items() if not self._is_default(name, value)} | self._revised()

    def unlike(self, made: Any, key: str = "") -> list[str]:
        """Return the differences from a manifest's values, each as ``key old -> new``.

        A field that is missing in the manifest is newer and counts as its default. Fields that no longer exist are
        ignored; ``gone`` returns those that mattered. ``key`` is put before every name.
        """
        made = self.upgraded(made) if isinstance(made, Mapping) else {}
        lines = [] if made.get(REVISION, 1) == self.revision else [f"the defaults of {key or 'these settings'} changed"]
        said = self._values(lambda one: one.identity())
        for name, now in self._values(lambda one: one.recorded()).items():
            below, value = _below(key, name), getattr(self, name)
            if name in made and isinstance(value, Config):
                lines += value.unlike(made[name], below)
            elif name in made:
                lines += differences(made[name], now, below)
            elif not self._is_default(name, said[name]):
                lines += differences(self._default(name, lambda one: one.recorded()), now, below)
        return lines

    def gone(self, made: Any, key: str = "") -> list[str]:
        """Return the settings in a manifest's identity that no longer exist, each with its value."""
        found: list[str] = []
        for name, value in (self.upgraded(made) if isinstance(made, Mapping) else {}).items():
            if name in self._names():
                inner = getattr(self, name)
                found += inner.gone(value, _below(key, name)) if isinstance(inner, Config) else []
            elif name != REVISION:
                found.append(f"{_below(key, name)} {_short(value)}, which no longer exists")
        return found

    def as_made(self, made: Mapping[str, Any], where: str) -> Self:
        """Return these settings with the values of a manifest; errors call the manifest ``where``.

        Fields that change no result, and paths, keep the values they have here. A field that is missing in the manifest
        gets its default.
        """
        made, values = self.upgraded(made), dict[str, Any]()
        for name, field in type(self).model_fields.items():
            own = getattr(self, name)
            if effect_of(field) is not None or (name not in made and field.is_required()):
                values[name] = own
            elif made.get(name) is not None or (name in made and not isinstance(own, Config)):
                values[name] = own.as_made(made[name], where) if isinstance(own, Config) else made[name]
        return self.of(values, where)

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(cls.model_fields)

    def _values(self, say: "Callable[[Config], Any]") -> dict[str, Any]:
        """Return the plain values of the fields that can change the result; ``say`` converts the models inside."""
        idle, plain, found = self.idle(), self.plain(), dict[str, Any]()
        for name, field in type(self).model_fields.items():
            effect = effect_of(field)
            if effect is NO_EFFECT or name in idle:
                continue
            found[name] = _named(plain[name]) if effect is BY_CONTENT else _each(getattr(self, name), plain[name], say)
        return found

    def _is_default(self, name: str, said: Any) -> bool:
        """Return whether an identity can leave out a field with this plain value."""
        required = type(self).model_fields[name].is_required()
        return not required and not _has_revision(said) and said == self._default(name, lambda one: one.identity())

    def _default(self, name: str, say: Callable[["Config"], Any]) -> Any:
        """Return the plain value of a field's default; None if it has no default."""
        field = type(self).model_fields[name]
        if field.is_required():
            return None
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Config):
            return say(default)
        plain = pydantic_core.to_jsonable_python(default, serialize_unknown=True)
        return _named(plain) if effect_of(field) is BY_CONTENT else _each(default, plain, say)

    def _revised(self) -> dict[str, int]:
        return {REVISION: self.revision} if self.revision > 1 else {}


def effect_of(field: FieldInfo) -> Effect | None:
    """Return a field's mark; None if its value is part of the identity."""
    return next((mark for mark in field.metadata if isinstance(mark, Effect)), None)


def _named(plain: Any) -> bool | int:
    """Return what an identity contains of paths: whether one is set, or how many are."""
    return len(plain) if isinstance(plain, list) else bool(plain)


def _each(value: Any, plain: Any, say: Callable[[Config], Any]) -> Any:
    if isinstance(value, Config):
        return say(value)
    if isinstance(value, tuple) and any(isinstance(one, Config) for one in value):
        return [_each(one, part, say) for one, part in zip(value, plain, strict=True)]
    return plain


def _has_revision(said: Any) -> bool:
    if isinstance(said, list):
        return any(map(_has_revision, said))
    return isinstance(said, dict) and (REVISION in said or any(map(_has_revision, said.values())))


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def explain(error: pydantic.ValidationError, where: str, model: type[pydantic.BaseModel]) -> str:
    """Return the first error of a failed validation as one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(field_paths(model)), n=1, cutoff=0.5)
        fix = f"did you mean '{near[0]}'?" if near else "remove it; 'attar show RECIPE' prints all keys."
        return f"{where} has the unknown key '{key}'; {fix}"
    if first["type"] == "missing":
        return f"{where} lacks the key '{key}'; add it, or start from 'attar show RECIPE > mine.yaml'."
    fix = "; put it in quotes" if first["type"] == "string_type" else ""
    return f"{where}: {worded(first, key)}{fix}."


def worded(fault: Mapping[str, Any], name: str) -> str:
    """Return a pydantic error about the value called ``name`` in plain words, without a full stop.

    Example: "ipc must be a whole number, not 'few'". A validator's own sentence follows the name and a colon.
    """
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    wanted = re.sub(r"^Input should be |, (unable|got) .*", "", message)
    if not name or wanted == message:
        return f"{name}: {message}" if name else message
    value = fault["input"]
    shown = f", not {value!r}" if value is None or isinstance(value, str | int | float | list | tuple) else ""
    return f"{name} must be {_KINDS.get(re.sub(r' or instance of .*', '', wanted), wanted)}{shown}"


def field_paths(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield all keys of a model and of the models inside it, with dots, as on the command line."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from field_paths(field.annotation, f"{prefix}{name}.")


def digest(value: Any) -> str:
    """Return a SHA-256 of plain JSON values, independent of key order and spacing."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Return the differences of two plain values, each as ``key old -> new``."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(name for name in now if name not in before)]
        return [line for name in keys for line in differences(before.get(name), now.get(name), _below(key, str(name)))]
    return [] if before == now else [f"{key} {_short(before)} -> {_short(now)}"]


def pruned(before: Any, now: Any) -> Any:
    """Return a plain value without the keys that ``now`` lacks: settings that no longer exist are ignored."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: pruned(value, now[key]) for key, value in before.items() if key in now}
    return before


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
