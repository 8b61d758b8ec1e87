"""The pipeline: real data, teachers, images, soft labels, scores, report."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.plugin import unknown
from attar.data import damage
from attar.data.listing import Listed, listing
from attar.data.load import load
from attar.data.source import RealData
from attar.models.committee import modules_of
from attar.ops.choices import PLAIN, Storage
from attar.plan import forecast, over_budget
from attar.plan.calibrate import Work
from attar.recipes.catalogue import header_of, published_beside, recipe_named
from attar.recipes.made import recipe_of
from attar.recipes.recipe import Recipe
from attar.report.publish import publish
from attar.report.table import Line
from attar.stages import (
    baselines,
    evaluate,
    experts,
    imported,
    imported_images,
    kept,
    label_choice,
    members,
    published_figures,
    recover,
    relabel,
    squeeze,
    teacher_check,
)
from attar.stages.asked import asks_teachers
from attar.stages.distilled import Distilled
from attar.stages.mirror import Following
from attar.stages.rows import scored_labels, use_soft_labels
from attar.stages.run import IMPORTED, Run, Stage
from attar.stages.workspace import Workspace
from attar.store import atomic
from attar.synthesis.coreset import refuse_fewer
from attar.synthesis.method import SOFT_LABELS, STUDENT_RATE, Needs

STAGES: tuple[Stage, ...] = ("squeeze", "recover", "relabel", "evaluate")


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
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    stage: str = "",
    quiet: bool = False,
) -> Result:
    """Run a recipe into a folder; skips finished stages and continues interrupted ones.

    ``teacher`` is your own trained network, or a list of them, used instead of squeeze's teachers. It takes normalised
    images and returns logits in the data's class order. ``stage`` runs one stage only. Raises AttarError with one
    sentence that says what is wrong and how to fix it; finished work is kept.
    """
    if stage and stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    wanted: tuple[Stage, ...] = tuple(name for name in STAGES if stage in ("", name))
    with ranks.group(), _log(Path(out), recipe, wanted, quiet) as log, log.heartbeat("attar"):
        copy = Following(Path(out), recipe.execution.mirror, log)
        copy.pull()
        trusted = imported.factories((member.architecture for member in recipe.squeeze.each), recipe.recover.verifier)
        modules = modules_of(teacher)
        asked = stage == "squeeze" or Run(Path(out)).is_done("squeeze") or _asks_teachers(recipe)
        count = len(recipe.squeeze.each) if asked else 0
        space = Workspace(Path(out), recipe.seed, recipe.data, recipe.execution, log, modules, trusted, count)
        recipe, soft = _with_members(recipe, space.num_teachers), use_soft_labels(recipe.evaluate.rows)
        if Run(space.out).is_done("relabel"):
            recipe = _with_epochs_of_labels(space, recipe, soft=soft)
        _check(space, recipe, wanted)
        if sentence := _over_budget(recipe, space):
            log.warn(sentence)
        if "squeeze" in wanted:
            if space.num_teachers:
                squeeze.run(space, recipe.squeeze)
            else:
                log.say("squeeze   no teacher is trained: neither images nor labels nor rows of the table ask one")
            experts.run(space, recipe.squeeze.experts, _needs(recipe).snapshots)
            copy.push()
        label = soft and recipe.relabel.mode != "given"
        if "recover" in wanted and recipe.images:
            imported_images.run(space, recipe.images, recipe.recover, teachers_label=label)
        elif "recover" in wanted:
            recover.run(space, recipe.method, recipe.recover, experts=recipe.squeeze.experts, teachers_label=label)
        copy.push()
        if "relabel" in wanted:
            relabel.run(space, recipe.relabel, recipe.evaluate.protocol, scored=scored_labels(recipe.evaluate.rows))
            copy.push()
        made = recipe_of(Run(space.out), recipe, log.warn)
        if "evaluate" in wanted:
            sets = baselines.make(space, recipe.recover, recipe.relabel, recipe.evaluate)
            evaluate.run(space, recipe.evaluate, recipe.squeeze, sets)
        if not ranks.is_first():
            return Result(space.out, [])
        if space.modules:
            made = made.changed(squeeze=squeeze.of_modules(made.squeeze, space.modules))
        atomic.write_text(space.out / "recipe.yaml", made.to_yaml(header_of(made.name)))
        classes = Run(space.out).images.classes if Run(space.out).is_done("recover") else ()
        published_figures.write(space.out, published_beside(made, classes))
        table = publish(space.out, wanted, log.warn)
        copy.push(last=True)
        return Result(space.out, table)


def split(recipe: Recipe[Any] | str, quiet: bool = False) -> list[Listed]:
    """Return every real picture of a recipe's data with its class and its split, training pictures first.

    Train a teacher of your own on those of the split 'train': students are measured on the others. Raises AttarError
    when the data cannot be read.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    return list(listing(recipe.data, recipe.seed, Log(quiet=quiet)))


@contextlib.contextmanager
def _log(out: Path, recipe: Recipe[Any], wanted: Sequence[Stage], quiet: bool) -> Iterator[Log]:
    """Yield the run's log, which records when the run began and how it ended; a run that finds no work writes none."""
    log = Log(out / "log.jsonl", quiet=quiet, hold=True)
    log.event("run", recipe=recipe.name, stages=wanted, processes=ranks.world_size())
    try:
        yield log
    except AttarError as error:
        log.event("stopped", why=str(error))
        raise
    except KeyboardInterrupt:
        log.event("stopped", why="Interrupted; the same command continues where it stopped.")
        raise
    except Exception as error:
        log.event("stopped", why=f"{type(error).__name__}: {error}")
        raise
    log.event("finished")


def plan(recipe: Recipe[Any], quiet: bool = False, out: Path | str = "") -> str:
    """Estimate a run: units, images and bytes, and hours and memory on this device, as lines of text.

    Opens the real data and times a few steps of every stage; writes nothing. ``out`` is the folder of a run that would
    be continued: a warning that images and labels outgrow ``recipe.budget_bytes`` counts what it has made.
    """
    log, recipe = Log(quiet=quiet), _with_members(recipe, len(recipe.squeeze.each))  # before the data are opened
    log.say(
        "The pictures are opened, and some steps of every stage are timed on this device: that takes about half a "
        "minute, and nothing is written."
    )
    with log.heartbeat("plan"):
        real = load(recipe.data, recipe.seed, Log(quiet=True))
        looked = damage.look((real.train, real.val))
        train, val = damage.readable((real.train, real.val), looked)
        real = replace(real, train=train, val=val)
        work = work_of(recipe, real)
        source = (
            f"Real data: {real.name}, {len(real.classes)} classes, {len(real.train)} training and {len(real.val)} "
            f"validation images"
        )
        found = [source, *looked.sentences(recipe.data.on_corrupt == "skip")]
        over = over_budget.warning(recipe.budget_bytes, work, real, recipe.data, Path(out) if out else None)
        found += [f"Warning: {over}"] * bool(over)
        return "\n".join([*found, *forecast.made(work), *forecast.lines(work)])


def work_of(recipe: Recipe[Any], real: RealData) -> Work:
    """Return what the recipe asks of this device on these data; raises AttarError when the run would refuse it."""
    recipe, num_classes = _with_members(recipe, len(recipe.squeeze.each)), len(real.classes)
    counts = np.bincount(real.train.labels, minlength=num_classes)
    if not recipe.images:
        smallest = real.classes[int(counts.argmin())]
        refuse_fewer(smallest, int(counts.min()), recipe.recover.ipc, recipe.recover.real_per_image())
    baselines.check_labels(recipe.relabel, recipe.evaluate, recipe.data.size, num_classes, _storage(recipe))
    return Work(
        execution=recipe.execution,
        counts=counts.tolist(),
        size=recipe.data.size,
        squeeze=recipe.squeeze,
        method=IMPORTED if recipe.images else recipe.method,
        recover=recipe.recover,
        relabel=recipe.relabel,
        evaluate=recipe.evaluate,
        kept=kept.find(real.classes, recipe.recover),
    )


def _check(space: Workspace, recipe: Recipe[Any], wanted: Sequence[Stage]) -> None:
    """Check before the run everything that would otherwise fail hours later."""
    real, done = space.real, Run(space.out)
    space.log.say(
        f"attar     {recipe.name}: {real.name}, {len(real.classes)} classes, {len(space.train_labels)} training and "
        f"{len(space.val_labels)} validation images, on {space.device.describe()}"
    )
    kept.refuse_more_classes(space)
    if recipe.images and recipe.recover.keep_from:
        raise AttarError("--images takes all images from elsewhere; leave out --recover.keep-from.")
    if not recipe.images and "recover" in wanted:
        kept.check(space, recipe.method, recipe.recover)
    networks = squeeze.check(space, recipe.squeeze) if space.num_teachers else []
    for index in members.of_images(space, recipe.recover):
        if (network := networks[index]) is not None and not recipe.images:
            architecture = recipe.squeeze.architecture if space.modules else recipe.squeeze.each[index].architecture
            teacher_check.check_network(network, architecture, recipe.method, recipe.recover)
    experts.check(space, recipe.squeeze.experts, _needs(recipe))
    baselines.check_labels(recipe.relabel, recipe.evaluate, recipe.data.size, len(real.classes), _storage(recipe))
    if use_soft_labels(recipe.evaluate.rows):
        _compare_temperatures(space, recipe, made=done.is_done("relabel"))
    if recipe.images and "recover" in wanted and not done.is_done("recover"):
        imported_images.check(space, recipe.images, recipe.recover)
    if done.is_done("relabel") and ("relabel" in wanted or use_soft_labels(recipe.evaluate.rows)):
        label_choice.refuse_absent(space.out / "distilled", recipe.relabel)
    if "relabel" in wanted and not done.is_done("relabel"):
        relabel.check_sources(recipe.relabel)
        own = baselines.of_run(recipe.evaluate) if "evaluate" in wanted else []
        baselines.check(space, recipe.method, recipe.recover, recipe.relabel, own, _storage(recipe))
    evaluate.check(space, recipe.evaluate)
    if "recover" in wanted and not recipe.images and not done.is_done("recover"):
        _check_learned(space, recipe)
    if not recipe.images:
        refuse_fewer(*baselines.fewest(space), recipe.recover.ipc, recipe.recover.real_per_image())


def _over_budget(recipe: Recipe[Any], space: Workspace) -> str:
    """Return a sentence if the set would outgrow the recipe's bytes; '' if not, or where there is no limit."""
    if not recipe.budget_bytes or not ranks.is_first():
        return ""
    work = work_of(recipe, space.real)
    return over_budget.warning(recipe.budget_bytes, work, space.real, recipe.data, space.out, space.modules)


def _compare_temperatures(space: Workspace, recipe: Recipe[Any], *, made: bool) -> None:
    """Warn if students train at another temperature than the one at which the labels spread what they leave out."""
    labels = label_choice.of_stored(space.out / "distilled", recipe.relabel) if made else recipe.relabel
    protocol, num_classes = recipe.evaluate.protocol, len(space.real.classes)
    if text := label_choice.other_temperature(labels, protocol, num_classes, made=made):
        space.log.warn(text)


def _with_epochs_of_labels(space: Workspace, recipe: Recipe[Any], *, soft: bool) -> Recipe[Any]:
    """Return the recipe with the epochs of the finished labels where other ones would change nothing for students."""
    asked, epochs = recipe.relabel, recipe.evaluate.protocol.training.epochs
    kept = label_choice.with_epochs_of(space.out / "distilled", asked, epochs, soft=soft)
    if soft and kept.mode == "stored" and kept.epochs > asked.epochs:
        space.log.say(f"relabel   the labels of {kept.epochs} epochs are kept; students train for {epochs}")
    return recipe.changed(relabel=kept)


def _check_learned(space: Workspace, recipe: Recipe[Any]) -> None:
    """Raise AttarError if the method does not make the labels that relabel uses; warn if it learns no learning rate."""
    learns = recipe.recover.learns()
    if recipe.relabel.mode == "given" and SOFT_LABELS not in learns:
        raise AttarError(
            f"The method {recipe.method} learns no soft labels with its images; use --relabel.mode stored, or a method "
            f"that learns labels (--method tesla with --recover.labels learned)."
        )
    if recipe.evaluate.protocol.learned_rate and STUDENT_RATE not in learns:
        space.log.warn(
            f"the method {recipe.method} learns no learning rate for students; they use the protocol's learning rate"
        )


def _with_members(recipe: Recipe[Any], num_teachers: int) -> Recipe[Any]:
    """Return the recipe with the labelling teachers numbered; raises AttarError for a teacher that does not exist."""
    if num_teachers:
        recipe.recover.members_of(num_teachers)
    committee = members.resolved(num_teachers, recipe.relabel.committee)
    return recipe.changed(relabel=recipe.relabel.changed(committee=committee))


def _asks_teachers(recipe: Recipe[Any]) -> bool:
    return asks_teachers(_needs(recipe), recipe.relabel, recipe.evaluate)


def _needs(recipe: Recipe[Any]) -> Needs:
    """Return what the recipe's images need; imported images need nothing."""
    return Needs(teachers="none") if recipe.images else recipe.recover.needs()


def _storage(recipe: Recipe[Any]) -> Storage:
    """Return how to decode the distilled images; imported images are plain."""
    return PLAIN if recipe.images else recipe.recover.storage()
