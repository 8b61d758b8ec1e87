"""The help page of a recipe: its settings and their values, read from the models themselves."""

import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pydantic
import yaml

from attar.core import plugin
from attar.core.printable import printable
from attar.recipes.catalogue import ENTRIES
from attar.recipes.fields import Field, by_name, fields_of, key_of, with_words
from attar.recipes.recipe import Recipe
from attar.stages.rows import use_soft_labels

FREQUENT = (
    "recover.ipc",
    "recover.iterations",
    "recover.parallel_units",
    "data.source",
    "data.root",
    "data.size",
    "squeeze.architecture",
    "squeeze.weights",
    "squeeze.training.epochs",
    "relabel.mode",
    "relabel.epochs",
    "evaluate.students",
    "evaluate.protocol.training.epochs",
    "evaluate.num_seeds",
    "execution.device",
    "execution.threads",
    "seed",
)
"""Settings that people change most. The page leaves out those that the recipe's method does not have, and
those of labels if no student trains with soft labels."""
_EPOCHS = {
    "squeeze.training.epochs": "Epochs that the teacher trains for: passes over all real images.",
    "evaluate.protocol.training.epochs": "Epochs that each student trains for: passes over the small set.",
}
"""What these settings are of, where they stand without their sections."""
DOES = {
    "show": "Print the recipe with every setting, as YAML.",
    "plan": "Say what would be made, in which time and memory on this device, and make nothing.",
    "split": "List every real picture as CSV: its split (train or val), its class and its file.",
    "run": "Turn real data into a distilled dataset and its scores: squeeze, recover, relabel and evaluate.",
    "squeeze": "Train or import the teachers: the first stage of 'attar run'.",
    "recover": "Make the images: the second stage of 'attar run'.",
    "relabel": "Make the soft labels: the third stage of 'attar run'.",
    "evaluate": "Train students and measure their accuracy: the last stage of 'attar run'.",
    "compare": "Run several methods at several sizes in bytes, with real images of as many bytes, and draw accuracy "
    "against bytes and seconds.",
}
OPTIONS = {
    "--out FOLDER": "Folder for the results. To continue an interrupted run, run the same command again.",
    "--budget SIZE": "Only for pictures in place of a recipe: bytes that images and labels may take together, as 5MB.",
    "--ipc N": "Images per class.",
    "--methods NAME ...": "Methods to compare: names from 'attar list methods', or recipes whose method settings are "
    "used. NAME:hard and NAME:soft choose the labels; without them, methods that need no teacher have hard labels.",
    "--budgets SIZE ...": "Sizes of images and labels together, such as 100kB 1MB. The images per class follow.",
    "--plan": "Measure a few steps, estimate bytes and time on this device, and make nothing.",
    "--method NAME": "Another method with its own defaults: a name from 'attar list methods', or a dotted path.",
    "--protocol NAME": "Another evaluation protocol with its label options: a name from 'attar list protocols'.",
    "--launcher ray [--address HOST:PORT]": "Let a Ray cluster do the jobs; '--help execution' has CPUs and GPUs.",
    "--quiet": "Print results only.",
    "--help [SECTION|WORD ...]": "After a recipe: the settings that people change most, the settings of a section "
    "(recover, evaluate.protocol), those whose name or explanation has these words (jpeg), or 'all' settings.",
}
_COMPARED = ("--methods NAME ...", "--budgets SIZE ...")
_MAKES_NOTHING = ("show", "plan", "split")
_LAUNCHED = ("--launcher ray [--address HOST:PORT]",)
_LACKS = {
    "show": ("--out FOLDER", *_COMPARED, *_LAUNCHED),
    "run": _COMPARED,
    "plan": ("--out FOLDER", "--plan", *_COMPARED, *_LAUNCHED),
    "split": ("--out FOLDER", "--plan", *_COMPARED, *_LAUNCHED),
    "compare": ("--method NAME", "--budget SIZE", "--ipc N", *_LAUNCHED),
}
"""Options that a verb does not have; other verbs lack --plan and those of 'attar compare'."""
RULES = (
    "[Brackets] show the value in this recipe. '...' means that every word up to the next flag is a value. 'none' means "
    "no value. --squeeze.views.no-flip is short for --squeeze.views.flip no. If a setting is typed twice, the last value "
    "counts."
)


def usage(verb: str, width: int) -> str:
    """Return the text of ``attar VERB --help``, for a verb that takes a recipe."""
    what = "RECIPE" if verb == "compare" else "RECIPE|PICTURES"
    lines = [*_wrapped(f"usage: attar {verb} {what}{_out(verb)} [OPTIONS] [SETTINGS]", width), ""]
    lines += [*_wrapped(DOES[verb], width), ""]
    lines += [
        "  RECIPE",
        *_wrapped("A name from 'attar list recipes', or a YAML file as 'attar show' prints it.", width, 6),
    ]
    if verb != "compare":
        words = "A folder with a folder per class or Parquet files, hf:ORG/NAME, or a name from 'attar list datasets': "
        lines += ["  PICTURES", *_wrapped(f"{words}attar chooses a recipe for them and says why.", width, 6)]
    lines += ["  SETTINGS", *_wrapped("Any key of the recipe, as in --recover.iterations 1000.", width, 6)]
    lines += [*_options(verb, width), ""]
    lines += _wrapped("Options and settings can be in any order. If one is typed twice, the last value counts.", width)
    if verb not in _MAKES_NOTHING:
        lines += _wrapped(f"To use several processes or GPUs: torchrun --nproc-per-node N -m attar {verb} ...", width)
    return _text(lines)


def page(recipe: Recipe[Any], verb: str, name: str, section: str, width: int, about: str = "") -> str:
    """Return the text of ``attar VERB NAME --help SECTION``, in lines of at most ``width`` characters if words allow.

    ``section`` is '' for the settings that people change most, 'all', a group of settings (``recover``), a single
    setting, or words of names and explanations. ``about`` says where the values are from. Raises AttarError if no
    setting has these words.
    """
    command = f"attar {verb} {name}"
    fields = list(fields_of(type(recipe)))
    told = [*_wrapped(about, width), ""] if about else []
    if section:
        lines = [f"usage: {command} --KEY VALUE ...", "", *told, *_wrapped(RULES, width), ""]
        return _text(lines + _grouped(recipe, fields if section == "all" else _under(fields, section), width))
    lines = [f"usage: {command}{_out(verb)} [OPTIONS] [SETTINGS]", ""]
    if name in ENTRIES:
        lines += _wrapped(f"Aims at: {ENTRIES[name].aim}", width)
        lines += [*_wrapped(f"Cost: {ENTRIES[name].cost}", width), ""]
    lines += [*told, "Settings that people change most:", "", *_frequent(recipe, verb, fields, width), ""]
    lines += _wrapped(f"For all settings: '{command} --help all'", width)
    lines += _wrapped(f"For one of the sections below: '{command} --help recover'", width)
    lines += [*_wrapped(f"To find settings by words: '{command} --help learning rate'", width), ""]
    lines += [*_wrapped(RULES, width), "", "Options:", "", *_options(verb, width), ""]
    return _text([*lines, "Sections of the settings:", "", *_sections(fields, width)])


def _text(lines: Iterable[str]) -> str:
    return "\n".join(printable(line).rstrip() for line in lines).rstrip() + "\n"


def _out(verb: str) -> str:
    several = " --methods NAME ... --budgets SIZE ..." * (verb == "compare")
    return "" if verb in _MAKES_NOTHING else f"{several} --out FOLDER"


def _frequent(recipe: Recipe[Any], verb: str, fields: Iterable[Field], width: int) -> list[str]:
    left_out = ("recover.ipc",) if verb == "compare" else ()  # the budgets choose it
    if not use_soft_labels(recipe.evaluate.rows):
        left_out += ("relabel.mode", "relabel.epochs")
    by_key = {field.key: field for field in fields if field.key not in left_out}
    shown = [replace(by_key[key], text=_EPOCHS.get(key, by_key[key].text)) for key in FREQUENT if key in by_key]
    return [line for field in shown for line in _setting(recipe, field, width)]


def _options(verb: str, width: int) -> list[str]:
    lacks = _LACKS.get(verb, ("--plan", *_COMPARED))
    return [
        line
        for option, text in OPTIONS.items()
        if option not in lacks
        for line in (f"  {option}", *_wrapped(text, width, 6))
    ]


def _sections(fields: Iterable[Field], width: int) -> list[str]:
    groups = [field for field in fields if field.kind == "group"]
    column = max(len(field.key) for field in groups) + 4
    lines = []
    for field in groups:
        first, *rest = _wrapped(field.text, width, column)
        lines += [f"  {field.key}".ljust(column) + first.lstrip(), *rest]
    return lines


def _under(fields: list[Field], section: str) -> list[Field]:
    """Return the group or the setting of this name with all settings in it, or the settings that have these words."""
    names = by_name(fields)
    if key_of(section) in names:
        key = names[key_of(section)].key
        return [field for field in fields if f"{field.key}.".startswith(f"{key}.")]
    found = with_words(fields, section)
    if not found:
        raise plugin.unknown("section", section, ["all", *(field.key for field in fields)])
    return found


def _grouped(recipe: Recipe[Any], fields: list[Field], width: int) -> list[str]:
    """Return these settings as text, grouped under the names of their groups."""
    headings = {field.key: field.text for field in fields if field.kind == "group"}
    members: dict[str, list[Field]] = {}
    for field in fields:
        if field.kind != "group":
            members.setdefault(field.key.rpartition(".")[0], []).append(field)
    lines = []
    for group, settings in members.items():
        lines += [*_wrapped(f"{group}: {headings[group]}", width), ""] if group in headings else []
        lines += [line for field in settings for line in _setting(recipe, field, width)]
        lines += [""]
    return lines


def _setting(recipe: Recipe[Any], field: Field, width: int) -> list[str]:
    value: Any = recipe
    for part in field.key.split("."):
        value = getattr(value, part)
    text = field.text + f" NAME: {', '.join(field.choices)}." * field.lists_choices
    head = textwrap.wrap(
        f"{field.flag} {field.metavar}  [{_shown(value)}]", width, initial_indent="  ", subsequent_indent=" " * 10,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [*head, *_wrapped(text, width, 6)]


def _shown(value: Any) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, tuple | list):
        return " ".join(map(_shown, value)) or "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, pydantic.BaseModel | dict):
        plain = value.model_dump(mode="json", exclude_unset=True) if isinstance(value, pydantic.BaseModel) else value
        return shlex.quote(yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000).strip())
    return "none" if value is None else shlex.quote(str(value)) if value != "" else "empty"


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text, width, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )
