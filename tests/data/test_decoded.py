import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import content, decoded, decoded_file
from attar.data.choice import DataChoice
from attar.data.decoded import pixels
from attar.data.load import load
from attar.data.picture import prepare
from attar.store import atomic


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


@pytest.fixture(params=["threads", "processes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Few images are decoded by threads, many by processes."""
    if request.param == "processes":
        monkeypatch.setattr(decoded, "num_processes", lambda _: 2)
    return request.param


@pytest.mark.usefixtures("way")
def test_every_image_in_order(tmp_path: Path, class_folders: Callable, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 70, "b": 70})
    class_folders(tmp_path / "val", {"a": 1, "b": 1})
    choice = DataChoice(source=str(tmp_path), size=8, resize=9)
    real = load(choice, 0, log)
    found = pixels(real.train, choice, log)
    assert found.images.shape == (140, 3, 8, 8)
    assert found.images.dtype == torch.uint8
    assert found.labels.tolist() == [0] * 70 + [1] * 70
    for index in (0, 63, 64, 139):
        expected = prepare(real.train.image(index), 8, 9).transpose(2, 0, 1)
        assert np.array_equal(found.images[index].numpy(), expected)


@pytest.mark.usefixtures("way")
def test_unreadable_images(tmp_path: Path, class_folders: Callable, log: Log, events: Callable) -> None:
    class_folders(tmp_path / "train", {"a": 3, "b": 3})
    class_folders(tmp_path / "val", {"a": 1, "b": 1})
    first = tmp_path / "train" / "a" / "a_1.png"
    spoil(first)
    (tmp_path / "train" / "b" / "b_2.png").write_bytes(b"")
    choice = DataChoice(source=str(tmp_path), size=8)
    train = load(choice, 0, log).train
    with pytest.raises(AttarError) as error:
        pixels(train, choice, log)
    assert str(error.value).startswith(f"2 of 6 images cannot be read, the first is {first} (")
    assert str(error.value).endswith("); repair or delete them, or skip them with --data.on-corrupt skip.")
    found = pixels(train, choice.changed(on_corrupt="skip"), log)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.images[1].numpy(), prepare(train.image(2), 8).transpose(2, 0, 1))
    assert events("warning")[0]["text"] == f"skipped 2 of 6 images, which cannot be read; the first is {first}"
    assert [Path(line["where"]).name for line in events("unreadable")] == ["a_1.png", "b_2.png"]
    for path in (tmp_path / "train" / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(AttarError, match=r"No image of a class can be read, the first of them is .*b_0\.png"):
        pixels(train, choice.changed(on_corrupt="skip"), log)
    found = pixels(train, choice.changed(on_corrupt="skip"), log, all_classes=False)
    assert found.labels.tolist() == [0, 0]


def test_a_decoding_process_that_is_killed(
    tmp_path: Path, class_folders: Callable, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "train", {"a": 3, "b": 3})
    class_folders(tmp_path / "val", {"a": 1, "b": 1})
    choice = DataChoice(source=str(tmp_path), size=8)
    train, here = load(choice, 0, log).train, os.getpid()

    def killed(*_: object) -> None:
        assert os.getpid() != here, "the picture is decoded in the first process"
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(decoded, "prepare", killed)
    monkeypatch.setattr(decoded, "num_processes", lambda _: 2)
    with pytest.raises(
        AttarError, match=r"A process that decodes images was killed, probably .* --data\.resident off\.$"
    ):
        pixels(train, choice, log)


def test_processes_are_dealt_to_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded.sys, "platform", "linux")
    monkeypatch.setattr(decoded.os, "sched_getaffinity", lambda _: set(range(16)))
    assert decoded.num_processes(decoded.FORKED_FROM) == 16
    assert decoded.num_processes(decoded.FORKED_FROM - 1) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoded.num_processes(decoded.FORKED_FROM) == 4


@pytest.fixture
def small_set(tmp_path: Path, class_folders: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make a set of two classes of so many training images, and keep the cache in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(count: int) -> None:
        class_folders(tmp_path / "set" / "train", {"a": count, "b": count})
        class_folders(tmp_path / "set" / "val", {"a": 1, "b": 1})

    return make


@pytest.mark.usefixtures("way")
def test_decoded_images_are_kept_and_mapped(
    tmp_path: Path, small_set: Callable[[int], None], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(40)
    choice = DataChoice(source=str(tmp_path / "set"), size=8)
    real = load(choice, 0, log)
    expected, keeping = pixels(real.train, choice, log).images, choice.changed(keep_decoded=True)
    counted: list[int] = []
    decode_all = decoded._decode_all
    monkeypatch.setattr(decoded, "_decode_all", lambda *given: counted.append(1) or decode_all(*given))
    for _ in range(2):
        found = pixels(real.train, keeping, log)
        assert torch.equal(found.images, expected)
        found.images[0] = 7  # stays here
    assert len(counted) == 1
    file = next((tmp_path / "cache" / "attar" / "decoded").glob("*.uint8"))
    assert file.stat().st_size == 80 * 3 * 8 * 8
    with file.open("rb+") as opened:
        opened.seek(100)
        opened.write(b"damage")
    assert torch.equal(pixels(real.train, keeping, log).images, expected)
    assert pixels(real.train, keeping.changed(size=9), log).images.shape == (80, 3, 9, 9)
    assert len(counted) == 3


@pytest.mark.usefixtures("way")
def test_images_with_gaps_are_not_kept(tmp_path: Path, small_set: Callable[[int], None], log: Log) -> None:
    small_set(3)
    spoil(tmp_path / "set" / "train" / "a" / "a_1.png")
    choice = DataChoice(source=str(tmp_path / "set"), size=8, on_corrupt="skip")
    train = load(choice, 0, log).train
    found = pixels(train, choice.changed(keep_decoded=True), log)
    assert torch.equal(found.images, pixels(train, choice, log).images)
    assert not list((tmp_path / "cache" / "attar" / "decoded").glob("*.uint8"))


def test_a_replaced_picture_is_decoded_again(
    tmp_path: Path, small_set: Callable[[int], None], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(3)
    monkeypatch.setattr(content, "WHOLE_BYTES", 0)
    monkeypatch.setattr(content, "NUM_PIECES", 2)  # the identity does not know the pictures between
    choice = DataChoice(source=str(tmp_path / "set"), size=8, keep_decoded=True)

    def middle(value: int) -> int:
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / "set" / "train" / "a" / "a_1.png", "BMP")
        train = load(choice, 0, log).train
        return int(pixels(train, choice, log).images[1].max())

    assert (middle(3), middle(200)) == (3, 200)


def test_a_disk_that_fills_before_decoding(
    tmp_path: Path, small_set: Callable[[int], None], log: Log, events: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    small_set(3)
    choice = DataChoice(source=str(tmp_path / "set"), size=8)
    train = load(choice, 0, log).train
    with monkeypatch.context() as patch:
        patch.setattr(decoded_file.os, "posix_fallocate", full)
        found = pixels(train, choice.changed(keep_decoded=True), log)
    assert torch.equal(found.images, pixels(train, choice, log).images)
    assert "has no room for" in events("warning")[0]["text"]
    folder = tmp_path / "cache" / "attar" / "decoded"
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    stale, other = (folder / f".{name}.uint8.dead.tmp" for name in (next(folder.iterdir()).stem, "0" * 40))
    for path in (stale, other, folder / f"{'0' * 40}.lock"):
        path.touch()
    with atomic.locked(folder / f"{'0' * 40}.lock"):  # another process writes it
        pixels(train, choice.changed(keep_decoded=True), log)
    assert (stale.exists(), other.exists()) == (False, True)
