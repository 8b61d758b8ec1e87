"""synthesis/curriculum.py at every iteration against the formulas of the published scripts."""

import math

import pytest

from attar.synthesis.curriculum import Curriculum, lower_bound


def published(iteration: int, iterations: int, mode: str, milestone: float) -> float:
    """The lower bound as the three scripts of CDA state it, with their 0.08 and 0.92 as literals."""
    if not iteration < milestone * iterations:
        return 0.08
    return {
        "step": 1.0,
        "linear": 0.08 + 0.92 * (1 - iteration / (iterations * milestone)),
        "cosine": 0.08 + 0.92 * (1 + math.cos(math.pi * iteration / (iterations * milestone))) / 2,
    }[mode]


@pytest.mark.parametrize("mode", ["step", "linear", "cosine"])
@pytest.mark.parametrize("milestone", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("iterations", [1, 7, 100, 4000])
def test_every_iteration_equals_the_published_formula(mode: Curriculum, milestone: float, iterations: int):
    for iteration in range(iterations):
        expected = published(iteration, iterations, mode, milestone)
        assert lower_bound(iteration, iterations, mode, milestone, 0.08) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mode", ["step", "linear", "cosine"])
def test_the_whole_image_comes_first_and_crops_only_get_smaller(mode: Curriculum):
    bounds = [lower_bound(iteration, 200, mode, 0.5, 0.25) for iteration in range(200)]
    assert bounds[0] == 1.0
    assert bounds == sorted(bounds, reverse=True)
    assert set(bounds[100:]) == {0.25}
    assert min(bounds[:100]) > 0.25


@pytest.mark.parametrize("milestone", [0.0, 0.5, 1.0])
def test_no_curriculum_is_constant(milestone: float):
    assert {lower_bound(iteration, 50, "none", milestone, 0.08) for iteration in range(50)} == {0.08}


def test_milestone_zero_is_no_curriculum():
    for mode in ("step", "linear", "cosine"):
        assert {lower_bound(iteration, 50, mode, 0.0, 0.08) for iteration in range(50)} == {0.08}
