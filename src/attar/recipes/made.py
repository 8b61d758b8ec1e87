"""Combine a recipe with the settings that an existing run's images and labels were made with."""

from collections.abc import Callable
from typing import Any

from attar.core.config import differences
from attar.core.plugin import refuse_outside
from attar.recipes.recipe import Recipe
from attar.stages import label_choice
from attar.stages.methods import METHODS
from attar.stages.run import Run


def recipe_of(run: Run, asked: Recipe[Any], warn: Callable[[str], object] = lambda _: None) -> Recipe[Any]:
    """Return ``asked`` with the method, image and label settings that the run was made with; warns when they differ.

    Returns ``asked`` itself when images or labels are not finished. Raises AttarError when the images were made by code
    outside attar that ``asked`` does not name, or ``asked`` names other teachers than labelled them.
    """
    if not (run.is_done("recover") and run.is_done("relabel")):
        return asked
    images = run.images
    made, where = images.settings, str(images.path)
    if images.made_elsewhere:  # the manifest does not say where the images came from
        recipe = asked.changed(recover=asked.recover.changed(ipc=made["ipc"]))
    elif images.method == asked.method:
        recipe = asked.changed(images="", recover=asked.recover.as_made(made, where))
    else:
        refuse_outside(METHODS, images.method, "method", images.path, "--method")
        recipe = asked.with_method(images.method)
        recipe = recipe.changed(images="", recover=recipe.recover.as_made(made, where))
    recipe = recipe.changed(relabel=label_choice.of_stored(run.labels.folder, asked.relabel))
    changed = differences(_parts(asked), _parts(recipe))
    if not changed:
        return asked
    more = f"; and {len(changed) - 4} more" * (len(changed) > 4)
    warn(f"{run.path} was made with other settings, which are kept: {'; '.join(changed[:4])}{more}")
    return recipe


def _parts(recipe: Recipe[Any]) -> dict[str, Any]:
    made = {"recover": recipe.recover.recorded(), "relabel": recipe.relabel.recorded()}
    return {"images": recipe.images, "method": recipe.method, **made}
