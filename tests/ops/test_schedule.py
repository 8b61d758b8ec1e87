"""ops/schedule.py against PyTorch's own schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from attar.ops.schedule import cosine


def pytorchs(optimiser: torch.optim.Optimizer, steps: int, warmup: int) -> LRScheduler:
    """A linear rise from a hundredth, then half a cosine."""
    if not warmup:
        return CosineAnnealingLR(optimiser, steps)
    rise = LinearLR(optimiser, start_factor=0.01, total_iters=warmup)
    return SequentialLR(optimiser, [rise, CosineAnnealingLR(optimiser, max(1, steps - warmup))], [warmup])


@pytest.mark.parametrize(("steps", "warmup"), [(10, 3), (100, 0), (400, 40), (5, 5), (1, 0)])
def test_every_step_equals_pytorchs_schedulers(steps: int, warmup: int):
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    schedule = pytorchs(optimiser, steps, warmup)
    for step in range(steps):
        assert cosine(0.2, step, steps, warmup) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        schedule.step()


def test_the_published_recovery_schedule():
    """CDA and SRe2L: half a cosine from the base to zero, moved every iteration, no warm-up."""
    for iteration in range(2000):
        expected = 0.5 * (1 + math.cos(math.pi * iteration / 2000)) * 0.25
        assert cosine(0.25, iteration, 2000) == pytest.approx(expected, abs=1e-15)


def test_the_warm_up_starts_where_told_and_ends_at_the_peak():
    assert cosine(0.1, 0, 100, 10, warmup_start=0.2) == pytest.approx(0.02)
    assert cosine(0.1, 5, 100, 10, warmup_start=0.2) == pytest.approx(0.06)
    assert cosine(0.1, 10, 100, 10, warmup_start=0.2) == 0.1
    assert cosine(0.1, 100, 100, 10) == pytest.approx(0.0, abs=1e-17)
