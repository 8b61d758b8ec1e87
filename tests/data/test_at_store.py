"""Shards at an address (file:// here; tests/store/test_objects.py has a server that speaks S3), read in parts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ByteSize

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.randomness import generator
from attar.core.ranks import Part
from attar.data.choice import DataChoice
from attar.data.feed import measure_normalisation, open_feed
from attar.data.load import load
from attar.data.source import RealData
from attar.ops.views import ViewChoice
from attar.store.objects import Folder

pytest.importorskip("fsspec")
Encode = Callable[..., bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path / "attar"


@pytest.fixture(params=["tar", "parquet"])
def shards(request: pytest.FixtureRequest, tmp_path: Path, write_tar: Callable, write_parquet: Callable,
           encoded: Encode) -> Path:  # fmt: skip
    """Six training shards of six images and one to validate on."""
    folder = tmp_path / "shards"
    for shard, name in enumerate((*(f"train-{n:05}" for n in range(6)), "val-00000")):
        if request.param == "parquet":
            write_parquet(folder / f"{name}.parquet", [0, 1] * 3, ["cat", "dog"], seed=10 * shard)
            continue
        pairs = [((f"{shard}{n}.png", encoded(10 * shard + n)), (f"{shard}{n}.cls", b"%d" % (n % 2))) for n in range(6)]
        write_tar(folder / f"{name}.tar", [member for pair in pairs for member in pair])
    return folder


LIMIT = ByteSize(3 * 2**20)


def opened(source: object, log: Log, **values: object) -> RealData:
    return load(DataChoice.of({"source": str(source), "cache_bytes": LIMIT, "size": 8, **values}, "the test"), 0, log)


def held(cache: Path) -> list[Path]:
    return [path for path in (cache / "blocks").glob("*") if not path.name.startswith("lock-")]


def test_the_same_data_as_on_this_machine(shards: Path, cache: Path, log: Log) -> None:
    here, there = opened(shards, log), opened(f"file://{shards}", log)
    assert (there.name, there.classes, there.fingerprint) == (here.name, here.classes, here.fingerprint)
    assert there.train.labels.tolist() == here.train.labels.tolist()
    for place in (35, 0, 17):
        assert there.train.encoded(place) == here.train.encoded(place)
        assert there.train.where(place) == f"file://{here.train.where(place)}"


def test_what_was_read_before_the_images_is_remembered(
    shards: Path, cache: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(f"file://{shards}", log).fingerprint
    shutil.rmtree(cache / "blocks", ignore_errors=True)
    for name in ("read_range", "read_with", "fetch_to"):
        monkeypatch.setattr(Folder, name, lambda *_: pytest.fail("read again"))
    assert opened(f"file://{shards}", log).fingerprint == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_that_of_local_files_within_the_limit(shards: Path, cache: Path, log: Log, workers: int) -> None:
    choice = DataChoice(source=f"file://{shards}", size=8, cache_bytes=LIMIT, window_images=12, resident="off")
    local = choice.changed(source=str(shards))
    real, here = load(choice, 0, log), load(local, 0, log)
    feed = open_feed(real.train, choice, workers, "cpu", log)
    same = open_feed(here.train, local, 0, "cpu", log)
    views = ViewChoice(crop="resized", min_scale=0.5, flip=True)
    ours = list(feed.epoch(8, views, generator(0, "epoch", 1), "cpu"))
    theirs = list(same.epoch(8, views, generator(0, "epoch", 1), "cpu"))
    assert len(ours) == 5
    for (images, labels), (others, named) in zip(ours, theirs, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, named)
    assert sum(path.stat().st_size for path in held(cache)) <= LIMIT
    assert measure_normalisation(feed, log) == measure_normalisation(same, log)
    parts = [list(feed.epoch(8, views, generator(0, "epoch", 1), "cpu", Part(rank, 2))) for rank in (0, 1)]
    for whole, one, two in zip(ours, *parts, strict=True):
        assert torch.equal(torch.cat([one[0], two[0]]), whole[0])


def test_a_pattern_names_files_of_the_store(shards: Path, log: Log) -> None:
    ending = next(shards.iterdir()).suffix
    real = opened(f"file://{shards}/{{train-{{00000..00002}},val-*}}{ending}", log)
    assert (real.name, len(real.train), len(real.val)) == ("shards", 18, 6)
    with pytest.raises(AttarError, match=r"There is no file file://.*train-00006.*, which '.*' names; check the range"):
        opened(f"file://{shards}/train-{{00000..00006}}{ending}", log)
    with pytest.raises(AttarError, match=r"names files of a store; add --data.cache-bytes, such as 200GB, or name a"):
        load(DataChoice(source=f"file://{shards}/train-{{00000..00002}}{ending}"), 0, log)


def test_several_datasets_in_one_folder_are_not_mixed(shards: Path, log: Log) -> None:
    for name in ("one", "two"):
        shutil.copytree(shards, shards.parent / "all" / name)
    both = f"file://{shards.parent}/all"
    with pytest.raises(
        AttarError, match=rf"several datasets, in the folders one, two; choose one, as in .*'{both}/one'"
    ):
        opened(both, log)
    assert len(opened(f"{both}/one", log).train) == 36
    ending = next(shards.iterdir()).suffix
    for place in (both, both.removeprefix("file://")):  # a pattern says that they belong together
        assert len(opened(f"{place}/*/{{train,val}}-*{ending}", log).train) == 72
    with pytest.raises(AttarError, match=r"several datasets, in the folders one, two; choose one, as in .*all/one'"):
        load(DataChoice(source=both.removeprefix("file://")), 0, log)


def test_the_top_folder_is_named_by_its_address(shards: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    ending = next(shards.iterdir()).suffix
    (shards / "below").mkdir()
    shutil.copy(shards / f"train-00000{ending}", shards / "below")
    load(DataChoice(source=f"file://{shards}", cache_bytes=LIMIT, size=8), 0, Log())
    assert f"reads the files in file://{shards}, and not those in folders below it" in capsys.readouterr().err
    for path in shards.glob("train-*"):
        path.unlink()
    shutil.rmtree(shards / "below")
    with pytest.raises(AttarError, match=f"^file://{shards} has no training files"):
        opened(f"file://{shards}", log)


def test_files_of_no_split_are_refused_in_a_pattern_and_else_told(
    shards: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, said = next(shards.iterdir()).suffix, []
    (shards / f"train-00005{ending}").rename(shards / f"extra-00000{ending}")
    monkeypatch.setattr(log, "say", said.append)
    for place in (f"file://{shards}", str(shards)):
        with pytest.raises(
            AttarError, match=rf"names .*extra-00000{ending}, which would be left out beside train-00000"
        ):
            opened(f"{place}/{{train,extra}}-*{ending}", log)
        assert len(opened(place, log).train) == 30
        assert "extra-00000" in said.pop()


def test_a_changed_shard_is_read_again(shards: Path, log: Log) -> None:
    before = opened(f"file://{shards}", log)
    one, other = sorted(shards.glob("train-*"))[:2]
    shutil.copyfile(other, one)
    after = opened(f"file://{shards}", log)
    assert after.fingerprint != before.fingerprint
    assert after.train.encoded(0) == before.train.encoded(6)


def test_a_store_that_fails_in_an_epoch_stops_the_run(
    shards: Path, cache: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.store.objects.RETRY_SECONDS", ())
    choice = DataChoice(source=f"file://{shards}", size=8, cache_bytes=LIMIT, resident="off", on_corrupt="skip")
    real = load(choice, 0, log)
    shutil.rmtree(cache / "blocks", ignore_errors=True)
    shutil.rmtree(shards)
    feed = open_feed(real.train, choice, 2, "cpu", log)
    with pytest.raises(AttarError, match=r"^file://.* does not exist|cannot be read as Parq"):
        list(feed.epoch(5, ViewChoice(), generator(0), "cpu"))


def test_other_files_cannot_be_read_in_parts(tmp_path: Path, class_folders: Callable, log: Log) -> None:
    class_folders(tmp_path / "set", {"a": 2, "b": 2})
    with pytest.raises(AttarError, match=r"holds no tar or Parquet files, which alone can be read in parts; leave out"):
        opened(f"file://{tmp_path}/set", log)
    with pytest.raises(AttarError, match=r"holds no files; check the address"):
        opened(f"file://{tmp_path}/none", log)


def test_damaged_blocks_are_fetched_again(shards: Path, cache: Path, log: Log) -> None:
    train = opened(f"file://{shards}", log).train.swept()
    expected = train.encoded(0)
    for path in held(cache):
        os.truncate(path, path.stat().st_size // 2)
    assert train.encoded(0) == expected


def test_a_row_group_that_repeats_an_image_keeps_the_limit(
    tmp_path: Path, cache: Path, encoded: Encode, log: Log
) -> None:
    picture = encoded(0, width=120, height=120)
    rows = pa.table({"image": [{"bytes": picture}] * 60, "label": [0, 1] * 30})
    pq.write_table(rows, tmp_path / "train-0.parquet")
    limit = LIMIT - 2**20  # each image once and the slack would fit
    assert (tmp_path / "train-0.parquet").stat().st_size + 2**20 < limit < 60 * len(picture)
    with pytest.raises(AttarError, match=r"more than the cache may hold; raise --data.cache-bytes"):
        opened(f"file://{tmp_path}", log, cache_bytes=limit).train.encoded(0)
    assert sum(path.stat().st_size for path in held(cache)) == 0


NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (pa.array([b"a", b"b"]), "holds binary values"),
        (pa.array([0, 1], pa.timestamp("us")), r"holds timestamp\[us\] values"),
        (NO_TEXT, "holds bytes that are no UTF-8 text"),
    ],
)
def test_labels_that_are_neither_numbers_nor_names(tmp_path: Path, log: Log, labels: pa.Array, told: str) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"x"}] * 2, "label": labels}), tmp_path / "train-0.parquet")
    for source, cache_bytes in ((tmp_path, None), (f"file://{tmp_path}", LIMIT)):
        with pytest.raises(AttarError, match=f"The label column of .*train-0.parquet {told}"):
            opened(source, log, cache_bytes=cache_bytes)


def test_names_of_files_that_are_no_text(tmp_path: Path, write_parquet: Callable, log: Log) -> None:
    folder = tmp_path / "shards"
    write_parquet(folder / "train-0.parquet", [0, 1] * 6, ["cat", "dog"])
    (folder / "train-0.parquet").rename(folder / os.fsdecode(b"train-\xff-0.parquet"))
    assert opened(f"file://{folder}", log).train.encoded(1)
    with pytest.raises(AttarError, match="has a name that is no UTF-8 text; rename it"):
        opened(folder, log, cache_bytes=None)


@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_cache_of_two_windows_fetches_each_shard_once_in_an_epoch(
    tmp_path: Path, cache: Path, write_tar: Callable, encoded: Encode, log: Log, events: Callable,
    monkeypatch: pytest.MonkeyPatch, num_parts: int,
) -> None:  # fmt: skip
    for name in (*(f"train-{n:02}" for n in range(12)), "val-00"):
        pairs = [((f"{n}.png", encoded(n)), (f"{n}.cls", b"%d" % (n % 2))) for n in range(6)]
        path = write_tar(tmp_path / f"{name}.tar", [member for pair in pairs for member in pair])
    choice = DataChoice(
        source=f"file://{tmp_path}", size=8, cache_bytes=4 * path.stat().st_size, window_images=12, resident="off"
    )
    train = load(choice, 0, log).train
    shutil.rmtree(cache / "blocks")
    fetched: list[str] = []
    fetch_to = Folder.fetch_to
    monkeypatch.setattr(
        Folder, "fetch_to", lambda self, name, *given: fetched.append(name) or fetch_to(self, name, *given)
    )
    monkeypatch.setattr("attar.core.ranks.counts", lambda count: [count] * num_parts)
    feeds = [open_feed(train, choice, 0, "cpu", log) for _ in range(num_parts)]
    epochs = [
        feed.epoch(6, ViewChoice(), generator(0, "epoch", 1), "cpu", Part(rank, num_parts))
        for rank, feed in enumerate(feeds)
    ]
    for _ in range(12):
        for epoch in epochs:
            next(epoch)
    assert sorted(fetched) == [f"train-{n:02}.tar" for n in range(12)]
    assert not events("warning")
    open_feed(train, choice.changed(window_images=18), 0, "cpu", log)
    assert "holds less than two windows of 18 images" in events("warning")[0]["text"]


def test_a_cache_that_is_too_small(shards: Path, log: Log) -> None:
    with pytest.raises(AttarError, match=r"more than the cache may hold; raise --data.cache-bytes \(1,000\)\."):
        opened(f"file://{shards}", log, cache_bytes=1000).train.image(0)
