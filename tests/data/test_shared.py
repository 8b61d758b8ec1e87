"""The real sets of ../shared/data, where they are."""

from pathlib import Path

import pytest

from attar.core.log import Log
from attar.core.randomness import generator
from attar.data.choice import DataChoice
from attar.data.feed import Resident, measure_normalisation, open_feed
from attar.data.load import load
from attar.ops.views import ViewChoice

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")]


def test_tiny_imagenet(log: Log) -> None:
    choice = DataChoice(source="tiny-imagenet", root=str(SHARED), size=64)
    real = load(choice, 0, log)
    assert (len(real.classes), len(real.train), len(real.val)) == (200, 100_000, 10_000)
    assert real.classes == tuple(sorted(real.classes))
    assert real.titles["n01443537"] == "goldfish"
    assert real.licence.startswith("ImageNet terms")
    feed = open_feed(real.val, choice, 0, "cpu", log)
    assert isinstance(feed, Resident)
    found = measure_normalisation(feed, log)
    assert found.mean == pytest.approx((0.4824, 0.4495, 0.3981), abs=0.01)
    assert found.std == pytest.approx((0.2765, 0.2693, 0.2826), abs=0.01)


def test_imagenette(log: Log) -> None:
    choice = DataChoice(source=str(SHARED / "imagenette-mini"), size=224, resize=256, resident="off")
    real = load(choice, 0, log)
    assert (len(real.classes), len(real.train), len(real.val)) == (10, 1000, 400)
    feed = open_feed(real.train, choice, 2, "cpu", log)
    batches = list(feed.epoch(64, ViewChoice(), generator(0), "cpu"))
    assert sum(len(labels) for _, labels in batches) == 1000
    assert batches[0][0].shape == (64, 3, 224, 224)
