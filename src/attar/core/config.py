"""The base of every configuration: choices with help texts, and what identifies the result of them.

A result is identified by the values that can alter it. A field at its default is left out of that identity, so a class
can gain a field and finished work stays valid. Three things are said in the class itself: a field that alters nothing
is ``Annotated[..., NO_EFFECT]``; a field that names a file or folder is ``Annotated[..., BY_CONTENT]``; and a field
that does nothing beside another one's value is named by ``idle``. Raise ``revision`` when a default changes.
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
"""Pydantic's names of kinds of values, and those that users know."""
REVISION = "revision"
"""The key under which an identity holds the revision of a class, once it is above 1."""


class Effect(Enum):
    """What a field has to do with the result, where its value is not simply a part of what identifies it."""

    NO_EFFECT = "none"
    BY_CONTENT = "content"


NO_EFFECT = Effect.NO_EFFECT
"""Marks a field that alters no result: how often to save, a metric to measure, a check to skip."""
BY_CONTENT = Effect.BY_CONTENT
"""Marks a path, or several: of the field itself only whether and how many there are is a part of the identity.

The stage that reads the files adds a hash of their content to its parents."""


class Config(pydantic.BaseModel):
    """A frozen set of named choices; the string under a field is its help text and its documentation."""

    revision: ClassVar[int] = 1
    """Raise it when a default changes, or what a value means: results made before are then other work."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from plain values; ``where`` (a file, "the command line") is named in the error.

        Raises AttarError with one sentence on the first thing wrong: an unknown key or an unfit value.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise AttarError(explain(error, where, cls)) from None

    def plain(self) -> dict[str, Any]:
        """The same choices as plain JSON values, every default written out."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def changed(self, **values: Any) -> Self:
        """A copy with these fields replaced, validated again; only they count as set besides those set before."""
        merged: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields} | values
        return type(self).model_validate(merged).with_set(self.model_fields_set | values.keys())

    def with_set(self, names: set[str]) -> Self:
        """The same choices, of which ``names`` alone count as set; the others count as defaults."""
        return type(self).model_construct(_fields_set=names, **{key: getattr(self, key) for key in self._names()})

    def idle(self) -> set[str]:
        """Names of fields that have no effect beside the other fields' values; none unless a class says so."""
        return set()

    @classmethod
    def upgraded(cls, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values from an earlier manifest under today's names; a class that renames or moves a field overrides this."""
        return made

    def recorded(self) -> dict[str, Any]:
        """What a manifest holds: the plain value of every field that can alter the result, defaults written out."""
        return self._said(lambda one: one.recorded()) | self._revised()

    def identity(self) -> dict[str, Any]:
        """What identifies the result: as ``recorded``, without the fields that stand at their default.

        Results of equal identities are equal, whichever fields the class had when they were made.
        """
        said = self._said(lambda one: one.identity())
        return {name: value for name, value in said.items() if not self._is_default(name, value)} | self._revised()

    def unlike(self, made: Any, key: str = "") -> list[str]:
        """How this work differs from that of a manifest's values: one ``key old -> new`` for each difference.

        A field that the manifest lacks is newer than it, and had the effect of its default. A field of the manifest
        that no longer exists is passed over; ``gone`` finds those that mattered. ``key`` stands before every name.
        """
        made = self.upgraded(made) if isinstance(made, Mapping) else {}
        lines = [] if made.get(REVISION, 1) == self.revision else [f"the defaults of {key or 'these settings'} changed"]
        said = self._said(lambda one: one.identity())
        for name, now in self._said(lambda one: one.recorded()).items():
            below, value = _below(key, name), getattr(self, name)
            if name in made and isinstance(value, Config):
                lines += value.unlike(made[name], below)
            elif name in made:
                lines += differences(made[name], now, below)
            elif not self._is_default(name, said[name]):
                lines += differences(self._default(name, lambda one: one.recorded()), now, below)
        return lines

    def gone(self, made: Any, key: str = "") -> list[str]:
        """Settings in a manifest's identity that no longer exist, each with the value that it had."""
        found: list[str] = []
        for name, value in (self.upgraded(made) if isinstance(made, Mapping) else {}).items():
            if name in self._names():
                inner = getattr(self, name)
                found += inner.gone(value, _below(key, name)) if isinstance(inner, Config) else []
            elif name != REVISION:
                found.append(f"{_below(key, name)} {_short(value)}, which no longer exists")
        return found

    def as_made(self, made: Mapping[str, Any], where: str) -> Self:
        """These choices with the values of a manifest, which is named ``where`` in the error.

        What alters nothing stays as it is here, and so does where files lie. A field that the manifest lacks is at its
        default.
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

    def _said(self, say: "Callable[[Config], Any]") -> dict[str, Any]:
        """The plain values of the fields that can alter the result; ``say`` speaks for models inside this one."""
        idle, plain, found = self.idle(), self.plain(), dict[str, Any]()
        for name, field in type(self).model_fields.items():
            effect = effect_of(field)
            if effect is NO_EFFECT or name in idle:
                continue
            found[name] = _named(plain[name]) if effect is BY_CONTENT else _each(getattr(self, name), plain[name], say)
        return found

    def _is_default(self, name: str, said: Any) -> bool:
        """Whether what an identity would say of a field can be left out of it."""
        required = type(self).model_fields[name].is_required()
        return not required and not _has_revision(said) and said == self._default(name, lambda one: one.identity())

    def _default(self, name: str, say: Callable[["Config"], Any]) -> Any:
        """What ``_said`` says of a field at its default; None where it has none."""
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
    """How a field is marked; None where its value is a part of what identifies the result."""
    return next((mark for mark in field.metadata if isinstance(mark, Effect)), None)


def _named(plain: Any) -> bool | int:
    """What an identity holds of paths: whether there is one, or how many there are."""
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
    """The first fault of a failed validation as one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(field_paths(model)), n=1, cutoff=0.5)
        mend = f"did you mean '{near[0]}'?" if near else "remove it, or see 'attar show RECIPE' for the keys there are."
        return f"{where} has the unknown key '{key}'; {mend}"
    if first["type"] == "missing":
        return f"{where} lacks the key '{key}'; add it, or start from 'attar show RECIPE > mine.yaml'."
    mend = "; put it in quotes" if first["type"] == "string_type" else ""
    return f"{where}: {worded(first, key)}{mend}."


def worded(fault: Mapping[str, Any], name: str) -> str:
    """One of pydantic's errors about the value called ``name``, in plain words and without a full stop.

    As in "ipc must be a whole number, not 'few'"; a validator's own sentence stands after the name and a colon.
    """
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    wanted = re.sub(r"^Input should be |, (unable|got) .*", "", message)
    if not name or wanted == message:
        return f"{name}: {message}" if name else message
    value = fault["input"]
    shown = f", not {value!r}" if value is None or isinstance(value, str | int | float | list | tuple) else ""
    return f"{name} must be {_KINDS.get(re.sub(r' or instance of .*', '', wanted), wanted)}{shown}"


def field_paths(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a model and of the models inside it, dotted, as the command line writes them."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from field_paths(field.annotation, f"{prefix}{name}.")


def digest(value: Any) -> str:
    """A SHA-256 of plain JSON values, independent of key order and spacing."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """What changed between two plain values, one ``key: old -> new`` a leaf."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(name for name in now if name not in before)]
        return [line for name in keys for line in differences(before.get(name), now.get(name), _below(key, str(name)))]
    return [] if before == now else [f"{key} {_short(before)} -> {_short(now)}"]


def pruned(before: Any, now: Any) -> Any:
    """A plain value without the keys that ``now`` does not have: what is no choice any more cannot differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: pruned(value, now[key]) for key, value in before.items() if key in now}
    return before


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
