"""attar's own recipes: weak teachers that label during training, and real images that they have moved briefly.

They are made for a few minutes of a CPU. Three small ConvNets are trained for six, six and one epochs; together they
label better than one strong teacher does. Their weights are counted as the bytes of the labels.
"""

from typing import Any

from attar.data.choice import DataChoice
from attar.methods.attar import Config
from attar.ops.choices import ViewChoice
from attar.recipes.recipe import BuiltInRecipe, Recipe, recipe, relabel_section
from attar.recipes.settings import CIFAR_MEAN, CIFAR_STD
from attar.stages import rows
from attar.stages.choices import Evaluate, Member, Squeeze
from attar.stages.protocols import PROTOCOLS
from attar.training.choices import Optimisation

_WEAK = Optimisation(epochs=6, batch_size=128, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, warmup_epochs=0.5)


_ITERATIONS = {1: 1000, 10: 100, 50: 100}
"""By images per class, chosen on held-out images: a single image gains from ten times as many."""


def _cifar10(ipc: int, epochs: int) -> Recipe[Any]:
    student = "convnet3_w64"
    protocol = PROTOCOLS["attar-small"]
    protocol = protocol.changed(training=protocol.training.changed(epochs=epochs))
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
        recover=Config(ipc=ipc, unit_slots=min(ipc, 10), unit_classes=10, iterations=_ITERATIONS[ipc]),
        relabel=relabel_section(protocol.name, {"mode": "online", "epochs": epochs}),
        evaluate=Evaluate(
            protocol=protocol,
            students=(student,),
            full_data="teacher",
            rows=(rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, rows.RANDOM_HARD, rows.EQUAL_BYTES, rows.FULL),
        ),
    )


_FOUND = {1: (1000, "45.5", "43.7"), 10: (200, "60.6", "57.3"), 50: (40, "62.3", "58.7")}
"""By images per class: epochs of the students; top-1 % that was found, and that of random real images with the same labels."""

RECIPES = {
    f"attar/cifar10-ipc{ipc}": BuiltInRecipe(
        aim=f"attar's own, no published row: {ours} % with a ConvNet of width 64 (random real images: {random} %)",
        cost="11 minutes of one CPU core for the teachers, seconds for the images, about a minute for each student",
        build=lambda ipc=ipc, epochs=epochs: _cifar10(ipc, epochs),
    )
    for ipc, (epochs, ours, random) in _FOUND.items()
}
