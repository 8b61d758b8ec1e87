"""What a recipe will make, told before it is run: units, images, bytes of labels."""

from typing import Any

from attar.core.log import Log
from attar.data.load import load
from attar.recipes.recipe import Recipe
from attar.report.table import readable_bytes
from attar.stages.relabel import planned_bytes
from attar.store import units


def describe(recipe: Recipe[Any]) -> str:
    """The plan as lines of text; opens the real data to count classes."""
    real = load(recipe.data, recipe.seed, Log(quiet=True))
    config, num_classes = recipe.recover, len(real.classes)
    plan = units.plan(num_classes, config.ipc_start, config.ipc, config.unit_classes)
    num_images = sum(len(unit.labels) for unit in plan)
    raw = num_images * 3 * recipe.data.size**2
    labels = planned_bytes(num_images, num_classes, recipe.relabel) if recipe.relabel.mode == "stored" else 0
    steps = getattr(config, "iterations", 0)
    return "\n".join(
        [
            f"Real data: {real.name}, {num_classes} classes, {len(real.train)} training images",
            f"Units: {len(plan)} of up to {config.unit_classes} images, {steps} iterations each",
            f"Images: {num_images}, {recipe.data.size} pixels square, {readable_bytes(raw)} as raw bytes",
            f"Soft labels: {recipe.relabel.mode}, {readable_bytes(labels)} on disk, {recipe.relabel.epochs} epochs",
        ]
    )
