"""FADRM: fast and accurate data residual matching (Cui et al., 2025, arXiv 2506.24125)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.synthesis.choices import Crops, Starts, Statistics, Teachers
from attar.synthesis.stretch_choices import Blocks

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

    revision: ClassVar[int] = 2


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images, block by block."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.stretches import between_of
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config, between_of(config)))
