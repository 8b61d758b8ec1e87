"""stages/rows.py: rows are written as text everywhere, and read back."""

import json

import pytest

from attar.core.errors import AttarError
from attar.stages.choices import Evaluate
from attar.stages.rows import (
    DISTILLED,
    FULL,
    KNOWN,
    RANDOM_HARD,
    RANDOM_NOAUG,
    ROWS,
    Row,
    use_soft_labels,
    without_twins,
)

TEXTS = {
    "distilled": (Row("distilled", "soft"), "distilled"),
    "distilled-hard": (Row("distilled", "hard"), "distilled, hard labels"),
    "distilled-noaug": (Row("distilled", "noaug"), "distilled, no augmentation"),
    "random-soft": (Row("random", "soft"), "random real, soft labels"),
    "random-hard": (Row("random", "hard"), "random real, hard labels"),
    "random-noaug": (Row("random", "noaug"), "random real, no augmentation"),
    "herding-soft": (Row("herding", "soft"), "herding, soft labels"),
    "herding-hard": (Row("herding", "hard"), "herding, hard labels"),
    "kcentre-soft": (Row("kcentre", "soft"), "k-centre, soft labels"),
    "kcentre-hard": (Row("kcentre", "hard"), "k-centre, hard labels"),
    "equal-bytes": (Row("equal-bytes", "hard"), "real, as many bytes"),
    "full": (Row("full", "hard"), "all real images"),
}


def test_every_row_is_read_from_its_text_and_written_as_it():
    assert [str(row) for row in KNOWN] == list(TEXTS)
    assert set(ROWS) < set(KNOWN)
    for text, (row, title) in TEXTS.items():
        assert (Row.parse(text), Row.parse(row), str(row), row.title) == (row, row, text, title)


def test_a_recipe_writes_rows_as_text():
    config = Evaluate.of({"rows": ["full", "random-hard"]}, "here")
    assert config.rows == (FULL, RANDOM_HARD)
    assert config.plain()["rows"] == json.loads(config.model_dump_json())["rows"] == ["full", "random-hard"]
    assert Evaluate.of(config.plain(), "here") == config.changed(rows=(FULL, "random-hard"))


@pytest.mark.parametrize("text", ["fool", "distilled-soft", "full-hard", "herding-noaug", "", 3, None])
def test_what_is_no_row_is_refused_with_those_there_are(text: object):
    with pytest.raises(AttarError, match=r"here: rows\.1 must be 'distilled', .* or 'full'"):
        Evaluate.of({"rows": ["full", text]}, "here")


def test_without_soft_labels_a_row_and_its_twin_are_one():
    rows = tuple(map(Row.parse, ("distilled", "distilled-hard", "random-hard", "random-noaug", "full")))
    assert without_twins(rows, hard=False) == rows
    assert without_twins(rows, hard=True) == (DISTILLED, *rows[2:])


def test_rows_with_hard_labels_use_no_soft_ones():
    assert not use_soft_labels([RANDOM_HARD, FULL])
    assert use_soft_labels([RANDOM_HARD, DISTILLED])
    assert use_soft_labels([RANDOM_NOAUG])
