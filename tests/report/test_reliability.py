"""What is said of accuracies: the validation images behind them, the spread, and chance."""

from dataclasses import dataclass

import pytest
from scipy.stats import binomtest

from attar.report import reliability


@dataclass(frozen=True)
class Line:
    row: str = "distilled"
    run: str = "mine"
    top1_mean: float | None = 50.0
    top1_std: float | None = 1.0
    num_classes: int = 5
    num_val: int | None = 80
    largest_class: float | None = 20.0


@pytest.mark.parametrize(("right", "count"), [(0, 7), (40, 80), (80, 80), (3, 1000)])
def test_the_interval_is_wilsons(right: int, count: int):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert reliability.interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_few_validation_images_have_a_note_and_many_have_none():
    (note,) = reliability.notes([Line(), Line("full", top1_mean=90.0)])
    assert note.startswith(
        "80 validation images: one of them is 1.2 points. On other images of the same kind, 50.0 % may"
    )
    assert "be 39 to 61 % (95 %)" in note
    assert "100 validation images: one of them is 1 point. On" in reliability.notes([Line(num_val=100)])[0]
    (note,) = reliability.notes([Line(), Line(run="other", num_val=10_000)])
    assert "50.0 % (mine) may be" in note
    assert reliability.notes([Line(num_val=10_000)]) == reliability.notes([Line(num_val=None)]) == []
    assert "90.0 % may be" in reliability.notes([Line("full", top1_mean=90.0)])[0]


def test_single_students_have_no_spread():
    assert reliability.of_students([Line(), Line(top1_std=None)]) == "mean ± standard deviation over n students"
    assert reliability.of_students([Line(top1_std=None)]) == "of one student each"


def test_the_number_of_validation_images_is_named_where_it_is_known():
    assert reliability.measured_on([Line(), Line(num_val=1000)]) == "80 or 1,000 real validation images"
    assert reliability.measured_on([Line(), Line(num_val=None)]) == "real validation images"


def test_guessing_and_naming_the_largest_class():
    assert reliability.guessing([Line()]) == "Guessing brings 20 %."
    uneven = reliability.guessing([Line(largest_class=41.0)])
    assert uneven == "Guessing brings 20 %, and naming the largest class always 41.0 %."
    assert reliability.guessing([Line(), Line(num_classes=7)]) == ""
