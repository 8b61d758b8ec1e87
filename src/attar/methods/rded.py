"""RDED: realistic, diverse and efficient dataset distillation (Sun et al., 2024, arXiv 2312.03526)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.choices import Patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attar.synthesis.method import Preparation
    from attar.synthesis.task import Recovered, Task


class Config(Patches, defaults={"patch_rule": "lowest"}):
    """The patches of real images that the teacher is surest of, side by side in one image; nothing is optimised."""


def prepare(config: Config) -> Sequence[Preparation]:
    """Score crops of real images."""
    from attar.synthesis.starts import preparations

    return preparations(config)


def recover(task: Task, config: Config) -> Recovered:
    """Tile the patches of each slot."""
    from attar.synthesis.starts import patches
    from attar.synthesis.task import Recovered

    return Recovered(patches(task, config))
