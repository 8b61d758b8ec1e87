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
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images under random crops."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
