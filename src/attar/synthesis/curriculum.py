"""The crop curriculum of CDA: how small a crop may be, from the first iteration to the last."""

import math
from typing import Literal

Curriculum = Literal["none", "step", "linear", "cosine"]


def lower_bound(iteration: int, iterations: int, curriculum: Curriculum, milestone: float, floor: float) -> float:
    """Smallest area fraction of a crop at ``iteration`` (0-based) of ``iterations``.

    Until ``milestone * iterations`` the bound falls from 1 (the whole image) to ``floor``: 'step' keeps it at 1 till
    then, 'linear' and 'cosine' go down gradually; afterwards it is ``floor``. 'none' is ``floor`` throughout, which is
    SRe2L. Source: Yin & Shen, 2023 (arXiv 2311.18838), section 3, and its three published scripts.
    """
    horizon = milestone * iterations
    if curriculum == "none" or iteration >= horizon:
        return floor
    progress = iteration / horizon
    if curriculum == "step":
        return 1.0
    if curriculum == "linear":
        return floor + (1 - floor) * (1 - progress)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
