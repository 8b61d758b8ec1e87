"""Recipes by name."""

from pathlib import Path
from typing import Any

from attar.core import plugin
from attar.recipes import cda, digits, sre2l
from attar.recipes.recipe import Entry, Recipe, from_yaml

ENTRIES: dict[str, Entry] = {**digits.RECIPES, **cda.RECIPES, **sre2l.RECIPES}


def recipe_named(name: str) -> Recipe[Any]:
    """A built-in recipe, or the one in a YAML file: a file is as good as a name.

    Raises AttarError, with the nearest names, when there is neither.
    """
    if name in ENTRIES:
        return ENTRIES[name].build()
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return from_yaml(Path(name))
    raise plugin.unknown("recipe", name, ENTRIES)


def header_of(name: str) -> str:
    """The header of a built-in recipe; empty for a file."""
    return ENTRIES[name].header(name) if name in ENTRIES else ""
