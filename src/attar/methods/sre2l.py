"""SRe2L: squeeze, recover, relabel (Yin, Xing & Shen, 2023, arXiv 2306.13092)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Crops, Pixels, Starts, Statistics, Teachers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(Pixels, Crops, Statistics, Starts, Teachers):
    """Pixel optimisation under random crops of every size from the first iteration on."""


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect statistics of them, where the settings ask for it."""
    from attar.synthesis import starts, statistics

    return (*starts.preparations(config), *statistics.preparations(config))


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images under random crops."""
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
