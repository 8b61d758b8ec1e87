"""Settings of teachers that differ from unit to unit. Nothing here imports PyTorch."""

from __future__ import annotations

from typing import Literal

import pydantic

from attar.synthesis.choices import Teachers
from attar.synthesis.method import MethodConfig, Needs


class Voters(Teachers):
    """Choose which teachers of a committee optimise each unit (CV-DD)."""

    voters: int = pydantic.Field(default=2, ge=0)
    """Teachers that optimise a unit, for the committees 'mean' and 'weighted'; 0, or more than there are: all."""
    voters_chosen: Literal["in-turn", "random"] = "in-turn"
    """Which teachers optimise a unit. 'in-turn': every group of so many, one after the other from slot to slot;
    'random': a random group for each slot. All classes of a slot have the same teachers."""

    def idle(self) -> dict[str, str]:
        """Settings of voters, which have no effect where one teacher is asked in an iteration."""
        settings = dict.fromkeys(("voters", "voters_chosen"), "--committee mean or weighted")
        return super().idle() | ({} if self.committee in ("mean", "weighted") else settings)

    def passes(self, num_teachers: int) -> tuple[float, ...]:
        """Passes through each teacher in one iteration, averaged over slots."""
        if self.committee not in ("mean", "weighted") or not 0 < self.voters < num_teachers:
            return super().passes(num_teachers)
        return (self.voters / num_teachers,) * num_teachers


class Adjusted(MethodConfig):
    """Adjust the weights of the teachers for each unit before its images are optimised (DWA)."""

    adjust_steps: int = pydantic.Field(default=12, ge=0)
    """Steps on the teacher's weights, each towards a higher cross-entropy of the unit's first images; 0: none."""
    adjust_length: float = pydantic.Field(default=0.015, ge=0)
    """Length of all steps together, as a Euclidean distance of the weights (rho)."""
    adjust_onwards: bool = False
    """Begin with the weights that were adjusted for the classes before, not with the teacher's own. The published code
    does so where a slot has several units, as on ImageNet-1K."""

    def idle(self) -> dict[str, str]:
        """The number of units in a batch, which is one; settings of the adjustment, if there are no steps."""
        unused = dict.fromkeys(("adjust_length", "adjust_onwards"), "--adjust-steps above 0")
        batch = {"parallel_units": "methods whose units share a teacher's weights"}
        return super().idle() | batch | ({} if self.adjust_steps else unused)

    def needs(self) -> Needs:
        """Teachers of its own for each unit: units cannot share a batch."""
        return super().needs() | Needs(side_by_side=False)
