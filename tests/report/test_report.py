import csv
import io

import pytest
from PIL import Image

from attar.report import card, table
from attar.report.table import percent, readable_bytes
from attar.stages.distilled import read_info


def test_csv_has_every_column_and_row(mini_run):
    rows = list(csv.DictReader(io.StringIO((mini_run / "report" / "table.csv").read_text())))
    assert [row["row"] for row in rows] == ["distilled", "random-soft", "random-hard", "full"]
    assert all(row["device"] and float(row["train_seconds"]) > 0 for row in rows)


def test_markdown_has_a_line_for_each_row(mini_run):
    text = table.as_markdown(table.lines(mini_run))
    assert len(text.splitlines()) == 6
    assert len({line.count("|") for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (28_330_000_000, "28.3 GB"), (10**15, "1000 TB")]
)
def test_bytes_are_readable(count, text):
    assert readable_bytes(count) == text


def test_a_mean_shows_its_spread_when_there_is_one():
    assert percent(91.234, 0.44) == "91.2 ± 0.4"
    assert percent(91.234, None) == "91.2"


@pytest.mark.parametrize("name", ["grid.png", "film.png", "curves.png"])
def test_pictures_are_drawn(mini_run, name):
    with Image.open(mini_run / "report" / name) as picture:
        assert min(picture.size) > 100
        assert len(picture.convert("L").getcolors()) > 20


def test_a_card_without_scores_says_so(mini_run):
    assert "Not evaluated yet." in card.text(read_info(mini_run / "distilled"), [])


def test_stages_tell_their_seconds(mini_run):
    assert set(table.stage_seconds(mini_run)) == {"squeeze", "recover", "relabel"}
