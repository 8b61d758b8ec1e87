"""Recipes of a comparison: several methods, each with its kind of labels, at several sizes in bytes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from attar.core.errors import AttarError
from attar.recipes.arguments import Pair, changed_by
from attar.recipes.catalogue import ENTRIES, recipe_named
from attar.recipes.fields import by_name, fields_of, key_of
from attar.recipes.recipe import Recipe
from attar.stages.rows import DISTILLED, DISTILLED_HARD, EQUAL_BYTES, FULL, REAL_SETS

Kind = Literal["hard", "soft"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB)", re.IGNORECASE)
_SCALES = {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


@dataclass(frozen=True)
class Contender:
    """A method of a comparison, with its labels."""

    name: str
    """Name in tables and in folders, without the kind of labels."""
    labels: Kind
    recipe: Recipe[Any]
    """Everything but the number of images."""

    @property
    def title(self) -> str:
        """Name and kind of labels, as typed: ``dm:hard``."""
        return f"{self.name}:{self.labels}"

    @property
    def asks_teacher(self) -> bool:
        """Whether images or labels need the teachers of squeeze."""
        recipe = self.recipe
        return self.labels == "soft" or recipe.recover.needs().teachers != "none"

    def folder(self, num_bytes: int) -> str:
        """Return the name of the folder of its run at this size."""
        return f"{self.name}-{self.labels}-{size_name(num_bytes)}"

    def recipe_of(self, ipc: int, baselines: str) -> Recipe[Any]:
        """Return the recipe with ``ipc`` images per class; baselines are in the folder ``baselines``."""
        shown = DISTILLED_HARD if self.labels == "hard" else DISTILLED
        rows = (shown, EQUAL_BYTES, *(row for row in self.recipe.evaluate.rows if row == FULL))
        return self.recipe.changed(
            recover=self.recipe.recover.changed(ipc=ipc, ipc_start=0),
            evaluate=self.recipe.evaluate.changed(rows=rows, baselines=baselines),
        )


def bytes_of(text: str) -> int:
    """Parse a size such as 100kB, 1.5MB or 2GB, in decimal units; raises AttarError when it has no unit."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        hint = f"{text}kB or {text}MB" if text.isdecimal() else "100kB, 1.5MB or 2GB"
        raise AttarError(f"A budget is a size with a unit, such as {hint}, not '{text}'.")
    scale = next(value for unit, value in _SCALES.items() if unit.lower() == found[2].lower())
    size = round(float(found[1]) * scale)
    if not size:
        raise AttarError(f"A budget must be more than 0 bytes, not '{text}'.")
    return size


def size_name(num_bytes: int) -> str:
    """Return a size as it is typed: 16kB."""
    unit, scale = next((unit, scale) for unit, scale in _SCALES.items() if num_bytes >= scale)
    return f"{num_bytes / scale:.12g}{unit}"


def budgets_of(words: Sequence[str]) -> list[int]:
    """Parse the sizes after ``--budgets``, smallest first, each once."""
    if not words:
        raise AttarError("'attar compare' needs sizes; add --budgets 100kB 1MB.")
    return sorted({bytes_of(word) for word in words})


def contenders(name: str, words: Sequence[str], settings: Iterable[Pair]) -> list[Contender]:
    """Return the methods after ``--methods`` on the data of the recipe ``name``, changed by settings.

    A word is a method, or a recipe whose method settings are used; ``:hard`` or ``:soft`` after it chooses the labels.
    A setting of ``recover`` changes the methods that have it. Raises AttarError with one sentence on the first mistake.
    """
    if not words:
        raise AttarError("'attar compare' needs methods; add --methods dm random, or names from 'attar list methods'.")
    prog, pairs = f"attar compare {name}", list(settings)
    _refuse_chosen(pairs)
    own = [pair for pair in pairs if key_of(pair[0]).startswith("recover.")]
    base = changed_by(recipe_named(name), [pair for pair in pairs if pair not in own], prog)
    if base.images:
        raise AttarError("'attar compare' makes the images itself; leave out --images.")
    found, used = list[Contender](), list[Pair]()
    for word in words:
        recipe, kind = _recipe_of(base, word)
        known = by_name(fields_of(type(recipe)))
        fitting = [pair for pair in own if key_of(pair[0]) in known]
        used += fitting
        short = _short(word, words)
        found.append(_contender(short, changed_by(recipe, fitting, prog), kind))
    if unused := next((flag for flag, _ in own if flag not in {flag for flag, _ in used}), None):
        methods = ", ".join(dict.fromkeys(one.recipe.method for one in found))
        raise AttarError(
            f"None of the methods {methods} has a setting {unused}; see 'attar run {name} --help recover'."
        )
    titles = [one.title for one in found]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise AttarError(f"'{twice}' is listed twice in --methods; list each once.")
    return found


def _refuse_chosen(pairs: Sequence[Pair]) -> None:
    """Raise AttarError for settings that the comparison itself chooses."""
    instead = {
        "method": "use --methods",
        "recover.ipc": "the budgets decide it",
        "recover.ipc_start": "the budgets decide the number of images",
        "evaluate.baselines": "the runs of a comparison share their baselines anyway",
        "evaluate.rows": "each run has the rows that are compared",
    }
    for flag, _ in pairs:
        if flag and key_of(flag) in instead:
            raise AttarError(f"'attar compare' takes no {flag}: {instead[key_of(flag)]}.")


def _recipe_of(base: Recipe[Any], word: str) -> tuple[Recipe[Any], str]:
    """Return the recipe of a word after ``--methods``, and the kind of labels that it names; '' if it names none."""
    name, kind = _parted(word)
    if name not in ENTRIES and not name.endswith((".yaml", ".yml")):
        return base.with_method(name), kind
    other = recipe_named(name)
    if other.data.source != base.data.source or other.data.size != base.data.size:
        raise AttarError(
            f"The recipe {name} is for {other.data.source} at {other.data.size} pixels, and {base.name} for "
            f"{base.data.source} at {base.data.size}; compare methods on the same data."
        )
    values = {key: getattr(base, key) for key in type(base).model_fields if key not in ("method", "recover")}
    return type(other)(method=other.method, recover=other.recover, **values), kind


def _contender(name: str, recipe: Recipe[Any], kind: str) -> Contender:
    """Return a method with its labels; raises AttarError when it cannot have the kind of labels that was typed."""
    protocol, relabel = recipe.evaluate.protocol, recipe.relabel
    if kind == "soft" and protocol.loss == "hard":
        raise AttarError(
            f"The protocol {protocol.name} trains students with hard labels; leave out ':soft', or use another --protocol."
        )
    teacherless = recipe.method in REAL_SETS or recipe.recover.needs().teachers == "none"
    hard = kind == "hard" or (not kind and (protocol.loss == "hard" or teacherless))
    if not hard and relabel.mode == "online":
        raise AttarError(
            "Labels that are computed online take the bytes of the teacher at every budget; use --relabel.mode stored, "
            "or hard labels (METHOD:hard)."
        )
    if not hard and relabel.mode == "none":
        raise AttarError(
            f"The recipe makes no soft labels (relabel.mode none), and {name} would be compared with some; use "
            f"--relabel.mode stored, or hard labels ({name}:hard)."
        )
    if not hard and relabel.imported:
        raise AttarError("'attar compare' makes the labels itself; leave out --relabel.imported.")
    if hard:  # nothing is stored
        recipe = recipe.changed(relabel=relabel.changed(mode="none", pool_epochs=0, imported=""))
    labels: Kind = "hard" if hard else "soft"
    return Contender(name, labels, recipe.changed(name=f"{recipe.name}, {name}:{labels}"))


def _short(word: str, words: Sequence[str]) -> str:
    """Return the name of a word after ``--methods``: of a recipe its family, or all of it if several have that."""
    names = [_parted(other)[0] for other in words]
    name = _parted(word)[0]
    if name.endswith((".yaml", ".yml")):
        return Path(name).stem
    family = name.partition("/")[0]
    alone = all(other == name for other in names if other.partition("/")[0] == family)
    return family if alone else name.replace("/", "-")


def _parted(word: str) -> tuple[str, str]:
    """Return name and kind of labels of a word after ``--methods``; '' if it names none."""
    name, _, kind = word.rpartition(":")
    return (name, kind) if kind in get_args(Kind) else (word, "")
