"""The base of every configuration, and what recipes, manifests and the command line need from it."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

import pydantic

from attar.core.errors import AttarError


class Config(pydantic.BaseModel):
    """A frozen set of named choices; the string under a field is its help text and its documentation."""

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
        """A copy with these fields replaced, validated again."""
        merged: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields} | values
        return type(self).model_validate(merged)


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
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    shown = f" (it is {first['input']!r})" if isinstance(first["input"], str | int | float | bool | None) else ""
    mend = "; write it in quotes if it is text" if first["type"] == "string_type" else ""
    return f"{where}: {key + ': ' if key else ''}{message}{shown}{mend}."


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
        return [
            line
            for name in keys
            for line in differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if before == now else [f"{key} {_short(before)} -> {_short(now)}"]


def pruned(before: Any, now: Any) -> Any:
    """A plain value without the keys that ``now`` does not have: what is no choice any more cannot differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: pruned(value, now[key]) for key, value in before.items() if key in now}
    return before


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
