"""store/objects.py and what is built on it, against a server that speaks S3."""

import errno
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.randomness import generator
from attar.data import remote
from attar.data.choice import DataChoice
from attar.data.feed import open_feed
from attar.data.load import load
from attar.ops.views import ViewChoice
from attar.store import atomic, objects
from attar.store.objects import Entry, Folder, is_address
from attar.store.sealed import SealedFile

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

SECRET = "a-secret-that-nobody-prints"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    started = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket that the standard environment variables lead to."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shelf")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "shelf"
    for found in client.list_objects_v2(Bucket="shelf").get("Contents", ()):
        client.delete_object(Bucket="shelf", Key=found["Key"])


@pytest.fixture
def log() -> Log:
    return Log(quiet=True)


def test_files_go_there_and_back(bucket: str, tmp_path: Path):
    store, sent = Folder(f"s3://{bucket}/some/folder/"), dict[str, int]()
    assert store.files() == {}
    assert store.read("absent") is None
    paths = {f"inner/{number}.bin": tmp_path / f"{number}.bin" for number in range(20)}
    for number, path in enumerate(paths.values()):
        path.write_bytes(bytes([number]) * 1000 * number)
    here = threading.get_ident()
    store.send(paths, lambda name, size: sent.update({name: size, "thread": threading.get_ident()}))
    assert sent.pop("thread") == here, "called elsewhere, where a progress bar would be torn"
    assert sent == {name: path.stat().st_size for name, path in paths.items()}
    found = store.files()
    assert {name: entry.bytes for name, entry in found.items()} == sent
    assert all(entry.tag for entry in found.values())
    store.fetch(found, tmp_path / "back", lambda *_: None)
    for name, path in paths.items():
        assert (tmp_path / "back" / name).read_bytes() == path.read_bytes()
    before = found["inner/3.bin"].tag
    store.write("inner/3.bin", b"x" * 3000)
    assert store.files()["inner/3.bin"].tag != before
    store.remove(["inner/3.bin", "absent"])
    assert "inner/3.bin" not in store.files()


def test_a_wrong_file_is_not_kept(bucket: str, tmp_path: Path):
    store = Folder(f"s3://{bucket}/x")
    store.write("a", b"12345")
    sha256 = atomic.sha256_of(_file(tmp_path / "a", b"12345"))
    store.fetch({"a": SealedFile(bytes=5, sha256=sha256)}, tmp_path / "back", lambda *_: None)
    for entry in (SealedFile(bytes=5, sha256="0" * 64), SealedFile(bytes=4, sha256=sha256), Entry(6, "")):
        with pytest.raises(AttarError, match=r"x/a (is damaged|has 5 bytes in place of)"):
            store.fetch({"a": entry}, tmp_path / "other", lambda *_: None)
        assert list((tmp_path / "other").iterdir()) == []


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "c:\\a", "a\\b", "."])
def test_a_name_outside_the_folder_is_refused(bucket: str, tmp_path: Path, name: str):
    with pytest.raises(AttarError, match="outside the folder; nothing is fetched"):
        Folder(f"s3://{bucket}/x").fetch({"good": Entry(1, ""), name: Entry(1, "")}, tmp_path / "back", lambda *_: None)
    assert not (tmp_path / "back").exists()


def test_errors_are_one_sentence_without_keys(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def said(act: Callable[[], object]) -> str:
        with pytest.raises(AttarError) as caught:
            act()
        text = str(caught.value)
        assert SECRET not in text
        assert "\n" not in text
        return text

    nowhere = Folder("s3://no-such-shelf/x")
    assert "no-such-shelf" in said(lambda: nowhere.write("a", b""))
    assert "does not exist" in said(lambda: Folder(f"s3://{bucket}/x").fetch({"a": Entry(1, "")}, tmp_path, print))
    assert "GB free; make room" in said(lambda: nowhere.fetch({"a": Entry(10**18, "")}, tmp_path, print))
    monkeypatch.setitem(objects.EXTRAS, "s3", ("no_such_package", "s3"))
    assert "pip install 'attar[s3]'" in said(lambda: Folder("s3://shelf/x"))


def test_a_full_disk_is_named_and_not_the_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Folder(f"s3://{bucket}/x")
    store.write("a", b"1")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store._opened[0], "get_file", full)
    with pytest.raises(AttarError, match="full"):
        store.fetch({"a": Entry(1, "")}, tmp_path / "back", lambda *_: None)
    with pytest.raises(AttarError, match=rf"The disk is full while writing {tmp_path}; free some space"):
        store.fetch_to("a", tmp_path / "a", 1)


class Flaky(io.BytesIO):
    """A file of a store that breaks off, so many times."""

    faults: ClassVar[list[Exception]] = []

    def read(self, size: int | None = -1) -> bytes:
        if self.faults:
            raise self.faults.pop()
        return super().read(size)


def test_reading_is_tried_again_and_a_library_does_not_hide_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Folder(tmp_path.as_uri())
    monkeypatch.setattr(objects, "RETRY_SECONDS", (0.0,))
    monkeypatch.setattr(store._opened[0], "open", lambda *_, **__: Flaky(b"12345"))

    def hiding(file: io.RawIOBase) -> bytes | None:
        try:
            return file.read()
        except Exception:
            raise ValueError("the content is odd") from None

    for count in (0, 1):
        monkeypatch.setattr(Flaky, "faults", [ConnectionResetError("reset")] * count)
        assert store.read_with("a", hiding) == store.read_range("a", 0, 5) == b"12345"
    for faults, error, message in (
        (
            [RuntimeError("Response payload is not completed")] * 2,
            AttarError,
            "cannot be reached .Response payload is no",
        ),
        ([PermissionError("no")], AttarError, "is refused"),
    ):
        monkeypatch.setattr(Flaky, "faults", faults)
        with pytest.raises(error, match=message):
            store.read_with("a", hiding)
        assert not Flaky.faults

    def odd(_: object) -> None:
        raise ValueError("the content is odd")

    with pytest.raises(AttarError, match="odd"):
        store.read_with("a", odd)


def test_real_data_are_fetched_once_and_again_when_they_change(
    bucket: str, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
):
    for place, name in enumerate(("train/a/1", "train/a/2", "train/a/3", "train/b/1", "val/a/1", "val/b/1")):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * place, 0, 0)).save(path)
    paths = {path.relative_to(tmp_path / "set").as_posix(): path for path in (tmp_path / "set").rglob("*.*")}
    address = f"s3://{bucket}/pictures/set"
    store = Folder(address)
    store.send(paths, lambda *_: None)
    local = load(DataChoice(source=str(tmp_path / "set"), size=8), 0, log)
    found = load(DataChoice(source=address, size=8), 0, log)
    assert (found.name, found.fingerprint) == (local.name, local.fingerprint)

    fetched = list[str]()
    real = Folder.fetch
    monkeypatch.setattr(
        Folder, "fetch", lambda self, names, into, done: (fetched.extend(names), real(self, names, into, done))
    )
    load(DataChoice(source=address, size=8), 0, log)
    assert fetched == []
    changed, gone, *_ = sorted(name for name in paths if name.startswith("train/a"))
    store.write(changed, paths[gone].read_bytes())
    store.remove([gone])
    folder = remote.cached(address, log)
    assert fetched == [changed]
    assert (folder / changed).read_bytes() == paths[gone].read_bytes()
    assert not (folder / gone).exists()
    (folder / changed).write_bytes(b"")
    assert remote.cached(address, log) == folder
    assert (folder / changed).read_bytes() == paths[gone].read_bytes()
    with pytest.raises(AttarError, match="holds no files"):
        remote.cached(f"s3://{bucket}/empty", log)


def test_tar_files_are_read_in_parts_by_worker_processes(bucket: str, tmp_path: Path, log: Log):
    client = boto3.client("s3")
    for shard in range(3):
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w") as tar:
            for place in range(4):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8), (40 * shard, 40 * place, 0)).save(picture, "PNG")
                for name, data in ((f"{place}.png", picture.getvalue()), (f"{place}.cls", b"%d" % (place % 2))):
                    about = tarfile.TarInfo(name)
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
        client.put_object(Bucket=bucket, Key=f"shards/train-{shard}.tar", Body=written.getvalue())
    values = {
        "source": f"s3://{bucket}/shards",
        "size": 8,
        "cache_bytes": "30kB",
        "window_images": 4,
        "resident": "off",
    }
    choice = DataChoice.of(values | {"size": 8, "resident": "off"}, "the test")
    real = load(choice, 0, log)
    batches = list(open_feed(real.train, choice, 2, "cpu", log).epoch(5, ViewChoice(), generator(0), "cpu"))
    shown = {tuple((255 * image[:2, 0, 0]).round().int().tolist()) for images, _ in batches for image in images}
    held = {tuple(real.train.image(place).getpixel((0, 0))[:2]) for place in range(len(real.train))}  # pyright: ignore
    assert shown == held
    blocks = tmp_path / "cache" / "attar" / "blocks"
    assert 0 < sum(path.stat().st_size for path in blocks.iterdir()) <= 30_000


def test_what_an_address_is():
    assert all(map(is_address, ("s3://bucket/x", "gs://bucket", "memory://x", "S3://b/x")))
    assert not any(map(is_address, ("hf:org/name", "runs/mine", "C:\\x", "/data", "org/name", "")))
