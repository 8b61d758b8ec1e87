"""The choices for someone's pictures with the settings that were typed: what the table and the file say of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attar.recipes import reasons
from attar.recipes.choose import Chosen
from attar.recipes.chosen_set import ChosenSet
from attar.recipes.reasons import Reason
from attar.recipes.recipe import Recipe

_WHY = "as you asked"


def with_settings(found: Chosen, recipe: Recipe[Any]) -> Chosen:
    """Return the choices of ``found`` with its recipe changed to ``recipe``: changed choices, and the time, are told anew.

    A choice that no setting changed keeps its reason.
    """
    if recipe == found.recipe:
        return found
    made = replace(found.made, recipe=recipe)
    told = tuple(_told(one, found.recipe, recipe, made, found.speed) for one in found.reasons)
    return replace(found, recipe=recipe, reasons=told, made=made)


def stale(before: Recipe[Any], now: Recipe[Any]) -> tuple[str, ...]:
    """Return the first cells of the rows that do not tell what the recipe ``now`` does, if they told ``before``."""
    of_number = ("images per class", "bytes", "students") if now.recover.ipc != before.recover.ipc else ()
    return (*(row for row, (says, _) in _ROWS.items() if says(now) != says(before)), *of_number, reasons.TIME)


def _told(one: Reason, before: Recipe[Any], now: Recipe[Any], made: ChosenSet, speed: float) -> Reason:
    """Return a choice as it is with the settings typed."""
    if one.what == reasons.TIME:
        if now.squeeze.architecture != before.squeeze.architecture:
            return Reason(one.what, "not known", reasons.ONLY_CHOSEN)
        return reasons.time(made, speed)
    if one.what not in _ROWS:
        return one
    says, words = _ROWS[one.what]
    return one if says(now) in (says(before), None) else Reason(one.what, words(now, made), _WHY)


def _colour(recipe: Recipe[Any], made: ChosenSet) -> str:
    return "grey" if getattr(recipe.recover, "grey", False) else "colour"


def _flips(recipe: Recipe[Any]) -> tuple[bool, ...]:
    own = getattr(recipe.recover, "flip", None)
    return (*([] if own is None else [own]), recipe.squeeze.views.flip, recipe.relabel.views.flip)


def _flipped(recipe: Recipe[Any], made: ChosenSet) -> str:
    found = set(_flips(recipe))
    return "in some stages" if len(found) > 1 else "yes" if found == {True} else "no"


def _trained(recipe: Recipe[Any]) -> list[tuple[Any, ...]]:
    return [(each.training, each.weights) for each in recipe.squeeze.each]


def _teachers(recipe: Recipe[Any], made: ChosenSet) -> str:
    epochs = made.teachers_epochs
    own = len(recipe.squeeze.each) - len(epochs)
    trained = f"{len(epochs)}, of {_listed(epochs)} epoch{'s' * (max(epochs) > 1)}" if epochs else ""
    return " and ".join(filter(None, (trained, f"{own} of your own" * bool(own))))


def _listed(numbers: tuple[int, ...]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _method(recipe: Recipe[Any], made: ChosenSet) -> str:
    steps = f"{made.iterations:,} step{'s' if made.iterations > 1 else ''}"
    return f"{recipe.method}, {steps}" if made.iterations else recipe.method


def _stored(recipe: Recipe[Any]) -> tuple[Any, ...]:
    recover = recipe.recover
    return recover.image_format, recover.image_quality, recipe.relabel.mode, recipe.relabel.teacher_precision


def _format(recipe: Recipe[Any], made: ChosenSet) -> str:
    kind, quality = recipe.recover.image_format, recipe.recover.image_quality
    name = "WebP" if kind == "webp" else kind.upper()
    return f"{name}, quality {quality}" if quality else name


def _students(recipe: Recipe[Any], made: ChosenSet) -> str:
    names, seeds = recipe.evaluate.students, recipe.evaluate.num_seeds
    return f"{seeds} of {' and '.join(names)}, {made.student_epochs} epochs"


_ROWS: dict[str, tuple[Callable[[Recipe[Any]], Any], Callable[[Recipe[Any], ChosenSet], str]]] = {
    "colour": (lambda recipe: getattr(recipe.recover, "grey", None), _colour),
    "mirrored": (lambda recipe: set(_flips(recipe)), _flipped),
    "network": (lambda recipe: recipe.squeeze.architecture, lambda recipe, made: recipe.squeeze.architecture),
    "teacher": (_trained, _teachers),
    "teachers": (_trained, _teachers),
    "method": (lambda recipe: (recipe.method, getattr(recipe.recover, "iterations", 0)), _method),
    "labels": (lambda recipe: recipe.relabel.mode, lambda recipe, made: f"{made.labels}, mode {recipe.relabel.mode}"),
    "bytes": (_stored, _format),
    "students": (
        lambda recipe: (recipe.evaluate.students, recipe.evaluate.num_seeds, recipe.evaluate.protocol),
        _students,
    ),
}
"""For the first cell of a row: the settings that it tells, and its second cell."""
