"""G-VBSM: various backbone and statistical matching (Shao et al., 2023, arXiv 2311.17950)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Crops, Diverse, Pixels, Starts, Statistics, Teachers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    Crops,
    Statistics,
    Diverse,
    Starts,
    Teachers,
    defaults={
        "unit_classes": 10,
        "unit_slots": 10,
        "learning_rate": 0.05,
        "observe": ("batchnorm", "convolution", "patches"),
        "statistics_momentum": 0.8,
        "committee": "round-robin",
    },
):
    """Pixel optimisation from noise for statistics of several layers, met by teachers that take turns, with a term that
    keeps the images of a class different.

    Units hold all images of a few classes.
    """


def prepare(config: Config) -> Sequence[Preparation]:
    """Collect the statistics of real images that a teacher does not keep itself."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images, one teacher an iteration."""
    from attar.synthesis.diversity import diversity_of
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config, more=diversity_of(config)))
