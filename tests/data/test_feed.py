import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.randomness import generator
from attar.core.ranks import WHOLE as WHOLE_BATCH
from attar.core.ranks import Part
from attar.data import feed as feeds
from attar.data.choice import DataChoice
from attar.data.decoded import Pixels
from attar.data.feed import Resident, measure_normalisation, open_feed
from attar.data.load import load
from attar.data.source import Arrays, Split
from attar.data.streaming import Streaming
from attar.ops.choices import NO_AUGMENTATION, RealAugmentation
from attar.ops.pixels import from_bytes
from attar.ops.views import ViewChoice

WHOLE = ViewChoice(crop="none", flip=False)
VIEWS = [WHOLE, ViewChoice(), ViewChoice(crop="padded", padding=2), ViewChoice(crop="none")]


@pytest.fixture
def choice(tmp_path: Path, class_folders: Callable) -> DataChoice:
    class_folders(tmp_path / "set" / "train", {"a": 7, "b": 6})
    class_folders(tmp_path / "set" / "val", {"a": 1, "b": 1})
    return DataChoice(source=str(tmp_path / "set"), size=8)


@pytest.fixture
def train(choice: DataChoice, log: Log) -> Split:
    return load(choice, 0, log).train


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def together(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def both(split: Split, choice: DataChoice, log: Log) -> list[feeds.Feed]:
    return [open_feed(split, choice.changed(resident=kind), 0, "cpu", log) for kind in ("on", "off")]


def test_open_feed_chooses(train: Split, choice: DataChoice, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    resident, streaming = both(train, choice, log)
    assert isinstance(resident, Resident)
    assert isinstance(streaming, Streaming)
    needed = len(train) * 3 * 8 * 8
    monkeypatch.setattr(feeds, "RESIDENT_BYTES", needed)
    assert isinstance(open_feed(train, choice, 0, "cpu", log), Resident)
    monkeypatch.setattr(feeds, "RESIDENT_BYTES", needed - 1)
    assert isinstance(open_feed(train, choice, 0, "cpu", log), Streaming)


def test_plain_and_take(train: Split, choice: DataChoice, log: Log) -> None:
    resident, streaming = both(train, choice, log)
    images, labels = together(resident.plain(4, "cpu"))
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.2
    assert 0.8 < images.max() <= 1
    assert [len(batch) for batch, _ in resident.plain(4, "cpu")] == [4, 4, 4, 1]
    assert labels.tolist() == train.labels.tolist() == resident.labels.tolist()
    others = together(streaming.plain(5, "cpu"))
    assert torch.equal(images, others[0])
    assert torch.equal(labels, others[1])
    for feed in (resident, streaming):
        assert feed.num_images == 13
        taken = feed.take([12, 0, 0])
        assert taken.dtype == torch.uint8
        assert torch.equal(from_bytes(taken), images[[12, 0, 0]])


@pytest.mark.parametrize("views", VIEWS)
def test_an_epoch_is_a_function_of_the_generator(train: Split, choice: DataChoice, log: Log, views: ViewChoice) -> None:
    for feed in both(train, choice, log):
        before = torch.random.get_rng_state()
        one = together(feed.epoch(13, views, generator(0, "epoch", 1), "cpu"))
        assert torch.equal(torch.random.get_rng_state(), before)
        same = together(feed.epoch(5, views, generator(0, "epoch", 1), "cpu"))
        other = together(feed.epoch(13, views, generator(0, "epoch", 2), "cpu"))
        torch.testing.assert_close(one[0], same[0])
        assert torch.equal(one[1], same[1])
        assert sorted(one[1].tolist()) == train.labels.tolist()
        assert not torch.equal(one[0], other[0])
        assert float(one[0].min()) >= 0
        assert float(one[0].max()) <= 1 + 1e-6


@pytest.mark.parametrize("views", VIEWS)
def test_workers_do_not_change_a_streaming_epoch(train: Split, choice: DataChoice, log: Log, views: ViewChoice) -> None:
    alone, helped = Streaming(train, choice, 0, log), Streaming(train, choice, 2, log)
    ours = list(alone.epoch(4, views, generator(3), "cpu"))
    theirs = list(helped.epoch(4, views, generator(3), "cpu"))
    assert len(ours) == len(theirs) == 3
    for one, two in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_streaming_equals_resident_without_crops(train: Split, choice: DataChoice, log: Log) -> None:
    resident, streaming = both(train, choice, log)
    ours = together(resident.epoch(4, WHOLE, generator(1), "cpu"))
    theirs = together(streaming.epoch(4, WHOLE, generator(1), "cpu"))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_a_last_single_image_is_left_out(train: Split, choice: DataChoice, log: Log) -> None:
    for feed in both(train, choice, log):
        assert [len(labels) for _, labels in feed.epoch(6, WHOLE, generator(0), "cpu")] == [6, 6]
        assert [len(labels) for _, labels in feed.epoch(5, WHOLE, generator(0), "cpu")] == [5, 5, 3]
        assert len(list(feed.epoch(1, WHOLE, generator(0), "cpu"))) == 13
    for feed in both(train.select(np.array([0])), choice, log):
        assert len(list(feed.epoch(6, WHOLE, generator(0), "cpu"))) == 1


def test_streaming_crops_come_from_the_original_image(log: Log) -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    split = Arrays(np.broadcast_to(ramp[None, None, :, None], (50, 256, 256, 3)).copy(), np.arange(50) % 2, "ramp")
    feed = Streaming(split, DataChoice(size=16), 0, log)
    small = ViewChoice(min_scale=0.08, flip=False)
    images, _ = together(feed.epoch(50, small, generator(0), "cpu"))
    slopes = (images[:, 0, 8, 12] - images[:, 0, 8, 4]) / 8 * 16  # crop width as a fraction of the image
    assert 0.2 < float(slopes.min()) < 0.45
    assert 0.7 < float(slopes.max()) <= 1.001
    flips, _ = together(feed.epoch(50, small.changed(flip=True), generator(0), "cpu"))
    mirrored = flips[:, 0, 8, 12] < flips[:, 0, 8, 4]
    assert 10 < int(mirrored.sum()) < 40
    assert torch.equal(flips[mirrored].flip(-1), images[mirrored])
    assert torch.equal(flips[~mirrored], images[~mirrored])


def test_padded_streaming_views_shift_by_whole_pixels(train: Split, choice: DataChoice, log: Log) -> None:
    feed = Streaming(train.select(np.array([0])), choice, 0, log)
    whole = from_bytes(feed.take([0]))
    framed = torch.nn.functional.pad(whole, (2, 2, 2, 2))
    windows = [framed[0, :, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    views = ViewChoice(crop="padded", padding=2, flip=False)
    seen = set()
    for epoch in range(20):
        images, _ = together(feed.epoch(1, views, generator(epoch), "cpu"))
        hits = [place for place, window in enumerate(windows) if torch.equal(window, images[0])]
        assert len(hits) == 1
        seen.update(hits)
    assert len(seen) > 5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_a_stream(choice: DataChoice, train: Split, log: Log, workers: int) -> None:
    spoil(Path(train.where(4)))
    feed = Streaming(train, choice, workers, log)
    message = f"{train.where(4)} cannot be read as an image ("
    for start in (
        lambda: list(feed.plain(3, "cpu")),
        lambda: list(feed.epoch(3, ViewChoice(), generator(0), "cpu")),
        lambda: feed.take([4]),
    ):
        with pytest.raises(AttarError) as error:
            start()
        assert str(error.value).startswith(message)
        assert "Traceback" not in str(error.value)
        assert not multiprocessing.active_children(), "workers wait for a frame that the error holds"
    with pytest.raises(AttarError, match="1 of 13 images cannot be read"):
        open_feed(train, choice, 0, "cpu", log)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped(
    choice: DataChoice, train: Split, log: Log, events: Callable, workers: int
) -> None:
    spoil(Path(train.where(4)))
    spoil(Path(train.where(6)))
    feed = Streaming(train, choice.changed(on_corrupt="skip"), workers, log)
    assert together(feed.plain(3, "cpu"))[1].tolist() == [0] * 5 + [1] * 6
    assert len(together(feed.epoch(13, ViewChoice(), generator(0), "cpu"))[1]) == 11
    assert [line["text"] for line in events("warning")] == [
        f"skipped 2 of 13 images, which cannot be read; the first is {train.where(4)}"
    ]
    assert torch.equal(feed.take([4, 6]), feed.take([5, 0]))  # the next of the class stands in
    resident = open_feed(train, choice.changed(on_corrupt="skip"), 0, "cpu", log)
    assert resident.num_images == 11
    assert torch.equal(together(resident.plain(13, "cpu"))[0], together(feed.plain(13, "cpu"))[0])
    assert measure_normalisation(feed, log).std[0] > 0.1


def test_a_stream_of_nothing_readable(choice: DataChoice, train: Split, log: Log) -> None:
    for index in range(len(train)):
        spoil(Path(train.where(index)))
    feed = Streaming(train, choice.changed(on_corrupt="skip"), 0, log)
    with pytest.raises(AttarError, match="None of the 13 images can be read, the first is"):
        list(feed.plain(5, "cpu"))
    with pytest.raises(AttarError, match="cannot be read as an image"):
        feed.take([0])


def test_normalisation_is_the_plain_formula(train: Split, choice: DataChoice, log: Log, events: Callable) -> None:
    images = together(open_feed(train, choice, 0, "cpu", log).plain(13, "cpu"))[0].double()
    for feed in both(train, choice, log):
        found = measure_normalisation(feed, log)
        assert found.mean == tuple(round(value, 4) for value in images.mean(dim=(0, 2, 3)).tolist())
        assert found.std == tuple(round(value, 4) for value in images.std(dim=(0, 2, 3), unbiased=False).tolist())
    assert events("normalisation")[0]["num_images"] == 13


def test_normalisation_of_flat_and_of_many_images(log: Log, monkeypatch: pytest.MonkeyPatch, events: Callable) -> None:
    flat = Resident(Pixels(torch.full((3, 3, 4, 4), 51, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), "cpu")
    assert measure_normalisation(flat, log).mean == (0.2, 0.2, 0.2)
    assert measure_normalisation(flat, log).std == (0.01, 0.01, 0.01)
    assert "nearly of one colour (standard deviation 0.010 of 1)" in events("warning")[0]["text"]
    told = len(events("warning"))
    monkeypatch.setattr(feeds, "MEASURED_IMAGES", 3)
    levels = torch.arange(0, 255, 51, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4).contiguous()
    some = Resident(Pixels(levels, torch.zeros(5, dtype=torch.int64)), "cpu")
    assert measure_normalisation(some, log).mean == (0.4, 0.4, 0.4)  # of 0, 2 and 4 fifths
    assert len(events("warning")) == told


def test_views_are_drawn_in_chunks_of_no_consequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_CHUNK", 4)
    drawn = feeds._draw(ViewChoice(), 10, 32, 32, generator(0))
    assert len(drawn) == 10
    assert len({tuple(box) for box in drawn.box.tolist()}) > 5
    assert len(feeds._draw(ViewChoice(), 8, 32, 32, generator(0))) == 8


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu(train: Split, choice: DataChoice, log: Log) -> None:
    for kind, workers in (("on", 0), ("off", 2)):
        feed = open_feed(train, choice.changed(resident=kind), workers, "cuda", log)
        here = open_feed(train, choice.changed(resident=kind), 0, "cpu", log)
        images, labels = together(feed.epoch(5, ViewChoice(), generator(0), "cuda"))
        assert images.is_cuda
        assert labels.is_cuda
        ours = together(here.epoch(5, ViewChoice(), generator(0), "cpu"))
        torch.testing.assert_close(images.cpu(), ours[0], atol=2e-3, rtol=0)
        assert torch.equal(labels.cpu(), ours[1])
        assert feed.take([0]).device.type == "cpu"


@pytest.mark.parametrize("views", VIEWS)
def test_parts_of_batches_make_the_batches(train: Split, choice: DataChoice, log: Log, views: ViewChoice) -> None:
    for feed in both(train, choice, log):
        whole = list(feed.epoch(6, views, generator(0, "epoch"), "cpu"))
        assert len(whole) == 2  # the last image would be alone
        parts = [list(feed.epoch(6, views, generator(0, "epoch"), "cpu", Part(rank, 2))) for rank in (0, 1)]
        for (images, labels), *divided in zip(whole, *parts, strict=False):
            assert all(len(part[1]) == 3 for part in divided)
            assert torch.equal(torch.cat([part[0] for part in divided]), images)
            assert torch.equal(torch.cat([part[1] for part in divided]), labels)


def test_parts_have_equally_many_batches_where_images_are_unreadable(
    train: Split, choice: DataChoice, log: Log, tmp_path: Path
) -> None:
    for path in sorted((tmp_path / "set" / "train" / "a").iterdir())[:6]:
        spoil(path)
    feed = open_feed(train, choice.changed(resident="off", on_corrupt="skip"), 0, "cpu", log)
    parts = [list(feed.epoch(4, WHOLE, generator(0, "epoch"), "cpu", Part(rank, 2))) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == 4
    assert sum(len(labels) for _, labels in parts[0] + parts[1][:3]) == 7  # both have the last batch, of one image


@pytest.mark.parametrize("resident", ["on", "off"])
def test_an_epoch_is_continued_from_a_batch(train: Split, choice: DataChoice, log: Log, resident: str) -> None:
    feed = open_feed(train, choice.changed(resident=resident), 0, "cpu", log)
    views = ViewChoice(crop="resized", min_scale=0.3, flip=True)
    for part in (Part(), Part(1, 2)):
        whole = list(feed.epoch(4, views, generator(0, "epoch"), "cpu", part))
        rest = list(feed.epoch(4, views, generator(0, "epoch"), "cpu", part, first=2))
        assert len(rest) == len(whole) - 2 > 0
        for (images, labels), (others, named) in zip(rest, whole[2:], strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, named)


def test_augmentation_hides_and_changes_the_views_of_both_feeds(train: Split, choice: DataChoice, log: Log) -> None:
    hides, changes = RealAugmentation(cutout=0.5), RealAugmentation(cutout=0.5, randaugment_ops=2)

    def epoch(feed: feeds.Feed, augmentation: RealAugmentation, part: Part = WHOLE_BATCH, first: int = 0) -> Tensor:
        how = (4, WHOLE, generator(0, "epoch"), "cpu", part, first, augmentation)
        return together(feed.epoch(*how))[0]

    for feed in [*both(train, choice, log), Streaming(train, choice, 2, log)]:
        plain, hidden, changed = (epoch(feed, one) for one in (NO_AUGMENTATION, hides, changes))
        assert torch.equal(plain, together(feed.epoch(4, WHOLE, generator(0, "epoch"), "cpu"))[0])
        share = (hidden != plain).any(1).float().mean()
        assert 0.1 < share < 0.3  # half of the side is a quarter of the area, less where it lies outside
        assert (hidden != plain).any((1, 2, 3)).all()
        assert not torch.equal(changed, hidden)
        assert torch.equal(epoch(feed, changes, first=1), changed[4:])
        parts = [epoch(feed, changes, Part(rank, 2)) for rank in (0, 1)]
        assert torch.equal(torch.cat([parts[0][:2], parts[1][:2]]), changed[:4])
    streamed, worked = (epoch(Streaming(train, choice, workers, log), changes) for workers in (0, 2))
    assert torch.equal(streamed, worked)
