"""Committees: which teachers are used in an iteration, for which units, and with what weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.synthesis.choices import Teachers
from attar.synthesis.task import Task


class Share(NamedTuple):
    """The units that one teacher sees in an iteration, and their weights."""

    teacher: int
    """Index of the teacher in ``task.teachers``."""
    units: Int[Tensor, " part"] | None = None
    """Indices of the units that it sees, without repeats and the same in all iterations of a task; None: all units."""
    weight: Float[Tensor, " part"] | None = None
    """Weight of the teacher's loss for each of these units; None: 1."""


class Committee(Protocol):
    """Decides which teachers are used in an iteration. Their weighted losses are summed in order."""

    def turn(self, iteration: int) -> Sequence[Share]:
        """Return the shares of an iteration; iterations count from 0 over all stretches of a unit."""
        ...


@dataclass(frozen=True)
class One:
    """Always the same teacher."""

    teacher: int = 0

    def turn(self, iteration: int) -> Sequence[Share]:
        """All units, one teacher."""
        return (Share(self.teacher),)


@dataclass(frozen=True)
class RoundRobin:
    """One teacher per iteration, in order; the counter continues across stretches and restarts with each unit."""

    num_teachers: int

    def turn(self, iteration: int) -> Sequence[Share]:
        """All units, the next teacher."""
        return (Share(iteration % self.num_teachers),)


@dataclass(frozen=True)
class Drawn:
    """One random teacher per iteration, the same for all units of a run, so that units can share a batch."""

    task: Task

    def turn(self, iteration: int) -> Sequence[Share]:
        """All units, a random teacher."""
        stream = self.task.shared_stream("member", iteration)
        return (Share(int(torch.randint(len(self.task.teachers), (1,), generator=stream))),)


@dataclass(frozen=True)
class Mean:
    """All teachers in every iteration, with the mean of their losses."""

    num_teachers: int
    num_units: int
    device: torch.device

    def turn(self, iteration: int) -> Sequence[Share]:
        """All units, every teacher."""
        weight = torch.full((self.num_units,), 1 / self.num_teachers, device=self.device)
        return tuple(Share(teacher, weight=weight) for teacher in range(self.num_teachers))


def committee_of(task: Task, config: Teachers) -> Committee:
    """Return the configured committee of the task's teachers."""
    count = len(task.teachers)
    if config.committee == "one" or count == 1:
        return One()
    if config.committee == "round-robin":
        return RoundRobin(count)
    if config.committee == "random":
        return Drawn(task)
    return Mean(count, len(task.unit_sizes), task.device)
