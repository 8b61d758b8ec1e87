"""CV-DD: dataset distillation via committee voting (Cui et al., 2025, arXiv 2501.07575)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Crops, Pixels, Starts, Statistics
from attar.synthesis.committee_choices import Voters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    Crops,
    Statistics,
    Starts,
    Voters,
    defaults={"start": "patches", "patch_rule": "medium", "committee": "weighted"},
):
    """Patches of real images, optimised by two teachers of a committee whose votes have the weight of their accuracy.

    Every slot is optimised by other two. The labels of the paper are those of all teachers:
    ``--relabel.committee.policy weighted``.
    """


def prepare(config: Config) -> Sequence[Preparation]:
    """Choose patches of real images and collect their statistics, if the settings need them."""
    from attar.synthesis import inversion

    return inversion.preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Optimise one unit of images by the teachers that vote on it."""
    from attar.synthesis.inversion import invert
    from attar.synthesis.task import Recovered

    return Recovered(invert(task, config))
