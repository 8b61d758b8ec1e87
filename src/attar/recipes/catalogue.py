"""Recipes by name."""

from pathlib import Path
from typing import Any

from attar.core import plugin
from attar.core.errors import AttarError
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

    Only this function decides what the recipe's word on the command line means. If the word is neither, also for a
    folder or a dataset of the Hub, it raises AttarError with what to type instead.
    """
    if name in ENTRIES:
        return ENTRIES[name].build()
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        raise AttarError(f"{name} is the folder of a run; its recipe is {path / 'recipe.yaml'}.")
    if path.is_dir() or name.startswith("hf:"):
        what = "a folder" if path.is_dir() else "a dataset"
        raise AttarError(
            f"{name} is {what}, not a recipe; name a recipe first: attar run RECIPE --data.source {name} --out FOLDER."
        )
    if name.endswith((".yaml", ".yml")) or path.is_file():
        return from_yaml(path)
    raise plugin.unknown("recipe", name, ENTRIES)


def header_of(name: str) -> str:
    """Return the header of a built-in recipe; empty for a file."""
    return ENTRIES[name].header(name) if name in ENTRIES else ""
