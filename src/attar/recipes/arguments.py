"""Parse the words after a verb that takes a recipe: the recipe, the verb's own options, and dotted settings."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import pydantic

from attar.core import plugin
from attar.core.config import Config, worded
from attar.core.errors import AttarError
from attar.recipes.fields import Field, by_name, fields_of, key_of, no_value, one_value, with_words
from attar.recipes.recipe import Recipe, recipe_type
from attar.stages.asked import asks_teachers
from attar.stages.methods import METHODS, method_named
from attar.stages.rows import FULL, use_soft_labels
from attar.synthesis.method import Needs

_STUDENT_EPOCHS, _LABEL_EPOCHS = "evaluate.protocol.training.epochs", "relabel.epochs"
Pair = tuple[str, list[str]]
"""A flag as typed, without '=', and its values."""
_SWITCH_WORDS = {"true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0"}
_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
_SEVERAL = ("--methods", "--budgets")
"""Options of 'attar compare' that take every word up to the next flag."""
_OPTIONS = ("--out", "--budget", "--ipc", "--launcher", "--address")
"""Options of a verb with one value."""
_BEFORE_SETTINGS = ("--method", "--protocol")
"""These two flags replace whole groups of settings, so they are applied before other settings, in any typed order."""


@dataclass(frozen=True)
class Arguments:
    """Parsed words after a verb that takes a recipe."""

    recipe: str = ""
    """The recipe as typed; empty if only help is requested."""
    out: str = ""
    """The value of ``--out``."""
    budget: str = ""
    """The value of ``--budget``."""
    ipc: str = ""
    """The value of ``--ipc``."""
    launcher: str = ""
    """The value of ``--launcher``."""
    address: str = ""
    """The value of ``--address``."""
    quiet: bool = False
    plan: bool = False
    help: str | None = None
    """The words after ``--help``; '' without a word, None if no help is requested."""
    settings: tuple[Pair, ...] = ()
    """All other flags, in the order typed."""
    own_teachers: tuple[int, ...] = ()
    """Bytes of each network that a program hands over as a teacher, as it is stored."""


def split(verb: str, words: list[str]) -> Arguments:
    """Separate the recipe, the verb's own options and the recipe's settings, in any order.

    Raises AttarError when there is no recipe or more than one, or an option has too many or too few values.
    """
    recipe_first = bool(words) and not _is_flag(words[0])
    names: list[str] = []
    found: dict[str, Any] = {}
    settings: list[Pair] = []
    for flag, values in _pairs(words, _all if recipe_first else _own):
        if not flag:
            names += values
        elif flag in _OPTIONS:
            found[flag.removeprefix("--")] = one_value(flag, values)
        elif flag in ("--quiet", "--plan"):
            no_value(flag, values)
            found[flag.removeprefix("--")] = True
        elif flag in ("-h", "--help"):
            found["help"] = " ".join(values)
        else:
            settings.append((flag, values))
    if len(names) > 1:
        raise AttarError(
            f"'attar {verb}' takes one recipe, not both '{names[0]}' and '{names[1]}'; write settings as {_as_setting(names[1])}."
        )
    if not names and found.get("help") != "":
        greedy = [flag for flag, values in settings if len(values) > 1]
        hint = f"; write it first, because {greedy[-1]} takes every word after it" if greedy else ""
        raise AttarError(
            f"'attar {verb}' needs a recipe, as in 'attar {verb} digits': a name from 'attar list recipes' or a YAML "
            f"file{hint}."
        )
    return Arguments("".join(names), settings=tuple(settings), **found)


def with_settings(recipe: Recipe[Any], words: list[str], prog: str) -> Recipe[Any]:
    """Return the recipe changed by settings from a command line; for scripts that take such settings too.

    Raises AttarError with one sentence on the first mistake; ``prog`` is the command whose ``--help`` it names.
    """
    return changed_by(recipe, _pairs(words, _all), prog)


def changed_by(recipe: Recipe[Any], pairs: Iterable[Pair], prog: str) -> Recipe[Any]:
    """Apply the method, then the protocol, then all other settings to the recipe; of repeated settings the last counts.

    Raises AttarError with one sentence on the first mistake; ``prog`` is the command whose ``--help`` it names.
    """
    pairs = list(pairs)
    first = {flag: one_value(flag, values) for flag, values in pairs if flag in _BEFORE_SETTINGS}
    method = first.get("--method", recipe.method)
    if "." in method and method != recipe.method:
        plugin.reach_working_folder()
    kind = type(recipe) if method == recipe.method else recipe_type(method)
    tree = _tree([pair for pair in pairs if pair[0] not in first], kind, method, prog)
    try:
        recipe = recipe.with_method_and(method, tree.get("recover", {}))
    except pydantic.ValidationError as error:
        raise AttarError(_fault(error, ("recover",), prog)) from None
    if "--protocol" in first:
        recipe = recipe.with_protocol(first["--protocol"])
    return _changed(recipe, _with_labels(recipe, tree), (), prog)


def labels_follow(before: Recipe[Any], after: Recipe[Any], pairs: Iterable[Pair]) -> str:
    """Return a sentence if the epochs of labels were changed with those of students; '' if they were not."""
    was, now = before.relabel.epochs, after.relabel.epochs
    typed = {key_of(flag) for flag, _ in pairs}
    if (
        not use_soft_labels(after.evaluate.rows)
        or after.relabel.mode != "stored"
        or was == now
        or _STUDENT_EPOCHS not in typed
        or typed & {_LABEL_EPOCHS, "protocol"}
    ):
        return ""
    return f"labels are made for {now} epochs, not {was}, as students train; --relabel.epochs chooses another number"


def without_effect(recipe: Recipe[Any], pairs: Iterable[Pair], *, squeezes: bool = False) -> list[str]:
    """Return a sentence for each typed setting that has no effect because of the recipe's other settings.

    ``squeezes`` says that teachers are trained even if nothing asks one, as 'attar squeeze' does.
    """
    fields, found = by_name(fields_of(type(recipe))), list[str]()
    trains_fully = recipe.evaluate.full_data == "train" and FULL in recipe.evaluate.rows  # by the teacher's settings
    needs = Needs(teachers="none") if recipe.images else recipe.recover.needs()
    trains_none = not squeezes and not asks_teachers(needs, recipe.relabel, recipe.evaluate)
    for flag in dict.fromkeys(flag for flag, _ in pairs):
        field = fields.get(key_of(flag))
        if field is None or (trains_fully and field.key.startswith("squeeze.")):
            continue
        if trains_none and field.key.startswith("squeeze.") and not field.key.startswith("squeeze.experts."):
            found.append(f"{flag} has no effect: no teacher is asked, so none is trained")
            continue
        group: Config = recipe
        names = field.key.split(".")
        for depth, name in enumerate(names):
            if (needed := group.idle().get(name)) is not None:
                needed = re.sub("--(?=[a-z])", f"--{'.'.join(names[:depth])}.", needed)
                found.append(f"{flag} has no effect: it counts only with {needed}")
                break
            group = getattr(group, name)
            if not isinstance(group, Config):
                break
    return found


def _with_labels(recipe: Recipe[Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Add to typed settings that labels are made for as many epochs as students train, if that was so before.

    A pool of labels that is larger than that becomes as large. Epochs of labels that are typed count.
    """
    epochs = tree.get("evaluate", {}).get("protocol", {}).get("training", {}).get("epochs")
    labels, was = tree.get("relabel", {}), recipe.evaluate.protocol.training.epochs
    if epochs is None or "epochs" in labels or recipe.relabel.epochs != was or not str(epochs).isdecimal():
        return tree
    pool = {} if "pool_epochs" in labels else {"pool_epochs": min(recipe.relabel.pool_epochs, int(epochs))}
    return {**tree, "relabel": {**labels, "epochs": epochs, **pool}}


def _tree(pairs: Iterable[Pair], kind: type[Recipe[Any]], method: str, prog: str) -> dict[str, Any]:
    """Return typed settings of a recipe with this method as nested dictionaries, in the form that pydantic reads."""
    fields = by_name(fields_of(kind))
    tree: dict[str, Any] = {}
    for flag, values in pairs:
        if not flag:
            raise AttarError(f"'{values[0]}' does not follow a flag; write settings as {_as_setting(values[0])}.")
        key, value = _read(flag, values, fields, method, prog)
        *groups, name = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return tree


def _pairs(words: list[str], takes: Callable[[str, list[str]], int]) -> Iterator[Pair]:
    """Return each flag with its values, and each word without a flag as ``('', [word])``."""
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not _is_flag(word):
            yield "", [word]
            continue
        flag, equals, value = word.partition("=")
        following = list(takewhile(lambda word: not _is_flag(word), words[place:]))
        count = 0 if equals else takes(flag, following)
        yield flag, [value] if equals else following[:count]
        place += count


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _all(flag: str, following: list[str]) -> int:
    """Return how many values a flag takes when the recipe comes first: all words up to the next flag."""
    return len(following)


def _own(flag: str, following: list[str]) -> int:
    """Return how many values a flag takes when the recipe may come anywhere: as many as the flag accepts."""
    word = following[0] if following else ""
    if flag in ("-h", "--help"):
        return int(word == "all" or key_of(word) in _known())
    field = _known().get(key_of(flag))
    if field is not None and field.kind == "switch":
        return int(key_of(flag) == field.key and word.lower() in _SWITCH_WORDS)
    if flag in _SEVERAL or (field is not None and field.kind == "many"):
        return len(following)
    return 0 if flag in ("--quiet", "--plan") else min(1, len(following))


@cache
def _known() -> Mapping[str, Field]:
    """Return the settings of all built-in methods by name, for a recipe that is not known yet."""
    fields = list(fields_of(Recipe[Any]))
    for method in plugin.names_in(METHODS):
        fields += fields_of(method_named(method).Config, "recover.")
    return by_name(fields)


def _read(flag: str, values: list[str], fields: Mapping[str, Field], method: str, prog: str) -> tuple[str, Any]:
    """Return the key of a setting, and its value in the form that pydantic reads."""
    field = fields.get(key_of(flag))
    if field is None:
        raise _unknown(flag, fields, method, prog)
    if key_of(flag) != field.key:
        no_value(flag, values)
        return field.key, False
    if field.kind == "group":
        see = (
            "choose one by --protocol NAME" if field.key == "evaluate.protocol" else f"see '{prog} --help {field.key}'"
        )
        raise AttarError(f"{flag} is a group of settings and takes no value; {see}.")
    return field.key, field.read(flag, values)


def _unknown(flag: str, fields: Mapping[str, Field], method: str, prog: str) -> AttarError:
    """Return the error for an unknown flag: another method's setting, one without its group, or a mistyped one."""
    if key_of(flag) in _known():
        return AttarError(f"The method '{method}' has no setting {flag}; see '{prog} --help recover'.")
    flags = [f"--{name.replace('_', '-')}" for name, field in fields.items() if field.kind != "group"]
    ends = [known for known in flags if known.endswith(f".{key_of(flag).replace('_', '-')}")]
    if ends:
        return AttarError(f"There is no setting named '{flag}'; did you mean {' or '.join(ends)}?")
    known = [*flags, *_OPTIONS, "--quiet", "--help", "--plan", "--protocol"]
    last = key_of(flag).rpartition(".")[2].replace("_", "-")
    alike = [one for one in known if one.startswith(flag)] or [one for one in known if one.endswith(f".{last}")]
    if 0 < len(alike) <= plugin.SHOWN:
        return AttarError(f"There is no setting named '{flag}'; did you mean {' or '.join(alike)}?")
    words = " ".join(re.findall("[a-z0-9]{2,}", flag.lower()))
    if not flag.startswith("--help") and with_words(fields.values(), words):
        return AttarError(f"There is no setting named '{flag}'; '{prog} --help {words}' lists those that speak of it.")
    return plugin.unknown("setting", flag, known)


def _as_setting(word: str) -> str:
    """Return how to type a word without a flag as a setting."""
    return f"--{word.replace('_', '-')}" if re.fullmatch(r"[a-z_.]+=.*", word) else "--KEY VALUE"


def _changed(model: Config, tree: Mapping[str, Any], path: tuple[str, ...], prog: str) -> Any:
    """Return a copy with the values of ``tree``, group by group, so that an error names the smallest group."""
    if not tree:
        return model
    groups = {key: getattr(model, key) for key in tree if isinstance(getattr(model, key), Config)}
    inner = {key: _changed(group, tree[key], (*path, key), prog) for key, group in groups.items()}
    try:
        return model.changed(**{**tree, **inner})
    except pydantic.ValidationError as error:
        raise AttarError(_fault(error, path, prog)) from None


def _fault(error: pydantic.ValidationError, path: tuple[str, ...], prog: str) -> str:
    """Return a sentence on the first error in the validation of the group at ``path``."""
    first = error.errors()[0]
    names = list(takewhile(lambda part: isinstance(part, str), first["loc"]))
    inside = ".".join(str(part) for part in first["loc"][len(names) + 1 :])  # of one item in a list
    section = ".".join((*path, *map(str, names))).replace("_", "-")
    sentence = worded(first, f"--{section}{': ' * bool(inside)}{inside}" if section else f"'{prog}'")
    if first["type"] == "extra_forbidden":
        sentence = f"--{section}: there is no setting named '{inside}'"
    return f"{sentence}; see '{prog} --help{' ' * bool(section)}{section}'."
