"""Inversion of teachers by cross-entropy and layer statistics, as SRe2L, CDA, LPLD, EDC, FADRM, DELT and G-VBSM share
it.

A method's configuration decides the start, the views, the statistics and the teachers.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from attar.synthesis import difficulty, starts, statistics
from attar.synthesis.committee import committee_of
from attar.synthesis.method import Preparation
from attar.synthesis.optimise import optimise
from attar.synthesis.stretches import Between
from attar.synthesis.task import Task
from attar.synthesis.terms import CrossEntropy, Term
from attar.synthesis.views import views_of


def preparations(config: Any) -> tuple[Preparation, ...]:
    """Return the steps that choose patches of real images, rank them by difficulty and collect statistics of them, if
    the settings need them.

    ``config`` is composed of the groups Statistics and Starts.
    """
    return (*starts.preparations(config), *statistics.preparations(config), *difficulty.preparations(config))


def invert(
    task: Task, config: Any, between: Between | None = None, more: Sequence[Term] = ()
) -> Float[Tensor, "image 3 height width"]:
    """Optimise one unit of images until the teachers recognise them and their statistics are met; pixels in [0, 1].

    ``config`` is composed of the groups Pixels, Crops, Statistics, Starts and Teachers. ``between`` is as in
    ``optimise``; ``more`` are further terms of the loss. Source: SRe2L (arXiv 2306.13092), section 3.2.
    """
    loss = (CrossEntropy(), statistics.statistics_of(task, config), *more)
    start, views, teachers = starts.start_of(task, config), views_of(task, config), committee_of(task, config)
    return optimise(task, config, start, views, loss, teachers=teachers, between=between)
