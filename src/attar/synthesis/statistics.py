"""Statistics: the term that pulls the statistics of a teacher's layers towards a target (DeepInversion, SRe2L)."""

from dataclasses import dataclass

import torch

from attar.synthesis.choices import Statistics
from attar.synthesis.observed import Observed
from attar.synthesis.task import Task
from attar.synthesis.terms import PerUnit, Seen, State, Stateless, Tap, UnitBatch

BATCHNORM = Tap("batchnorm")


@dataclass(frozen=True)
class BatchNormDistance(Stateless):
    """Sum over layers of |mean - running mean|_2 + |variance - running variance|_2 (SRe2L, equation 6)."""

    first_multiplier: float = 1.0
    """Extra weight of the first registered layer."""
    name = "bn_distance"

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The inputs of all BatchNorm layers."""
        return (BATCHNORM,)

    def constants(self, task: Task, teacher: int, observed: Observed) -> State:
        """The same for all tasks of a teacher."""
        return self.constants_of(observed)

    def constants_of(self, observed: Observed) -> State:
        """The running variances, which channel is which layer's, and the layers' weights."""
        weights = torch.ones_like(observed.weights)
        if observed.sees_first:
            weights[:1] = self.first_multiplier
        return {"running_var": observed.running_var, "layer_of": observed.layer_of, "weights": weights}

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """Each unit's distance; moments are averaged over its images, and the variance is the biased one."""
        moments = seen.moments[BATCHNORM]
        firsts, seconds = batch.average @ moments.first, batch.average @ moments.second
        away = seconds - firsts.square() - constants["running_var"]
        norms = [(part.square() @ constants["layer_of"]).clamp_min(1e-30).sqrt() for part in (firsts, away)]
        return (norms[0] + norms[1]) @ constants["weights"], state


def statistics_of(config: Statistics) -> BatchNormDistance:
    """The term that a configuration asks for."""
    return BatchNormDistance(config.bn_weight, config.first_bn_multiplier)
