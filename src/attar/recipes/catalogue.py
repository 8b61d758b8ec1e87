"""Recipes by name."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.core import plugin
from attar.core.errors import AttarError
from attar.data.choice import IN_MEMORY
from attar.recipes import attar as own
from attar.recipes import (
    cda,
    cim,
    cvdd,
    delt,
    digits,
    dm,
    dwa,
    edc,
    fadrm,
    gvbsm,
    lpld,
    mtt,
    ncfm,
    psm,
    rded,
    sre2l,
    tesla,
)
from attar.recipes.recipe import BuiltInRecipe, Recipe, from_yaml
from attar.stages.published_figures import Beside
from attar.store import objects

ENTRIES: dict[str, BuiltInRecipe] = {
    **digits.RECIPES,
    **own.RECIPES,
    **cda.RECIPES,
    **sre2l.RECIPES,
    **rded.RECIPES,
    **fadrm.RECIPES,
    **psm.RECIPES,
    **lpld.RECIPES,
    **cvdd.RECIPES,
    **dwa.RECIPES,
    **cim.RECIPES,
    **dm.RECIPES,
    **ncfm.RECIPES,
    **edc.RECIPES,
    **gvbsm.RECIPES,
    **delt.RECIPES,
    **mtt.RECIPES,
    **tesla.RECIPES,
}


def recipe_named(name: str) -> Recipe[Any]:
    """Return the built-in recipe of this name, or the one in this YAML file.

    If the word is neither, also for a folder or a dataset of the Hub, it raises AttarError with what to type instead.
    """
    if name in ENTRIES:
        return ENTRIES[name].build()
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        raise AttarError(f"{name} is the folder of a run; its recipe is {path / 'recipe.yaml'}.")
    if path.is_dir() or name.startswith("hf:"):
        what = "a folder" if path.is_dir() else "a dataset"
        raise AttarError(
            f"{name} is {what}, not a recipe; 'attar run {name} --out FOLDER' chooses a recipe for it and runs it, "
            f"'attar show {name} > mine.yaml' writes it as a file."
        )
    if name.endswith((".yaml", ".yml")) or path.is_file():
        return from_yaml(path)
    if re.match(r"[~./\\]|[A-Za-z]:[/\\]", name) or name.endswith(("/", "\\")):
        raise AttarError(f"There is no folder or recipe file {name}; check the path.")
    raise plugin.unknown("recipe or folder", name, ENTRIES)


def is_dataset(word: str) -> bool:
    """Whether the word in place of a recipe names a dataset: a folder of pictures, files of shards, an address, a name.

    A built-in recipe comes before a dataset of the same name. The folder of a run is no dataset.
    """
    if word in ENTRIES:
        return False
    from attar.data import braces
    from attar.data.named import KNOWN  # imports PyArrow, which recipes do not need

    path = Path(word).expanduser()
    if path.is_dir():
        return word in KNOWN or not (path / "recipe.yaml").is_file()
    return word.startswith(("hf:", IN_MEMORY)) or word in KNOWN or objects.is_address(word) or braces.names_files(word)


def header_of(name: str) -> str:
    """Return the header of a built-in recipe; empty for a file."""
    return ENTRIES[name].header(name) if name in ENTRIES else ""


def published_beside(recipe: Recipe[Any], classes: Sequence[str] = ()) -> Beside | None:
    """Return the published figures that a run of this recipe can be compared with; None if there are none.

    A built-in recipe that was changed keeps its figures, with what was changed. If it has other data, another method or
    another number of images per class, or imports its images, the figures are those of another set: None. Data that come
    from another source are the recipe's if their ``classes`` are: that is no change.
    """
    entry = ENTRIES.get(recipe.name)
    if entry is None or not entry.published.figures:
        return None
    usual = entry.build()
    before, now = usual.data.source, recipe.data.source
    if _set_of(recipe) != _set_of(usual) or not (before == now or _has_classes_of(before, classes)):
        return None
    return Beside(recipe.name, entry.published.figures, tuple(_changes(usual, recipe)))


def _has_classes_of(name: str, classes: Sequence[str]) -> bool:
    from attar.data.named import has_classes_of  # imports PyArrow, which recipes do not need

    return has_classes_of(name, classes)


def _set_of(recipe: Recipe[Any]) -> tuple[Any, ...]:
    """Return what makes two recipes recipes of the same set."""
    data = recipe.data
    return (data.size, data.classes, data.num_classes, recipe.method, recipe.images, recipe.recover.ipc)


def _changes(usual: Recipe[Any], recipe: Recipe[Any]) -> list[str]:
    """Return the settings that differ and can change the scores of the distilled set, each as ``key old -> new``."""
    asks_teacher = usual.recover.needs().teachers != "none" or usual.evaluate.protocol.loss != "hard"
    usual, recipe = _with_members(usual), _with_members(recipe)
    if usual.relabel.mode == "none" and recipe.relabel.mode == "online":  # as these recipes said in earlier versions
        recipe = recipe.changed(relabel=recipe.relabel.changed(mode="none"))
    pairs = [(f"{name}.", getattr(usual, name), getattr(recipe, name)) for name in ("data", "recover", "relabel")]
    pairs.append(("evaluate.protocol.", usual.evaluate.protocol, recipe.evaluate.protocol))
    if asks_teacher:
        pairs.append(("squeeze.", usual.squeeze, recipe.squeeze))
    elif usual.recover.needs().snapshots != "none":
        pairs.append(("squeeze.experts.", usual.squeeze.experts, recipe.squeeze.experts))
    return [line for key, before, now in pairs for line in now.unlike(before.recorded(), key.rstrip("."))]


def _with_members(recipe: Recipe[Any]) -> Recipe[Any]:
    """Return the recipe with the teachers that label numbered, as a run numbers them: none named means all of several."""
    count, committee = len(recipe.squeeze.each), recipe.relabel.committee
    if committee.members or count == 1:
        return recipe
    return recipe.changed(relabel=recipe.relabel.changed(committee=committee.changed(members=tuple(range(count)))))
