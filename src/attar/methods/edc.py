"""EDC: elucidating the design space of dataset condensation (Shao et al., 2024, arXiv 2404.13733)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.synthesis.choices import Crops, Pixels, Starts, Statistics, Teachers

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
    defaults={
        "unit_classes": 10,
        "unit_slots": 10,
        "iterations": 2000,
        "learning_rate": 0.05,
        "min_crop": 0.5,
        "jitter": 0,
        "observe": ("batchnorm", "convolution", "patches"),
        "target": "mixed",
        "class_variance": "within",
        "statistics_momentum": 0.8,
        "start": "real",
        "start_flip": True,
        "committee": "round-robin",
    },
):
    """Real images optimised for statistics of several layers, met on average over teachers that take turns.

    Units hold all images of a few classes. The flatness term, which the released code leaves off, is not offered.
    """

    revision: ClassVar[int] = 2


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images, one teacher an iteration."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
