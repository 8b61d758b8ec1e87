"""DELT: diversity-driven early-late training (Shen et al., 2024, arXiv 2411.19946)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Curricula, Starts, Statistics, Teachers
from attar.synthesis.stretch_choices import EarlyLate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    EarlyLate,
    Curricula,
    Statistics,
    Starts,
    Teachers,
    defaults={
        "unit_classes": 10,
        "unit_slots": 10,
        "jitter": 0,
        "start": "patches",
        "patch_rule": "medium",
        "patch_crops": 0,
        "patch_pool": 1300,
    },
):
    """CDA from real images of medium difficulty; the images of a class join the optimisation one group after the other.

    Units hold all images of a few classes. Those of the first slots are nearest to the median and optimised longest.
    """


def prepare(config: Config) -> Sequence[Preparation]:
    """Rank the real images of each class by the teacher's probability, and collect statistics if the settings ask."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images, of which more take part from round to round."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
