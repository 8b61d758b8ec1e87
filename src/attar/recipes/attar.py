"""attar's own recipes: weak teachers that label during training, and real images that they have moved briefly.

They are made for a few minutes of a CPU. Three small ConvNets are trained for six, six and one epochs; together they
label better than one strong teacher does, and the first one alone moves the images. Their weights are counted as the bytes
of the labels. The recipes that end with -hard do without the labels, and so without the other two teachers.
"""

from dataclasses import dataclass
from typing import Any

from attar.data.choice import DataChoice
from attar.methods.attar import Config
from attar.ops.choices import ViewChoice
from attar.recipes.published import note
from attar.recipes.recipe import BuiltInRecipe, Recipe, recipe, relabel_section
from attar.recipes.settings import CIFAR_MEAN, CIFAR_STD, hard_rows
from attar.stages import rows
from attar.stages.choices import Evaluate, Member, Squeeze
from attar.stages.protocols import PROTOCOLS
from attar.training.choices import Optimisation

_WEAK = Optimisation(epochs=6, batch_size=128, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, warmup_epochs=0.5)


@dataclass(frozen=True)
class _Size:
    """A number of images per class, with top-1 % as measured."""

    iterations: int
    """Chosen on held-out images: a single image per class gains from ten times as many."""
    epochs: int
    """Of the students."""
    soft: str
    """With the teachers' labels."""
    soft_random: str
    """Of random real images with the same labels."""
    hard: str
    """With hard labels."""
    hard_random: str


_SIZES = {
    1: _Size(1000, 1000, "50.5", "43.9", "23.2", "16.4"),
    10: _Size(100, 200, "62.8", "57.5", "37.1", "30.9"),
    50: _Size(100, 40, "64.6", "59.2", "48.7", "42.9"),
}


def _cifar10(ipc: int, size: _Size) -> Recipe[Any]:
    student = "convnet3_w64"
    protocol = PROTOCOLS["attar-small"]
    protocol = protocol.changed(training=protocol.training.changed(epochs=size.epochs))
    return recipe(
        name=f"attar/cifar10-ipc{ipc}",
        method="attar",
        data=DataChoice(source="cifar10", size=32, mean=CIFAR_MEAN, std=CIFAR_STD),
        squeeze=Squeeze(
            architecture=student,
            training=_WEAK,
            views=ViewChoice(crop="padded"),
            members=(Member(), Member(), Member(training={"epochs": 1})),
        ),
        recover=Config(
            ipc=ipc, unit_slots=min(ipc, 10), unit_classes=10, iterations=size.iterations, image_format="webp"
        ),
        relabel=relabel_section(protocol.name, {"mode": "online", "epochs": size.epochs, "teacher_precision": "int8"}),
        evaluate=Evaluate(
            protocol=protocol,
            students=(student,),
            full_data="teacher",
            rows=(rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, rows.RANDOM_HARD, rows.EQUAL_BYTES, rows.FULL),
        ),
    )


def _hard(ipc: int, size: _Size) -> Recipe[Any]:
    """The same images, from the only teacher that they need, for students with hard labels."""
    soft = _cifar10(ipc, size)
    return hard_rows(soft.changed(name=f"{soft.name}-hard", squeeze=soft.squeeze.changed(members=())))


def _entries(ipc: int, size: _Size) -> dict[str, BuiltInRecipe]:
    own = "attar's own, no published row:"
    return {
        f"attar/cifar10-ipc{ipc}": BuiltInRecipe(
            note(f"{own} {size.soft} % with a ConvNet of width 64 (random real images: {size.soft_random} %)"),
            "11 minutes of one CPU core for the teachers, seconds for the images, about a minute for each student",
            lambda: _cifar10(ipc, size),
        ),
        f"attar/cifar10-ipc{ipc}-hard": BuiltInRecipe(
            note(
                f"{own} {size.hard} % with a ConvNet of width 64 and hard labels (random real images: {size.hard_random} %)"
            ),
            "5 minutes of one CPU core for the teacher, seconds for the images and for each student",
            lambda: _hard(ipc, size),
        ),
    }


RECIPES = {name: entry for ipc, size in _SIZES.items() for name, entry in _entries(ipc, size).items()}
