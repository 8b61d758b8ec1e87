"""Committees: which teachers are used in an iteration, for which units, and with what weight."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.synthesis.choices import Teachers
from attar.synthesis.committee_choices import Voters
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


@dataclass(frozen=True, eq=False)
class Weighted:
    """Several teachers in every iteration, with a weighted mean of their losses (CV-DD, arXiv 2501.07575, section 3).

    Each unit has its own weights, so units that are optimised by other teachers can share a batch.
    """

    shares: tuple[Share, ...]

    @classmethod
    def of(cls, weights: Float[Tensor, "unit teacher"]) -> "Weighted":
        """``weights`` are those of each unit; a teacher with weight 0 does not see the unit."""
        shares = list[Share]()
        for teacher, own in enumerate(weights.T):
            units = own.nonzero()[:, 0]
            if len(units):
                shares.append(Share(teacher, None if len(units) == len(own) else units, own[units]))
        return cls(tuple(shares))

    def turn(self, iteration: int) -> Sequence[Share]:
        """Each teacher with its units."""
        return self.shares


def voters_of(task: Task, config: Voters) -> list[tuple[int, ...]]:
    """Return the teachers that optimise each unit; they depend on its slots only, so classes of a slot share them."""
    count, number = len(task.teachers), min(config.voters, len(task.teachers)) or len(task.teachers)
    groups, found = list(itertools.combinations(range(count), number)), list[tuple[int, ...]]()
    for slots in task.slots.split(list(task.unit_sizes)):
        block = int(slots.min()) // config.unit_slots
        if config.voters_chosen == "random":
            drawn = torch.randperm(count, generator=task.shared_stream("voters", block))[:number]
            found.append(tuple(sorted(drawn.tolist())))
        else:
            found.append(groups[block % len(groups)])
    return found


def unit_weights(task: Task, config: Teachers) -> Float[Tensor, "unit teacher"]:
    """Return the weights of all teachers for each unit, with the sum 1; 0 for those that do not see the unit."""
    count = len(task.teachers)
    weights = torch.full((len(task.unit_sizes), count), 1 / count, dtype=torch.float64)
    if config.committee == "weighted":
        accuracies = [teacher.accuracy for teacher in task.teachers]
        weights[:] = torch.tensor(config.weights_of(accuracies, "--recover"), dtype=torch.float64)
    if isinstance(config, Voters):
        asked = torch.zeros_like(weights)
        for unit, voters in enumerate(voters_of(task, config)):
            asked[unit, list(voters)] = 1
        weights = weights * asked
    return (weights / weights.sum(1, keepdim=True)).float().to(task.device)


def committee_of(task: Task, config: Teachers) -> Committee:
    """Return the configured committee of the task's teachers."""
    count = len(task.teachers)
    if config.committee == "one" or count == 1:
        return One()
    if config.committee == "round-robin":
        return RoundRobin(count)
    if config.committee == "random":
        return Drawn(task)
    if config.committee == "weighted" or isinstance(config, Voters):
        return Weighted.of(unit_weights(task, config))
    return Mean(count, len(task.unit_sizes), task.device)
