"""LPLD: soft labels that can be pruned, from class-wise images (Xiao & He, 2024, arXiv 2410.15919)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.synthesis.choices import Curricula, Pixels, Starts, Statistics, Teachers
from attar.synthesis.method import Needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    Curricula,
    Statistics,
    Starts,
    Teachers,
    defaults={"unit_classes": 1, "unit_slots": 200, "target": "class", "curriculum": "none"},
):
    """SRe2L with all images of a class optimised together, towards the statistics of that class alone.

    The statistics are exact, in the teacher's evaluation mode; the paper collects a moving average in training mode.
    """

    revision: ClassVar[int] = 2

    def needs(self) -> Needs:
        """Units of one class each."""
        return super().needs() | Needs(unit="class")


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise the images of one class."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
