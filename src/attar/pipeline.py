"""The whole story on one page: real data, a teacher, images, soft labels, scores."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from attar.core import ranks
from attar.core.config import differences
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.plugin import refuse_outside, unknown
from attar.data.load import load
from attar.plan import forecast
from attar.plan.calibrate import Work
from attar.recipes.catalogue import header_of, recipe_named
from attar.recipes.recipe import Recipe
from attar.report import card, figures, pages, table
from attar.report.table import Line
from attar.stages import baselines, brought, evaluate, imported_images, label_choice, recover, relabel, squeeze
from attar.stages.distilled import Distilled
from attar.stages.folder import MANIFEST
from attar.stages.methods import METHODS
from attar.stages.rows import REAL_SETS, real_sets
from attar.stages.run import IMPORTED, Run, images_in, labels_in
from attar.stages.workspace import Workspace
from attar.store import atomic
from attar.synthesis.coreset import refuse_fewer

STAGES = ("squeeze", "recover", "relabel", "evaluate")


@dataclass(frozen=True)
class Result:
    """A finished run."""

    out: Path
    table: list[Line]
    """Empty when the run stopped before evaluate."""

    def distilled(self) -> Distilled:
        """The distilled dataset."""
        return Distilled(self.out / "distilled")


def run(
    recipe: Recipe[Any] | str,
    out: Path | str,
    *,
    teacher: nn.Module | None = None,
    stage: str = "",
    quiet: bool = False,
) -> Result:
    """Run a recipe into a folder; what is finished there is skipped, what was interrupted goes on.

    ``teacher`` is a trained network of the caller's, on the data's classes in their order and taking normalised
    images; it takes the place of squeeze's. ``stage`` runs that one alone. Raises AttarError, with one sentence that
    names what is wrong and how to mend it; finished work is kept.
    """
    if stage and stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.group())
        log = Log(quiet=quiet)
        stack.enter_context(log.watched("attar"))
        factories = _factories(recipe)
        space = Workspace(Path(out), recipe.seed, recipe.data, recipe.execution, log, teacher, factories)
        wanted = (stage,) if stage else STAGES
        _check(space, recipe, wanted)
        if "squeeze" in wanted:
            squeeze.run(space, recipe.squeeze)
        if "recover" in wanted:
            if recipe.images:
                imported_images.run(space, recipe.images, recipe.recover)
            else:
                recover.run(space, recipe.method, recipe.recover)
        if "relabel" in wanted:
            relabel.run(space, recipe.relabel, recipe.evaluate.protocol)
        recipe = _as_made(space, recipe)
        if "evaluate" in wanted:
            sets = baselines.make(space, Run(space.out).images.method, recipe.recover, recipe.relabel, recipe.evaluate)
            evaluate.run(space, recipe.evaluate, recipe.squeeze, sets)
        if ranks.is_first():
            return _publish(space, recipe, wanted)
        return Result(space.out, [])


def plan(recipe: Recipe[Any], quiet: bool = False) -> str:
    """What a recipe will make and take, as lines of text: units, images, bytes; hours and memory on this device.

    Opens the real data and measures a few steps of every stage; writes nothing.
    """
    log = Log(quiet=quiet)
    with log.watched("plan"):
        return _plan(recipe, log)


def _plan(recipe: Recipe[Any], log: Log) -> str:
    real = load(recipe.data, recipe.seed, Log(quiet=True))
    num_classes = len(real.classes)
    _check_labels(recipe, num_classes)
    work = Work(
        execution=recipe.execution,
        counts=np.bincount(real.train.labels, minlength=num_classes).tolist(),
        size=recipe.data.size,
        squeeze=recipe.squeeze,
        method=IMPORTED if recipe.images else recipe.method,
        recover=recipe.recover,
        relabel=recipe.relabel,
        evaluate=recipe.evaluate,
    )
    log.say("measuring a few steps on this device, after compiling where that pays")
    return "\n".join(
        [
            f"Real data: {real.name}, {num_classes} classes, {len(real.train)} training images",
            *forecast.made(work),
            *forecast.lines(work),
        ]
    )


def _factories(recipe: Recipe[Any]) -> frozenset[str]:
    """The networks by which a recipe says that teachers may be built: no file that is read adds to them."""
    named = (*recipe.relabel.teachers, recipe.recover.verifier)
    return frozenset((recipe.squeeze.architecture, *(brought.parted(name)[0] for name in named)))


def _as_made(space: Workspace, recipe: Recipe[Any]) -> Recipe[Any]:
    """The recipe with the settings that the existing images and labels were made with; warns of those that differ.

    So a finished run can be judged by another protocol.
    """
    recovered, labelled = space.out / "recover", space.out / "distilled"
    if not ((recovered / MANIFEST).is_file() and (labelled / MANIFEST).is_file()):
        return recipe
    images, labelling = images_in(recovered), label_choice.as_made(labelled, recipe.relabel)
    made, where = images.settings, str(images.path)
    if images.made_elsewhere:  # where they came from is not known here
        kept = recipe.changed(recover=recipe.recover.changed(ipc=made["ipc"]))
    elif images.method == recipe.method:
        kept = recipe.changed(images="", recover=recipe.recover.as_made(made, where))
    else:
        refuse_outside(METHODS, images.method, "method", images.path, "--method")
        kept = recipe.with_method(images.method)
        kept = kept.changed(images="", recover=kept.recover.as_made(made, where))
    kept = kept.changed(relabel=labelling)
    changed = differences(_judged(recipe), _judged(kept))
    if not changed:
        return recipe
    space.log.warn(
        f"{space.out} was made with other settings, which stay: {'; '.join(changed[:4])}"
        + f"; and {len(changed) - 4} more" * (len(changed) > 4)
    )
    return kept


def _judged(recipe: Recipe[Any]) -> dict[str, Any]:
    """What evaluate takes from the stages before it."""
    made = {"recover": recipe.recover.recorded(), "relabel": recipe.relabel.recorded()}
    return {"images": recipe.images, "method": recipe.method, **made}


def _check(space: Workspace, recipe: Recipe[Any], wanted: Sequence[str]) -> None:
    """Find out before hours are spent what would fail after them."""
    log = space.log
    real = space.real
    log.say(
        f"attar     {recipe.name}: {real.name}, {len(real.classes)} classes, {len(real.train)} training and "
        f"{len(real.val)} validation images, on {space.device.describe()}"
    )
    network = squeeze.check(space, recipe.squeeze)
    if network is not None and not recipe.images:
        recover.check_network(network, recipe.squeeze.architecture, recipe.method, recipe.recover.needs())
    _check_labels(recipe, len(real.classes))
    if recipe.images and "recover" in wanted and not (space.out / "recover" / MANIFEST).is_file():
        imported_images.check(space, recipe.images, recipe.recover)
    if "relabel" in wanted and not (space.out / "distilled" / MANIFEST).is_file():
        relabel.check_sources(space, recipe.relabel)
        _check_baselines(space, recipe, "evaluate" in wanted)
        _check_room(space, recipe, "evaluate" in wanted)
    evaluate.check(space, recipe.evaluate)
    if recipe.method in REAL_SETS and not recipe.images:
        refuse_fewer(*baselines.fewest(space), recipe.recover.ipc)


def _check_labels(recipe: Recipe[Any], num_classes: int) -> None:
    labelling, protocol = recipe.relabel, recipe.evaluate.protocol
    label_choice.check(labelling, protocol, recipe.data.size, num_classes)
    if any(row.labels == "noaug" for row in recipe.evaluate.rows):
        label_choice.check(baselines.unaugmented(labelling), protocol, recipe.data.size, num_classes)


def _check_baselines(space: Workspace, recipe: Recipe[Any], judged: bool) -> None:
    """Refuse to label a set anew beside baselines of the run's own that keep their other labels."""
    if not judged or recipe.evaluate.baselines or recipe.relabel.imported:
        return
    others = dict[str, list[str]]()
    for name in real_sets(recipe.evaluate.rows):
        folder = space.out / "baselines" / name / "distilled"
        if (folder / MANIFEST).is_file():
            others[name] = recipe.relabel.unlike(labels_in(folder).settings)
    changed = [line for lines in others.values() for line in lines]
    if changed:
        raise AttarError(
            f"{space.out / 'baselines'} was labelled with other settings ({'; '.join(dict.fromkeys(changed[:4]))}); "
            f"choose another --out, or delete {' and '.join(others)} in it to make them anew."
        )


def _check_room(space: Workspace, recipe: Recipe[Any], judged: bool) -> None:
    """Refuse labels for which there is no room, those of the baselines in the run's folder included."""
    if recipe.relabel.mode == "online":
        return
    num_sets = 1
    if judged and not recipe.evaluate.baselines:
        num_sets += sum(name != recipe.method for name in real_sets(recipe.evaluate.rows))
    num_classes = len(space.real.classes)
    count = (recipe.recover.ipc - recipe.recover.ipc_start) * num_classes
    label_choice.refuse_full_disk(num_sets * label_choice.planned_bytes(count, num_classes, recipe.relabel), space.out)


def _publish(space: Workspace, recipe: Recipe[Any], wanted: Sequence[str]) -> Result:
    """The recipe, tables, pictures and the card, from what is on the disk."""
    out, lines = space.out, []
    if space.module is not None:
        recipe = recipe.changed(squeeze=squeeze.as_given(recipe.squeeze, space.module))
    atomic.write_text(out / "recipe.yaml", recipe.to_yaml(header_of(recipe.name)))
    if (out / "evaluate" / "manifest.json").is_file():
        lines = table.lines(out)
        pages.write_all(out, lines, out / "report")
    if {"relabel", "evaluate"} & set(wanted) and (out / "distilled" / "manifest.json").is_file():
        card.write(out / "distilled", lines)
        if "evaluate" in wanted:
            figures.write_all(out, out / "report")
    return Result(out, lines)
