"""LPLD: soft labels that can be pruned, from class-wise images (Xiao & He, 2024, arXiv 2410.15919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Curricula, Pixels, Starts, Statistics, Teachers
from attar.synthesis.method import Needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels, Curricula, Statistics, Starts, Teachers, defaults={"unit_classes": 1, "unit_slots": 200, "target": "class"}
):
    """CDA with all images of a class optimised together, towards the statistics of that class alone.

    The statistics are exact, in the teacher's evaluation mode; the paper collects a moving average in training mode.
    """

    def needs(self) -> Needs:
        """Units of one class each."""
        return super().needs() | Needs(unit="class")


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect statistics of them, where the settings ask for it."""
    from attar.synthesis import starts, statistics

    return (*starts.preparations(config), *statistics.preparations(config))


def recover(task: Task, config: Config) -> Recovered:
    """Optimise the images of one class."""
    from attar.synthesis.committee import committee_of
    from attar.synthesis.optimise import optimise
    from attar.synthesis.starts import start_of
    from attar.synthesis.statistics import statistics_of
    from attar.synthesis.task import Recovered
    from attar.synthesis.terms import CrossEntropy
    from attar.synthesis.views import views_of

    loss = (CrossEntropy(), statistics_of(task, config))
    start, views = start_of(task, config), views_of(task, config)
    return Recovered(optimise(task, config, start, views, loss, teachers=committee_of(task, config)))
