"""Read YAML so that unquoted scalars keep their spelling in text fields: ``no`` is a class name there, not False."""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
import yaml

MOST_VALUES = 1_000_000
"""A recipe for 21,000 classes has far fewer."""


class RawScalar:
    """An unquoted scalar that YAML does not read as text (a number, boolean, date or null), with its spelling."""

    def __init__(self, text: str, value: Any) -> None:
        self.text = text
        self.value = value


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that returns such scalars as ``RawScalar``."""


def _raw_scalar(loader: _Loader, node: yaml.ScalarNode) -> RawScalar | str:
    try:
        return RawScalar(node.value, yaml.SafeLoader.yaml_constructors[node.tag](loader, node))
    except ValueError:  # looks like a date but is not one, for example 2024-13-45
        return node.value


for _kind in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _raw_scalar)


def load(text: str) -> Any:
    """Parse YAML; unquoted scalars become ``RawScalar``.

    Raises yaml.YAMLError, also when aliases or nesting would make it larger than ``MOST_VALUES`` or endless.
    """
    try:
        if "*" in text and _num_values(yaml.compose(text, Loader=_Loader), {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return yaml.load(text, Loader=_Loader)  # it is a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply, or an alias stands for itself") from None


def _num_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many values a node has when every alias is written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


def plain(value: Any) -> Any:
    """Replace every ``RawScalar`` by its YAML value, but keep the spelling of mapping keys."""
    if isinstance(value, RawScalar):
        return value.value
    if isinstance(value, dict):
        return {_key(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def convert(value: Any, kind: Any, *, listed: bool = False) -> Any:
    """Convert parsed YAML for a field of type ``kind``: a scalar keeps its spelling if the field takes text.

    ``listed`` marks items of a list: there null is text, such as a class name. Elsewhere null is None.
    """
    arms = _arms(kind)
    if isinstance(value, RawScalar):
        takes_value = any(isinstance(arm, type) and _is_of(value.value, arm) for arm in arms)
        as_text = not takes_value and any(map(_is_text, arms)) and (listed or value.value is not None)
        return value.text if as_text else value.value
    if isinstance(value, dict):
        models = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, pydantic.BaseModel)]
        return _mapping(value, models[0]) if len(models) == 1 else plain(value)
    if isinstance(value, list):
        inner = [_item(arm) for arm in arms if typing.get_origin(arm) in (tuple, list)]
        return [convert(item, inner[0] if inner else Any, listed=True) for item in value]
    return value


def _mapping(values: Mapping[Any, Any], model: type[pydantic.BaseModel]) -> dict[str, Any]:
    fields = model.model_fields
    named = {_key(key): value for key, value in values.items()}
    return {
        key: convert(value, fields[key].annotation) if key in fields else plain(value) for key, value in named.items()
    }


def _key(key: Any) -> Any:
    return key.text if isinstance(key, RawScalar) else key


def _arms(kind: Any) -> list[Any]:
    """Return the members of a union, also inside Annotated; for other types the type itself."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _arms(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [arm for one in typing.get_args(kind) for arm in _arms(one)]
    return [kind]


def _item(kind: Any) -> Any:
    return (*typing.get_args(kind), Any)[0]


def _is_text(kind: Any) -> bool:
    return kind is str or (
        typing.get_origin(kind) is Literal and all(isinstance(one, str) for one in typing.get_args(kind))
    )


def _is_of(value: Any, kind: type) -> bool:
    """Return whether pydantic accepts a value for this type: integers count as floats, booleans not as numbers."""
    if isinstance(value, bool):
        return kind is bool
    return (kind is float and isinstance(value, int)) or (kind is not object and type(value) is kind)
