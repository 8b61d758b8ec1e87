"""attar distils image-classification datasets: a few synthetic images per class plus soft labels.

``attar.distil(dataset, out=...)`` and ``attar.run(recipe, out)`` make a distilled dataset, ``attar.load(folder)`` opens
one. The names below are imported when they are first used, so that ``import attar`` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.begin import choose_for as choose
    from attar.core.errors import AttarError
    from attar.from_python import distil
    from attar.pipeline import Result, run, split
    from attar.recipes.catalogue import recipe_named as recipe
    from attar.recipes.recipe import Recipe
    from attar.stages.distilled import Distilled, load

__version__ = "0.1.0"
__all__ = ["AttarError", "Distilled", "Recipe", "Result", "choose", "distil", "load", "recipe", "run", "split"]

_HOMES = {
    "AttarError": ("attar.core.errors", "AttarError"),
    "Distilled": ("attar.stages.distilled", "Distilled"),
    "Recipe": ("attar.recipes.recipe", "Recipe"),
    "Result": ("attar.pipeline", "Result"),
    "choose": ("attar.begin", "choose_for"),
    "distil": ("attar.from_python", "distil"),
    "load": ("attar.stages.distilled", "load"),
    "recipe": ("attar.recipes.catalogue", "recipe_named"),
    "run": ("attar.pipeline", "run"),
    "split": ("attar.pipeline", "split"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attar' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
