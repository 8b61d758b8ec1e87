"""YAML whose plain words stay as they are written where text is wanted: no is a class name, not False."""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
import yaml


class Written:
    """A plain word that YAML takes for something else than text: a number, a truth value, a date, or nothing."""

    def __init__(self, text: str, value: Any) -> None:
        self.text = text
        self.value = value


class _Loader(yaml.SafeLoader):
    """YAML without tags of its own, where such words keep their spelling."""


def _written(loader: _Loader, node: yaml.ScalarNode) -> Written | str:
    try:
        return Written(node.value, yaml.SafeLoader.yaml_constructors[node.tag](loader, node))
    except ValueError:  # looks like a date and is none, as 2024-13-45
        return node.value


for _kind in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _written)


def load(text: str) -> Any:
    """The content of a YAML text, with ``Written`` in it; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # it is a SafeLoader


def plain(value: Any) -> Any:
    """The content as YAML means it; the keys of mappings as they are written."""
    if isinstance(value, Written):
        return value.value
    if isinstance(value, dict):
        return {_key(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def fitting(value: Any, kind: Any, *, listed: bool = False) -> Any:
    """The content for a field of this type: words as they are written where it takes text, else as YAML means them.

    ``listed`` words are items of a list, in which null may be a name; alone it is nothing.
    """
    arms = _arms(kind)
    if isinstance(value, Written):
        means_it = any(isinstance(arm, type) and _is_of(value.value, arm) for arm in arms)
        as_text = not means_it and any(map(_is_text, arms)) and (listed or value.value is not None)
        return value.text if as_text else value.value
    if isinstance(value, dict):
        models = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, pydantic.BaseModel)]
        return _mapping(value, models[0]) if len(models) == 1 else plain(value)
    if isinstance(value, list):
        inner = [_item(arm) for arm in arms if typing.get_origin(arm) in (tuple, list)]
        return [fitting(item, inner[0] if inner else Any, listed=True) for item in value]
    return value


def _mapping(values: Mapping[Any, Any], model: type[pydantic.BaseModel]) -> dict[str, Any]:
    fields = model.model_fields
    named = {_key(key): value for key, value in values.items()}
    return {
        key: fitting(value, fields[key].annotation) if key in fields else plain(value) for key, value in named.items()
    }


def _key(key: Any) -> Any:
    return key.text if isinstance(key, Written) else key


def _arms(kind: Any) -> list[Any]:
    """The types of a union, of what is annotated, or the type itself."""
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
    """Whether a value is of this type, as pydantic takes it: whole numbers are floats, truth values no numbers."""
    if isinstance(value, bool):
        return kind is bool
    return (kind is float and isinstance(value, int)) or (kind is not object and type(value) is kind)
