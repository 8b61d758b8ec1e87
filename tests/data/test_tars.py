import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import content, tar_index
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.picture import Unreadable, decode
from attar.data.source import RealData

Make = Callable[..., Path]
Encode = Callable[..., bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


@pytest.fixture
def shards(tmp_path: Path, write_tar: Make, encoded: Encode) -> Path:
    """Two training shards and one to validate on; image 10 * shard + place has the seed of its number."""
    for shard, name in enumerate(("set-train-000", "set-train-001", "set-val-000")):
        members = []
        for place in range(4):
            key = f"{shard}{place}"
            members += [(f"{key}.png", encoded(10 * shard + place)), (f"{key}.cls", f"{place % 2}\n".encode())]
        write_tar(tmp_path / "shards" / f"{name}.tar", members)
    return tmp_path / "shards"


def opened(source: object, log: Log, **values: object) -> RealData:
    return load(DataChoice.of({"source": str(source), **values}, "the test"), 0, log)


def test_a_folder_of_shards(shards: Path, log: Log, encoded: Encode) -> None:
    real = opened(shards, log)
    assert (real.name, real.classes) == ("shards", ("0", "1"))
    assert real.train.labels.tolist() == [0, 1] * 4
    assert len(real.val) == 4
    for place in (6, 0, 3):  # in any order
        seed = 10 * (place // 4) + place % 4
        assert real.train.encoded(place) == encoded(seed)
        assert np.array_equal(np.asarray(real.train.image(place)), np.asarray(decode(encoded(seed), "")))
    assert real.train.where(6) == f"{shards / 'set-train-001.tar'} image 12"
    assert pickle.loads(pickle.dumps(real.train)).encoded(5) == encoded(11)  # as worker processes get it


def test_a_pattern_and_a_single_file(shards: Path, log: Log) -> None:
    whole = opened(f"{shards}/set-{{train-{{000..001}},val-000}}.tar", log)
    assert whole.fingerprint == opened(shards, log).fingerprint
    train = opened(f"{shards}/set-train-*.tar", log)  # a part is held out
    assert (train.name, len(train.train) + len(train.val)) == ("shards", 8)
    assert len(opened(shards / "set-train-001.tar", log).train) == 2
    with pytest.raises(AttarError, match=r"There is no file .*002.tar, which"):
        opened(f"{shards}/set-train-{{000..002}}.tar", log)


def test_a_folder_for_each_split_and_names_of_classes(
    tmp_path: Path, write_tar: Make, encoded: Encode, log: Log
) -> None:
    for split in ("train", "test"):
        members = [(f"a/{n}.jpg", encoded(n)) for n in range(2)]
        members += [(f"a/{n}.json", json.dumps({"label": n}).encode()) for n in range(2)]
        write_tar(tmp_path / split / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("tench\ngoldfish\n\n")
    real = opened(tmp_path, log)
    assert (real.classes, len(real.val)) == (("tench", "goldfish"), 2)
    (tmp_path / "classnames.txt").write_text("tench\ntench\n")
    with pytest.raises(AttarError, match=r"classnames.txt names 'tench' twice; write the name of each class on a line"):
        opened(tmp_path, log)


def test_named_labels(tmp_path: Path, write_tar: Make, encoded: Encode, log: Log) -> None:
    names = ["dog", "cat", "dog", "cat"]
    members = [(f"{n}.{end}", data) for n, name in enumerate(names) for end, data in
               (("png", encoded(n)), ("cls", name.encode()))]  # fmt: skip
    real = opened(write_tar(tmp_path / "pets.tar", members), log)
    assert real.classes == ("cat", "dog")


def test_a_tar_file_for_each_wordnet_id(tmp_path: Path, write_tar: Make, encoded: Encode, log: Log) -> None:
    for seed, name in enumerate(("n01440764", "n01443537")):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}_{n}.JPEG", encoded(10 * seed + n)) for n in range(3)])
    real = opened(tmp_path, log)
    assert real.classes == ("n01440764", "n01443537")
    assert np.bincount(real.train.labels).tolist() == [2, 2]


def test_missing_labels(tmp_path: Path, write_tar: Make, encoded: Encode, log: Log) -> None:
    path = write_tar(tmp_path / "train-0.tar", [("a.png", encoded(0)), ("b.png", encoded(1))])
    with pytest.raises(AttarError, match=r"^None of the 2 images in .* have labels: train-0.tar should hold a.cls"):
        opened(path, log)
    write_tar(path, [("a.png", encoded(0)), ("b.png", encoded(1)), ("a.cls", b"0")])
    with pytest.raises(AttarError, match=r"^1 only of the 2 images in .* have labels: train-0.tar should hold b.cls"):
        opened(path, log)


def test_the_index_is_kept_and_sealed(shards: Path, cache: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(shards, log).fingerprint
    assert len(list((cache / "attar" / "indexes").glob("*.parquet"))) == 3
    made = []
    make = tar_index.make
    monkeypatch.setattr(tar_index, "make", lambda *given: made.append(given[2]) or make(*given))
    assert opened(shards, log).fingerprint == before
    assert not made
    damaged, changed = shards / "set-train-000.tar", shards / "set-val-000.tar"
    kept = tar_index.kept_at(str(damaged))
    kept.write_bytes(kept.read_bytes()[:-20])
    os.utime(changed, ns=(1, 1))
    assert opened(shards, log).fingerprint == before
    assert sorted(made) == [str(damaged), str(changed)]


def test_an_index_of_other_content_is_not_believed(shards: Path, cache: Path) -> None:
    tar = shards / "set-val-000.tar"
    index = tar_index.of(tar)
    place = tar_index.kept_at(str(tar))
    tag = content.stamp(tar)
    assert tar_index.read(place, tag) is not None
    assert tar_index.read(place, tag + "1") is None
    table = pq.read_table(place)
    pq.write_table(table.set_column(1, "start", pa.array(index.starts + 512)), place)
    assert tar_index.read(place, tag) is None


def test_labels_written_anew_under_the_old_time_are_noticed(tmp_path: Path, write_tar: Make, encoded: Encode) -> None:
    def labels(*names: str) -> list:
        pairs = [((f"{n}.png", encoded(n)), (f"{n}.cls", name.encode())) for n, name in enumerate(names)]
        path = write_tar(tmp_path / "train-0.tar", [member for pair in pairs for member in pair])
        os.utime(path, ns=(1, 1))  # as rsync and cp -p leave it
        return tar_index.of(path).labels.to_pylist()

    assert [labels("a", "b"), labels("b", "a")] == [["a", "b"], ["b", "a"]]


def test_a_read_only_cache_is_no_obstacle(shards: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/attar")
    assert len(opened(shards, log).train) == 8


def test_an_image_that_got_lost_after_indexing(shards: Path, log: Log) -> None:
    real = opened(shards, log)
    tar = shards / "set-train-001.tar"
    with tar.open("rb+") as file:
        file.truncate(1024)
    with pytest.raises(Unreadable, match=r"train-001.tar image 13 cannot be read as an image \(the tar file became"):
        real.train.image(7)


def kind(value: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(about: tarfile.TarInfo) -> None:
        about.type, about.linkname = value, "/etc/passwd"

    return change


@pytest.mark.parametrize(
    ("members", "change", "message"),
    [
        ([("../../evil.png", b"x")], None, r"'../../evil.png', which would lie outside the folder"),
        ([("/etc/cron.d/evil.png", b"x")], None, r"which would lie outside the folder"),
        ([("a/..\\evil.png", b"x")], None, r"which would lie outside the folder"),
        ([("a.png", b"")], kind(tarfile.SYMTYPE), r"'a.png', which is a link; attar reads plain files only"),
        ([("a.png", b"")], kind(tarfile.LNKTYPE), r"'a.png', which is a link"),
        ([("a.png", b"")], kind(tarfile.CHRTYPE), r"'a.png', which is no plain file"),
        ([("a.png", b"x"), ("a.png", b"y")], None, r"has the member 'a.png' twice"),
        ([("a.png", b"x"), ("a.jpg", b"y")], None, r"has several images of one sample \(a.png and a.jpg\)"),
        ([("\x1b[31m/../a.png", b"x")], None, r"'\\x1b\[31m/../a.png', which would lie outside"),
        ([("a.cls", b"x" * 2_000_000)], None, r"a.cls has 2,000,000 bytes, too many for a label"),
        ([("a.cls", b"\xff\xfe")], None, r"a.cls is no text; write the number or the name"),
        ([("a.json", b"{")], None, r"a.json cannot be read as JSON"),
        ([("a.json", b'{"label": "\\ud800"}')], None, r"a.json has the class name \\ud800, which is no Unicode text"),
        ([("n" * 70_000 + ".png", b"x")], None, r"a name or extended header of 70,\d+ bytes"),
        ([("a.txt", b"x")], None, r"has no images that attar reads"),
    ],
)
def test_hostile_members(
    tmp_path: Path, write_tar: Make, log: Log, members: list, change: Callable | None, message: str
) -> None:
    path = write_tar(tmp_path / "in" / "train-0.tar", members, change or (lambda _: None))
    with pytest.raises(AttarError, match=message) as error:
        opened(path, log)
    assert "\x1b" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "in", path]  # nothing is extracted


def test_absurd_sizes(tmp_path: Path, write_tar: Make, log: Log) -> None:
    path = write_tar(tmp_path / "train-0.tar", [("a.png", b"x")])
    about = tarfile.TarInfo("a.png")
    about.size = 2**62
    header = about.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + path.read_bytes()[512:])
    with pytest.raises(AttarError, match=r"member 'a.png' should have 4,611,686,018,427,387,904 bytes"):
        opened(path, log)
    about.size = -5
    path.write_bytes(about.tobuf(tarfile.GNU_FORMAT) + path.read_bytes()[512:])
    with pytest.raises(AttarError, match=r"train-0.tar is cut short or damaged"):
        opened(path, log)
    pax = tarfile.TarInfo("a.png")
    pax.pax_headers = {"size": str(10**15)}
    path.write_bytes(pax.tobuf(tarfile.PAX_FORMAT) + b"x" * 1024)
    with pytest.raises(AttarError, match=r"should have 1,000,000,000,000,000 bytes"):
        opened(path, log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:700], r"train-0.tar is cut short or damaged: its member 'a.png' should have 5,000 bytes"),
        (lambda data: data[:-10_240], r"train-0.tar lacks the end mark of a tar file, so it was probably cut short"),
        (lambda data: data[:5800], r"train-0.tar is cut short: it ends inside a header"),
        (lambda data: data + data, r"bytes from its end mark on, as tar files that were joined with cat have"),
        (lambda data: b"\x1f\x8b" + data, r"train-0.tar is compressed with gzip, so single images cannot be read"),
        (lambda data: b"<html>" + data, r"train-0.tar is no tar file \(bad checksum\); fetch it again\."),
        (lambda _: b"", r"train-0.tar lacks content; fetch it again\."),
    ],
)
def test_damaged_tar_files(
    tmp_path: Path, write_tar: Make, log: Log, change: Callable[[bytes], bytes], message: str
) -> None:
    path = write_tar(tmp_path / "train-0.tar", [("a.png", b"x" * 5000), ("a.cls", b"1" * 4096)])
    data = path.read_bytes().rstrip(b"\0")
    padded = data + bytes(-len(data) % 512) + bytes(10_240)
    path.write_bytes(change(padded))
    with pytest.raises(AttarError, match=message):
        opened(path, log)


def test_long_names(tmp_path: Path, encoded: Encode, log: Log) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"train-{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for place in range(4):
                for ending, data in (("png", encoded(place)), ("cls", b"ab"[place % 2 :][:1])):
                    about = tarfile.TarInfo("deep/" * 60 + f"ü{place}.{ending}")
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
        real = opened(path, log)
        every = [split.where(n) for split in (real.train, real.val) for n in range(len(split))]
        assert sorted(every) == [f"{path} image {'deep/' * 60}ü{place}" for place in range(4)]
