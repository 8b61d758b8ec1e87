"""report/verdict.py: it is said plainly where distilled images are no better than random real ones."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from attar.report import verdict


@dataclass(frozen=True)
class Line:
    row: str
    top1_mean: float | None
    top1_std: float | None = 1.0
    run: str = "mine"
    student: str = "convnet3"
    num_val: int | None = 1000
    num_classes: int = 10


def said(*lines: Line) -> list[str]:
    return verdict.notes(cast("Any", lines))


@pytest.mark.parametrize(
    ("own", "real", "words"),
    [
        (Line("distilled-hard", 40.0), Line("random-hard", 30.0), None),
        (Line("distilled-hard", 31.0), Line("random-hard", 30.0), "about as good"),  # 1.4 points are their spread
        (Line("distilled-hard", 29.0), Line("random-hard", 30.0), "about as good"),
        (Line("distilled-hard", 27.0), Line("random-hard", 30.0), "worse than random real ones (27.0 against 30.0 %)"),
        (Line("distilled", 27.0), Line("random-soft", 30.0), "worse"),
        (Line("distilled", 27.0), Line("random-hard", 30.0), None),  # labels differ
        (Line("distilled", 27.0, None), Line("random-soft", 30.0, None), "worse"),  # single students: 2 points
        (Line("distilled", 29.0, None), Line("random-soft", 30.0, None), "about as good"),
        (Line("distilled", None), Line("random-soft", 30.0), None),
        (Line("distilled", 35.0, 0.0, num_val=10), Line("random-soft", 30.0, 0.0), "about as good"),  # half an image
        (Line("distilled-hard", 11.0), Line("random-hard", 11.0), "clearly better than guessing (10.0 %)"),
        (Line("distilled-hard", 11.5), Line("random-hard", 12.0), "about as good"),  # guessing stays under 11.6
        (Line("distilled-hard", 24.0, num_val=12), Line("random-hard", 20.0, num_val=12), "guessing"),  # under 24.3
        (Line("distilled-hard", 12.5), Line("random-hard", 10.0), None),
    ],
)
def test_a_gain_must_be_larger_than_the_spread(own: Line, real: Line, words: str | None):
    found = said(own, real)
    assert bool(found) is (words is not None)
    assert words is None or words in found[0]


def test_of_several_runs_each_is_named_and_of_two_rows_the_first_counts():
    lines = [
        Line("distilled", 40.0),
        Line("random-soft", 30.0),
        Line("distilled-hard", 10.0),
        Line("random-hard", 30.0),
    ]
    assert said(*lines) == []
    other = [Line("distilled", 20.0, run="other"), Line("random-soft", 30.0, run="other")]
    (sentence,) = said(*lines, *other)
    assert sentence.startswith("other: The distilled images are worse")
