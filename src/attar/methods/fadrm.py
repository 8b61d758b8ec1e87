"""FADRM: fast and accurate data residual matching (Cui et al., 2025, arXiv 2506.24125)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Blocks, Crops, Starts, Statistics, Teachers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Blocks,
    Crops,
    Statistics,
    Starts,
    Teachers,
    defaults={"iterations": 2000, "start": "patches", "patch_rule": "medium"},
):
    """Patches of real images, optimised in blocks; after each block half of the patch is put back in.

    With several teachers in turn, ``--recover.committee round-robin``, this is FADRM+.
    """


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect statistics of them, where the settings ask for it."""
    from attar.synthesis import starts, statistics

    return (*starts.preparations(config), *statistics.preparations(config))


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images, block by block."""
    from attar.synthesis.committee import committee_of
    from attar.synthesis.optimise import optimise
    from attar.synthesis.starts import start_of
    from attar.synthesis.statistics import statistics_of
    from attar.synthesis.stretches import between_of
    from attar.synthesis.task import Recovered
    from attar.synthesis.terms import CrossEntropy
    from attar.synthesis.views import views_of

    loss = (CrossEntropy(), statistics_of(task, config))
    start, views, turns = start_of(task, config), views_of(task, config), committee_of(task, config)
    return Recovered(optimise(task, config, start, views, loss, teachers=turns, between=between_of(config)))
