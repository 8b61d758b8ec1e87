"""SRe2L: squeeze, recover, relabel (Yin, Xing & Shen, 2023, arXiv 2306.13092)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.method import Inversion, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Task

needs = Needs(batchnorm=True)


class Config(Inversion):
    """Pixel optimisation under random crops of every size from the first iteration on."""


def recover(task: Task, config: Config) -> Float[Tensor, "image 3 height width"]:
    """Optimise one unit of images from noise; returns pixels in [0, 1]."""
    from attar.synthesis.optimise import noise, optimise, shared_crops

    return optimise(task, config, noise(task), shared_crops(task, config))
