"""CDA: curriculum data augmentation (Yin & Shen, 2023, arXiv 2311.18838)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic

from attar.synthesis.curriculum import Curriculum
from attar.synthesis.method import Inversion, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Task

needs = Needs(batchnorm=True)


class Config(Inversion):
    """SRe2L's pixel optimisation with crops that go from the whole image to small parts."""

    curriculum: Curriculum = "cosine"
    """How the smallest crop's area falls from 1 to min_crop; 'none' is SRe2L."""
    milestone: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Fraction of the iterations after which the smallest crop has reached min_crop."""


def recover(task: Task, config: Config) -> Float[Tensor, "image 3 height width"]:
    """Optimise one unit of images from noise, easy views first; returns pixels in [0, 1]."""
    from attar.synthesis.optimise import noise, optimise, shared_crops

    return optimise(task, config, noise(task), shared_crops(task, config, config.curriculum, config.milestone))
