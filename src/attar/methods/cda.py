"""CDA: curriculum data augmentation (Yin & Shen, 2023, arXiv 2311.18838)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Curricula, Pixels, Starts, Statistics, Teachers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(Pixels, Curricula, Statistics, Starts, Teachers):
    """SRe2L's pixel optimisation with crops that go from the whole image to small parts."""


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images under easy views first."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
