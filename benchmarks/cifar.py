"""The campaign's rows on CIFAR, in the order of their worth: attar with a ResNet-18, then the rows of other papers.

Rows that train teachers of their own come first, because the strong teacher of the other rows takes minutes.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attar
from attar.recipes.catalogue import ENTRIES, recipe_named
from attar.recipes.recipe import Recipe
from attar.stages.rows import use_soft_labels
from campaign import Campaign, Piece
from carried import chosen, shortened, summarised, train_teacher, with_teacher

NUM_EXPERTS = 10
"""In place of the published hundred: an expert takes about half a minute of a large GPU."""
STUDENT, EPOCHS = "resnet18", 1000
STRONGER = ({"epochs": 20}, {"epochs": 20}, {"epochs": 4})
"""How long the three teachers train where they are ResNet-18."""


@dataclass(frozen=True)
class Row:
    """A recipe, and what is changed in it."""

    recipe: str
    change: Callable[[Recipe[Any]], Recipe[Any]] = lambda recipe: recipe
    note: str = ""

    @property
    def name(self) -> str:
        """Name of the piece, and of the run's folder."""
        return f"{self.recipe}, {self.note}" if self.note else self.recipe


def large_student(recipe: Recipe[Any]) -> Recipe[Any]:
    """A ResNet-18 that trains as long as EDC's."""
    protocol = recipe.evaluate.protocol
    protocol = protocol.changed(training=protocol.training.changed(epochs=EPOCHS))
    return recipe.changed(
        relabel=recipe.relabel.changed(epochs=EPOCHS),
        evaluate=recipe.evaluate.changed(protocol=protocol, students=(STUDENT,)),
    )


def large_teachers(recipe: Recipe[Any]) -> Recipe[Any]:
    """The same with three ResNet-18 for teachers."""
    squeeze = recipe.squeeze.changed(architecture=STUDENT, members=[{"training": training} for training in STRONGER])
    return large_student(recipe.changed(squeeze=squeeze))


def longer_teachers(recipe: Recipe[Any]) -> Recipe[Any]:
    """Teachers that train for ten epochs: whether the published row rests on stronger ones."""
    training = recipe.squeeze.training.changed(epochs=10)
    return recipe.changed(squeeze=recipe.squeeze.changed(training=training))


OWN_TEACHERS: Mapping[str, tuple[Row, ...]] = {
    "cifar10": (
        Row("attar/cifar10-ipc10", large_student, "resnet18"),
        Row("attar/cifar10-ipc10", large_teachers, "resnet18 teachers"),
        Row("edc/cifar10-ipc10"),
        Row("edc/cifar10-ipc10", longer_teachers, "ten epochs"),
        Row("dm/cifar10-ipc10"),
        Row("tesla/cifar10-ipc1"),
        Row("mtt/cifar10-ipc1"),
        Row("attar/cifar10-ipc50", large_teachers, "resnet18 teachers"),
        Row("dm/cifar10-ipc1"),
    ),
    "cifar100": (),
}
FIRST = ("cim/cifar10-ipc10", "fadrm/cifar100-ipc10")
"""Of the rows with the strong teacher."""


def rows(dataset: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows with teachers of their own, and those with the strong one: all recipes whose labels one teacher gives."""
    own, names = OWN_TEACHERS[dataset], [*FIRST, *(name for name in ENTRIES if name not in FIRST)]
    of_dataset = [name for name in names if name.partition("/")[2].startswith(f"{dataset}-ipc")]
    return own, tuple(Row(name) for name in of_dataset if takes_one_teacher(recipe_named(name)))


def takes_one_teacher(recipe: Recipe[Any]) -> bool:
    """Whether a recipe's labels and images come from a single teacher."""
    return not recipe.squeeze.members and use_soft_labels(recipe.evaluate.rows)


def prepared(campaign: Campaign, row: Row, teacher: Path | None) -> Recipe[Any]:
    """The recipe on the images that were carried, distilled and random images beside each other.

    Rows with hard labels are those of hard-label recipes; the strong teacher gets a row where it is used.
    """
    soft = use_soft_labels(recipe_named(row.recipe).evaluate.rows)
    shown = ("distilled", "random-soft") if soft else ("distilled-hard", "random-hard")
    recipe = row.change(chosen(campaign, row.recipe, campaign.step, whole=True))
    squeeze = recipe.squeeze.changed(experts=recipe.squeeze.experts.changed(number=1 if campaign.dry else NUM_EXPERTS))
    recipe = recipe.changed(
        squeeze=squeeze,
        evaluate=recipe.evaluate.changed(rows=(*shown, *(("full",) if teacher else ()))),
    )
    recipe = shortened(recipe) if campaign.dry else recipe
    return with_teacher(recipe, teacher) if teacher else recipe


def measured(row: Row, strong: bool, campaign: Campaign) -> dict[str, Any]:
    """A whole run of one row."""
    recipe = prepared(campaign, row, campaign.folder if strong else None)
    folder = campaign.folder / row.name.replace("/", "-").replace(", ", "-").replace(" ", "-")
    return summarised(attar.run(recipe, folder).table)


def pieces(dataset: str) -> list[Piece]:
    """Rows with their own teachers, the strong teacher, and the rows that need it, of which the first is rehearsed."""
    own, others = rows(dataset)
    train = functools.partial(train_teacher, name=others[0].recipe, dataset=dataset)
    return [
        *(Piece(row.name, functools.partial(measured, row, False), 60.0) for row in own),
        Piece("teacher", train, 60.0),
        *(Piece(row.name, functools.partial(measured, row, True), 60.0, rehearsed=row == others[0]) for row in others),
    ]
