"""attar's own: real images, moved briefly until a weak teacher is sure of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.synthesis.choices import Crops, Pixels, Starts, Teachers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    Crops,
    Starts,
    Teachers,
    defaults={
        "unit_classes": 10,
        "unit_slots": 10,
        "iterations": 100,
        "learning_rate": 0.05,
        "min_crop": 0.5,
        "jitter": 0,
        "views_per_image": True,
        "start": "real",
    },
):
    """Real images moved by cross-entropy alone, for few iterations, by the first teacher.

    Statistics of layers and further teachers are left out on purpose: they cost accuracy under soft labels
    (docs/methods.md has the measurements). Each image is seen through a crop of its own.
    """

    revision: ClassVar[int] = 2


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images or rank them by difficulty, if the start is one of these."""
    from attar.synthesis import difficulty, starts

    return (*starts.preparations(config), *difficulty.preparations(config))


def recover(task: Task, config: Config) -> Recovered:
    """Move one unit of images."""
    from attar.synthesis.committee import committee_of
    from attar.synthesis.optimise import optimise
    from attar.synthesis.starts import start_of
    from attar.synthesis.task import Recovered
    from attar.synthesis.terms import CrossEntropy
    from attar.synthesis.views import views_of

    start, views, teachers = start_of(task, config), views_of(task, config), committee_of(task, config)
    return Recovered(optimise(task, config, start, views, (CrossEntropy(),), teachers=teachers))
