"""DD-Ranking's scores against figures worked out by hand."""

import math

import pytest

from attar.ops import ranking


def package_score(improvement_percent: float, recovery_percent: float) -> float:
    """What ddranking 0.2.0 computes: the same formula on per cents."""
    exponent = 0.5 * improvement_percent - 0.5 * recovery_percent
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_differences_are_of_accuracies():
    assert ranking.hard_label_recovery(0.9, 0.65) == pytest.approx(0.25)
    assert ranking.improvement_over_random(0.6, 0.55) == pytest.approx(0.05)
    assert ranking.improvement_over_random(0.2, 0.5) == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("improvement", "recovery", "weight", "score"),
    [
        # (e^alpha - 0.36787944) / 2.35040239, with e^-0.1 = 0.90483742, e^0.5 = 1.64872127, e^-0.25 = 0.77880078
        (0.05, 0.25, 0.5, 0.22845364),  # alpha = 0.025 - 0.125 = -0.1
        (0.0, 0.0, 0.5, 0.26894142),  # e^0 = 1
        (1.0, 0.0, 0.5, 0.54494577),  # alpha = 0.5
        (0.05, 0.25, 0.0, 0.17483021),  # alpha = -0.25: hard labels alone
        (1.0, -1.0, 0.5, 1.0),
        (-1.0, 1.0, 0.5, 0.0),
    ],
)
def test_label_robust_score_by_hand(improvement, recovery, weight, score):
    assert ranking.label_robust_score(improvement, recovery, weight) == pytest.approx(score, abs=1e-7)


@pytest.mark.parametrize(
    ("augmented", "plain", "weight", "score"),
    [
        (0.3, -0.1, 0.5, 0.31368734),  # beta = 0.1, e^0.1 = 1.10517092: 0.73729148 / 2.35040239
        (0.3, -0.1, 0.25, 0.26894142),  # beta = 0.075 - 0.075 = 0
        (1.0, 1.0, 0.5, 1.0),
        (-1.0, -1.0, 0.5, 0.0),
    ],
)
def test_augmentation_robust_score_by_hand(augmented, plain, weight, score):
    assert ranking.augmentation_robust_score(augmented, plain, weight) == pytest.approx(score, abs=1e-7)


def test_scores_are_of_fractions_and_not_of_per_cents_as_in_the_package():
    # Five points over random and 25 lost to all real images. On per cents: e^-10 = 4.53999e-5, so the score is
    # (4.53999e-5 - 0.36787944) / 2.35040239; with the signs swapped, e^10 = 22026.4658.
    assert package_score(5, 25) == pytest.approx(-0.15649833, abs=1e-7)
    assert package_score(25, 5) == pytest.approx(9371.2030, abs=1e-3)
    assert ranking.label_robust_score(0.05, 0.25) == pytest.approx(0.22845364, abs=1e-7)
    assert ranking.label_robust_score(0.25, 0.05) == pytest.approx(0.31368734, abs=1e-7)  # e^0.1


@pytest.mark.parametrize("value", [65.0, 100.0])
def test_per_cents_are_refused_with_a_hint(value):
    with pytest.raises(ValueError, match="distilled_hard must be an accuracy in .* a percentage: divide by 100"):
        ranking.hard_label_recovery(0.9, value)
    with pytest.raises(ValueError, match="a percentage: divide by 100"):
        ranking.improvement_over_random(value, 0.5)
    with pytest.raises(ValueError, match="improvement must be a difference .* percentage"):
        ranking.label_robust_score(-value, 0.1)
    with pytest.raises(ValueError, match="plain must be a difference .* percentage"):
        ranking.augmentation_robust_score(0.1, value)


@pytest.mark.parametrize("value", [-0.01, math.nan, 101.0])
def test_what_is_no_accuracy_is_refused(value):
    with pytest.raises(ValueError, match=r"real_hard must be an accuracy in \[0, 1\], not"):
        ranking.hard_label_recovery(value, 0.5)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_weights_outside_are_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        ranking.label_robust_score(0.0, 0.0, weight)
    with pytest.raises(ValueError, match="weight"):
        ranking.augmentation_robust_score(0.0, 0.0, weight)
