"""Distil the data that a program has: ``attar.distil``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attar import begin, pipeline
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import given
from attar.models import compact
from attar.models.committee import modules_of
from attar.pipeline import Result
from attar.recipes.arguments import Arguments
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe


def distil(
    dataset: Any,
    *,
    out: Path | str,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    ipc: int | None = None,
    budget: int | str | None = None,
    size: int | None = None,
    recipe: Recipe[Any] | str | None = None,
    validation: Any = None,
    classes: Sequence[str] = (),
    name: str = "data",
    quiet: bool = False,
) -> Result:
    """Distil a dataset into the folder ``out``: choose a recipe, print its reasons, and run it.

    ``dataset`` is the path of a folder, ``hf:ORG/NAME`` or a name from 'attar list datasets'; or data in memory: a pair
    (images, labels), a PyTorch dataset of (image, label), or a ``datasets.Dataset`` (see ``data/given.py`` for their
    shapes and value ranges). ``validation`` is of the same kind; without it a part of each class is held out.
    ``classes`` are the names of the labels 0, 1, ..., and ``name`` is what tables and card call the data.

    ``teacher`` is your own trained network, or several, used instead of training some: it takes normalised images of
    ``size`` pixels and returns logits in the order of the classes. ``ipc`` is the number of images per class,
    ``budget`` the bytes that images and labels may take together (50_000, or '5MB'), ``size`` the side of the images
    in pixels. With a ``recipe`` (a name, the path of a YAML file, or a Recipe) nothing is chosen, and ``budget`` cannot
    be used.

    Finished stages are skipped and interrupted ones continue when the same call is repeated with the same data. Raises
    AttarError with one sentence when something does not fit.
    """
    if isinstance(dataset, Path | str):
        if validation is not None or classes:
            raise AttarError("validation and classes are for data in memory; a folder has splits and class names.")
        return _run(str(dataset), out, teacher, ipc, budget, size, recipe, quiet)
    found = given.found_in(dataset, validation, classes, Log(quiet=quiet))
    with given.handed_over(found, name) as source:
        return _run(source, out, teacher, ipc, budget, size, recipe, quiet)


def _run(
    source: str,
    out: Path | str,
    teacher: nn.Module | Sequence[nn.Module] | None,
    ipc: int | None,
    budget: int | str | None,
    size: int | None,
    recipe: Recipe[Any] | str | None,
    quiet: bool,
) -> Result:
    if recipe is None:
        asked = Arguments(
            recipe=source,
            out=str(out),
            budget=f"{budget}B" if isinstance(budget, int) else budget or "",
            ipc=str(ipc or ""),
            quiet=quiet,
            settings=(("--data.size", [str(size)]),) if size else (),
            own_teachers=tuple(_stored_bytes(module) for module in modules_of(teacher)),
        )
        made, _ = begin.recipe_of("run", asked)
    else:
        if budget is not None:
            raise AttarError("budget is for the recipe that attar chooses; leave out recipe, or set ipc instead.")
        made = recipe_named(recipe) if isinstance(recipe, str) else recipe
        data = made.data.changed(source=source, **({"size": size} if size else {}))
        made = made.changed(data=data, recover=made.recover.changed(ipc=ipc or made.recover.ipc))
    return pipeline.run(made, out, teacher=teacher, quiet=quiet)


def _stored_bytes(module: nn.Module) -> int:
    if not isinstance(module, nn.Module):
        raise AttarError(f"teacher must be a torch.nn.Module or a list of them, not a {type(module).__name__}.")
    return compact.stored_bytes(module.state_dict(), "int8")
