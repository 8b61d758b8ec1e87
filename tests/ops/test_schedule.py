"""ops/schedule.py against PyTorch's own schedulers and the papers' formulas."""

import math
from typing import get_args

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from attar.ops.schedule import (
    Schedule,
    constant,
    cosine,
    cosine_linear,
    fifths_halves,
    learning_rate,
    multistep,
    multistep_halves,
    one_cycle,
    step_tenth,
    thirds_tenth,
)


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


@pytest.mark.parametrize("stretch", [1.0, 1.5, 2.0])
def test_a_stretched_cosine_is_the_papers_formula(stretch: float):
    for epoch in range(300):
        expected = 0.001 * 0.5 * (1 + math.cos(math.pi * epoch / (stretch * 300)))
        assert cosine(0.001, epoch, 300, stretch=stretch) == pytest.approx(expected, rel=1e-12)
    end = {1.0: 0.0, 1.5: 0.25, 2.0: 0.5}[stretch]
    assert cosine(0.001, 300, 300, stretch=stretch) == pytest.approx(0.001 * end, abs=1e-18)


def test_a_stretch_leaves_the_warm_up_alone():
    for step in range(10):
        assert cosine(0.1, step, 100, 10, stretch=2.0) == cosine(0.1, step, 100, 10)
    assert cosine(0.1, 55, 100, 10, stretch=2.0) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_the_linear_tail_is_edcs(stretch: float):
    """Its 'cos2': the curve up to and with 5/6, then a sixth of it at the start of a line to 0."""
    for epoch in range(300):
        curve = 0.5 * (1 + math.cos(math.pi * epoch / (stretch * 300)))
        tail = 0.5 * (1 + math.cos(math.pi * 5 / (6 * stretch))) * (300 - epoch) / 300
        expected = 0.001 * (curve if epoch <= 250 else tail)
        assert cosine_linear(0.001, epoch, 300, stretch=stretch) == pytest.approx(expected, rel=1e-12)
    assert cosine_linear(0.001, 300, 300, stretch=stretch) == 0
    assert cosine_linear(0.001, 310, 300, stretch=stretch) == 0


def test_several_steps_are_pytorchs_at_two_thirds_and_five_sixths():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, [200, 250], gamma=0.2)
    for epoch in range(300):
        assert multistep(0.1, epoch, 300) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()


def test_halving_in_steps_is_edcs_schedule_of_cifar10():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.001)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, [800, 900, 950], gamma=0.5)
    for epoch in range(1000):
        assert multistep_halves(0.001, epoch, 1000) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()


def test_a_tenth_from_the_middle_on():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.01)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, [500], gamma=0.1)
    for epoch in range(1000):
        assert step_tenth(0.01, epoch, 1000) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()


def test_a_tenth_at_each_third_is_torchvisions_schedule():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    reference = torch.optim.lr_scheduler.StepLR(optimiser, 30, gamma=0.1)
    for epoch in range(90):
        assert thirds_tenth(0.1, epoch, 90) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()


def test_one_cycle_is_pytorchs():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=3e-4, total_steps=200, pct_start=0.1, cycle_momentum=False, div_factor=20
    )
    for step in range(200):
        assert one_cycle(3e-4, step, 200) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimiser.step()
        reference.step()


def test_halving_at_fifths_is_ncfms_schedule():
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.001)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, [60, 120, 180, 240], gamma=0.5)
    for epoch in range(300):
        assert fifths_halves(0.001, epoch, 300) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()


def test_a_constant_rate_may_have_a_warm_up():
    assert [constant(0.3, step) for step in (0, 1, 999)] == [0.3, 0.3, 0.3]
    assert [constant(0.3, step, 2) for step in (0, 1, 2, 999)] == pytest.approx([0.003, 0.1515, 0.3, 0.3])


@pytest.mark.parametrize("step", [0, 3, 30, 90, 99])
def test_schedules_by_name(step: int):
    asked = (0.1, step, 100, 5)
    expected = {
        "cosine": cosine(*asked, stretch=2.0),
        "cosine-linear": cosine_linear(*asked, stretch=2.0),
        "multistep": multistep(*asked),
        "multistep-halves": multistep_halves(*asked),
        "fifths-halves": fifths_halves(*asked),
        "step-tenth": step_tenth(*asked),
        "thirds-tenth": thirds_tenth(*asked),
        "one-cycle": one_cycle(0.1, step, 100),
        "constant": constant(0.1, step, 5),
    }
    assert set(expected) == set(get_args(Schedule))
    for name in get_args(Schedule):
        assert learning_rate(name, *asked, stretch=2.0) == expected[name]
