"""DWA: diversity-driven synthesis by directed weight adjustment (Du et al., 2024, arXiv 2409.17612)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Crops, Pixels, Starts, Statistics, Teachers
from attar.synthesis.committee_choices import Adjusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    Crops,
    Statistics,
    Starts,
    Teachers,
    Adjusted,
    defaults={"iterations": 2000, "start": "real", "variance_weight": 11.0},
):
    """Real images, optimised through a teacher whose weights were moved away from them first.

    Every unit has its own weights, so its images differ more from those of other units.
    """


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Adjust the teacher for one unit of images, and optimise them through it."""
    from attar.synthesis.adjustment import adjusted
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(adjusted(task, config), config))
