"""The stopwatch against a clock that is moved by hand."""

import time

import pytest
import torch

from attar.core import stopwatch
from attar.core.stopwatch import Pace, Peak

CPU = torch.device("cpu")


class Hands:
    """A clock that stands still until it is moved, and counts how often it is read."""

    now, readings = 100.0, 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


def stopped(pace: Pace, clock: Hands, steps: list[float]) -> int | None:
    """How many of these steps it takes until enough are measured."""
    for done, seconds in enumerate(steps, start=1):
        clock.now += seconds
        if pace.tick():
            return done
    return None


def test_the_first_step_is_preparation_and_an_outlier_changes_nothing():
    clock = Hands()
    pace = Pace(CPU, 2.0, clock=clock)
    assert stopped(pace, clock, [30.0, 4.0, 0.5, 0.5, 3.0, 0.5, 0.5, 0.5]) == 7
    assert pace.step_seconds == pytest.approx(0.5)
    assert pace.preparation_seconds == pytest.approx(29.5)


def test_steps_are_measured_for_as_long_as_asked():
    clock = Hands()
    assert stopped(Pace(CPU, 4.9, clock=clock), clock, [0.5] * 100) == 2 + 10


def test_of_very_slow_steps_two_are_enough():
    clock = Hands()
    pace = Pace(CPU, 2.0, clock=clock)
    assert stopped(pace, clock, [60.0, 8.0, 7.0, 9.0, 8.0]) == 4
    assert pace.step_seconds == pytest.approx(8.0)


def test_a_busy_machine_ends_the_measurement_and_does_not_change_it():
    """Steps of 2 s of processor time for which the user waits 15 s."""
    clock, wall = Hands(), Hands()
    pace = Pace(CPU, 100.0, clock=clock, wall=wall, patience=20.0)
    ticks = []
    for seconds in (5.0, 2.0, 2.0):
        clock.now += seconds
        wall.now += 7.5 * seconds
        ticks.append(pace.tick())
    assert ticks == [False, False, True]
    assert pace.step_seconds == pytest.approx(2.0)
    assert pace.compilation_seconds == pytest.approx(37.5 - 2.0)


def test_a_processor_is_timed_by_its_own_seconds():
    assert stopwatch.fair_clock(CPU) is time.thread_time
    assert stopwatch.fair_clock(torch.device("cuda")) is time.perf_counter


def test_the_clock_is_read_seldom_when_steps_are_fast():
    clock = Hands()
    pace = Pace(CPU, 2.0, clock=clock)
    assert stopped(pace, clock, [0.001] * 5000) == pytest.approx(2 + 2000, abs=101)
    assert clock.readings < 30
    assert pace.step_seconds == pytest.approx(0.001)


def test_of_few_fast_steps_five_readings_are_left():
    clock = Hands()
    pace = Pace(CPU, 2.0, num_steps=14, clock=clock)
    assert stopped(pace, clock, [0.001] * 14) is None
    assert len(pace.times) == 2 + 6


def test_a_single_step_has_a_pace_too():
    clock = Hands()
    pace = Pace(CPU, 2.0, num_steps=1, clock=clock)
    stopped(pace, clock, [3.0])
    assert (pace.step_seconds, pace.preparation_seconds) == (3.0, 0.0)


def test_peak_memory_is_what_was_in_use_and_is_no_more():
    with Peak(CPU) as peak:
        torch.ones(512 * 2**20 // 4)  # far more than what the C library may have in hand from before
    if stopwatch.status_bytes("VmRSS"):  # on Linux
        assert peak.num_bytes is not None
        assert 400 * 2**20 < peak.num_bytes < 600 * 2**20


def test_peak_memory_is_not_known_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(stopwatch, "status_bytes", lambda key: 0)
    with Peak(CPU) as peak:
        torch.ones(64 * 2**20 // 4)
    assert peak.num_bytes is None
