"""Settings as a command line gives them: dotted names with values, and the recipe's name anywhere among them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic

from attar.core import plugin
from attar.core.config import Config
from attar.core.errors import AttarError
from attar.recipes.catalogue import header_of
from attar.recipes.recipe import Recipe, recipe_type
from attar.stages.methods import METHODS

Kind = Literal["flag", "one", "many", "group"]
"""A setting that may stand without a value, takes one, takes all that follow, or is a group of settings."""
_OPTIONS: dict[str, Kind] = {
    "--out": "one",
    "--method": "one",
    "--protocol": "one",
    "--quiet": "flag",
    "--plan": "flag",
}
_SWITCHES = {"true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0"}
_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Arguments:
    """What follows a verb that takes a recipe."""

    recipe: str = ""
    """Empty where only help is asked for."""
    options: dict[str, str] = field(default_factory=dict)
    """``--out``, ``--method`` and ``--protocol`` with their values; '' stands for those that are not given."""
    switches: frozenset[str] = frozenset()
    """Which of ``--quiet``, ``--plan`` and ``--help`` are there."""
    settings: list[str] = field(default_factory=list)
    """The rest."""


def split(verb: str, arguments: list[str]) -> Arguments:
    """Tell the recipe, the verb's own options and the recipe's settings apart, in whatever order they come.

    Of an option or a single value that is given twice the last one holds, so that scripts can append to defaults.
    Raises AttarError where there is no recipe or more than one.
    """
    recipe_first = bool(arguments) and not _is_flag(arguments[0])
    names: list[str] = []
    switches: set[str] = set()
    options: dict[str, str] = {}
    settings: list[str] = []
    greedy = ""
    place = 0
    while place < len(arguments):
        token = arguments[place]
        place += 1
        if not _is_flag(token):
            names.append(token)
        elif token in ("-h", "--help"):
            switches.add("--help")
        else:
            flag, equals, value = token.partition("=")
            kind = _OPTIONS.get(flag) or _kind_anywhere(_key(flag)) or ("many" if recipe_first else "one")
            values = [value] if equals else _following(arguments[place:], kind)
            place += 0 if equals else len(values)
            if flag not in _OPTIONS:
                settings += [token, *([] if equals else values)]
                greedy = flag if kind == "many" and values and not equals else greedy
            elif kind == "flag":
                if equals:
                    raise AttarError(f"{flag} takes no value; leave out '={value}'.")
                switches.add(flag)
            else:
                options[flag] = _single(flag, values)[0]
    if len(names) > 1:
        raise AttarError(
            f"'attar {verb}' takes one recipe and nothing else without a name, not '{names[0]}' and '{names[1]}'; "
            f"a setting is --KEY VALUE, and takes several values only where it is a list."
        )
    if not names and "--help" not in switches:
        hint = f", before {greedy}, which takes every word after it" if greedy else ""
        raise AttarError(f"'attar {verb}' needs a recipe: a name from 'attar list recipes', or a YAML file{hint}.")
    return Arguments("".join(names), options, frozenset(switches), settings)


def with_settings(recipe: Recipe[Any], settings: list[str], prog: str) -> Recipe[Any]:
    """The recipe with these settings, as a command line gives them; scripts use it too.

    With ``--help`` among them it prints every setting and ends. Raises AttarError with one sentence on the first
    mistake; ``prog`` is the command whose help it points to.
    """
    asked = [setting for setting in settings if setting not in ("-h", "--help")]
    recipe = _changed(recipe, _tree(type(recipe), asked, prog), (), prog)
    if len(asked) < len(settings):
        import tyro

        description = header_of(prog.split()[-1]).replace("\n", "\n\n")  # tyro joins single lines
        config = (tyro.conf.FlagConversionOff,)
        tyro.cli(type(recipe), default=recipe, args=["--help"], prog=prog, description=description, config=config)
    return recipe


def _tree(model: type[Config], settings: list[str], prog: str) -> dict[str, Any]:
    """Plain values by nested keys."""
    kinds, found = dict(_fields(model)), dict[str, Any]()
    said: dict[str, Any] = {}
    for flag, values in _groups(settings, lambda key: _kind(kinds[key]) if key in kinds else "many"):
        key, values = _switched_off(flag, values, kinds)
        if key not in kinds:
            raise plugin.unknown("setting", flag, [_flag(known) for known in kinds])
        if _kind(kinds[key]) == "group":
            mend = (
                "'attar run' and its like take --protocol NAME"
                if key == "evaluate.protocol"
                else f"see '{prog} --help'"
            )
            raise AttarError(f"{flag} is a group of settings; {mend}.")
        value = _value(flag, values, kinds[key])
        if key in said and said[key] != value and isinstance(value, list):
            together = " ".join(map(str, (*said[key], *values))) if isinstance(said[key], list) else "..."
            raise AttarError(f"{flag} is given twice; give it once with all of its values: {flag} {together}.")
        said[key] = value
        inner = found
        *path, name = key.split(".")
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return found


def _groups(settings: list[str], kind_of: Callable[[str], Kind]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with its values."""
    place = 0
    while place < len(settings):
        flag, equals, value = settings[place].partition("=")
        place += 1
        if not _is_flag(flag):
            raise AttarError(f"'{settings[place - 1]}' stands alone; a setting is --KEY VALUE.")
        values = [value] if equals else _following(settings[place:], kind_of(_key(flag)))
        place += 0 if equals else len(values)
        yield flag, values


def _following(rest: list[str], kind: Kind) -> list[str]:
    """Those of the next words that belong to a flag of this kind."""
    until = next((place for place, word in enumerate(rest) if _is_flag(word)), len(rest))
    if kind == "flag":
        until = min(until, 1) if rest and rest[0].lower() in _SWITCHES else 0
    return rest[: min(until, 1) if kind in ("one", "group") else until]


def _switched_off(flag: str, values: list[str], kinds: dict[str, Any]) -> tuple[str, list[str]]:
    """The key and its values, ``--recover.no-flip`` being ``--recover.flip false``."""
    key = _key(flag)
    *path, name = key.split(".")
    positive = ".".join([*path, name.removeprefix("no_")])
    if key in kinds or not name.startswith("no_") or kinds.get(positive) is not bool:
        return key, values
    if values:
        raise AttarError(f"{flag} takes no value; leave out '{values[0]}'.")
    return positive, ["false"]


def _value(flag: str, values: list[str], annotation: Any) -> Any:
    """What pydantic is to read: a string, a list of them, True, or None."""
    optional, inner = _without_none(annotation)
    if optional and [value.lower() for value in values] == ["none"]:
        return None
    kind = _kind(annotation)
    if kind == "flag":
        return values[0] if values else True
    if kind == "one":
        return _single(flag, values)[0]
    element = next(iter(get_args(inner)), str)
    if get_origin(element) is tuple:  # pairs, one after the other
        length = len(get_args(element))
        return [values[start : start + length] for start in range(0, len(values), length)]
    return values


def _single(flag: str, values: list[str]) -> list[str]:
    if not values:
        raise AttarError(f"{flag} needs a value; write {flag} VALUE.")
    return values


def _changed(model: Any, tree: dict[str, Any], path: tuple[str, ...], prog: str) -> Any:
    """A copy of the settings with those of ``tree``, group by group, so that a fault is told of the smallest one."""
    if not tree:
        return model
    values = {
        key: _changed(getattr(model, key), value, (*path, key), prog) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
    try:
        return model.changed(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join((*path, *(part for part in first["loc"] if isinstance(part, str))))
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        given = first["input"]
        shown = f" (it is {given!r})" if isinstance(given, str) and given not in message else ""
        raise AttarError(f"{_flag(key) + ': ' if key else ''}{message}{shown}; see '{prog} --help'.") from None


def _fields(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, dotted, with its type."""
    for name, info in model.model_fields.items():
        yield prefix + name, info.annotation
        if _kind(info.annotation) == "group":
            yield from _fields(info.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


@cache
def _kind_anywhere(key: str) -> Kind | None:
    """The kind of a setting of any built-in method, for a recipe that is not known yet; None where there is none."""
    for method in plugin.names_in(METHODS) if key.startswith("recover.") else ["cda"]:
        kinds = dict(_fields(recipe_type(method)))
        if key in kinds:
            return _kind(kinds[key])
        *path, name = key.split(".")
        if name.startswith("no_") and kinds.get(".".join([*path, name.removeprefix("no_")])) is bool:
            return "flag"
    return None


def _kind(annotation: Any) -> Kind:
    _, inner = _without_none(annotation)
    if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
        return "group"
    if get_origin(inner) in (tuple, list):
        return "many"
    return "flag" if inner is bool else "one"


def _without_none(annotation: Any) -> tuple[bool, Any]:
    """Whether None is allowed, and the type beside it."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = get_args(annotation)
    if type(None) not in parts:
        return False, annotation
    return True, next(part for part in parts if part is not type(None))


def _is_flag(token: str) -> bool:
    return token.startswith("-") and len(token) > 1 and not _NUMBER.match(token)


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
