import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import layout
from attar.data.scan import class_folders as listed_classes
from attar.data.scan import scan

Make = Callable[..., Path]
Events = Callable[[str], list[dict]]


def test_images_below_class_folders_are_read_and_said(
    tmp_path: Path, class_folders: Make, noise: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path, {"cats": 2, "dogs": 1})
    for place in ("cats/phone", "cats/phone/old", "dogs/phone", "dogs/.ipynb_checkpoints", "dogs/__MACOSX"):
        (tmp_path / place).mkdir()
        noise(7).save(tmp_path / place / "1.png")
    found = layout.read(tmp_path, Log())
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    places = [Path(found.train.where(index)).relative_to(tmp_path) for index in range(6)]
    assert places[2:4] == [Path("cats/phone/1.png"), Path("cats/phone/old/1.png")]
    assert "3 of 6 images lie in sub-folders of classes, as in cats/phone\n" in capsys.readouterr().err


def test_classes_that_may_lie_deeper_are_named(
    tmp_path: Path, class_folders: Make, log: Log, events: Events, noise: Callable
) -> None:
    class_folders(tmp_path / "places" / "a", {"airfield": 2, "alley": 1})
    class_folders(tmp_path / "places" / "b", {"bakery": 2, "beach": 1})
    found = layout.read(tmp_path / "places", log)
    assert (found.classes, found.train.labels.tolist()) == (("a", "b"), [0, 0, 0, 1, 1, 1])
    assert "lie in sub-folders, as in a/airfield; the 2 folders above them are taken as" in events("warning")[0]["text"]
    class_folders(tmp_path / "tiny", {"x": 1, "y": 1}, inner="images")
    layout.read(tmp_path / "tiny", log)
    assert len(events("warning")) == 1


def test_links_are_followed_once(tmp_path: Path, class_folders: Make) -> None:
    class_folders(tmp_path / "store", {"a": 2})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "store" / "a")
    assert scan(listed_classes(tmp_path / "set")["a"]).count == 2
    (tmp_path / "set" / "b").symlink_to(tmp_path / "nowhere")
    with pytest.raises(AttarError, match=r"set/b is a link that leads nowhere; repair or remove it\."):
        listed_classes(tmp_path / "set")


@pytest.mark.parametrize("ending", ["jfif", "JPE", "pjpeg", "avif", "dib", "tga", "jp2", "pbm"])
def test_other_endings_are_read(tmp_path: Path, class_folders: Make, log: Log, noise: Callable, ending: str) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    kind = {
        "jfif": "JPEG",
        "JPE": "JPEG",
        "pjpeg": "JPEG",
        "avif": "AVIF",
        "jp2": "JPEG2000",
        "pbm": "PPM",
        "dib": "DIB",
    }
    noise(3).save(tmp_path / "b" / f"z.{ending}", kind.get(ending, ending.upper()))
    found = layout.read(tmp_path, log)
    assert found.train.labels.tolist() == [0, 1, 1]
    assert found.train.image(2).size == (12, 10)


def test_what_is_left_out_is_counted(tmp_path: Path, class_folders: Make, log: Log, events: Events) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "labels.csv"):
        (tmp_path / "a" / name).write_bytes(b"")
    layout.read(tmp_path, log)
    assert events("warning") == []
    for name in ("1.heic", "2.HEIC", "3.mov", "bare"):
        (tmp_path / "b" / name).write_bytes(b"")
    layout.read(tmp_path, log)
    text = events("warning")[0]["text"]
    assert f"left out 4 of the files in {tmp_path}" in text
    assert "2 .heic, 1 .mov, 1 without an ending; convert" in text or "1 without an ending, 1 .mov; convert" in text


def test_images_outside_of_class_folders_are_counted(
    tmp_path: Path, class_folders: Make, log: Log, events: Events, noise: Callable
) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    noise(0).save(tmp_path / "loose.png")
    assert len(layout.read(tmp_path, log).train) == 2
    assert events("warning")[0]["text"].startswith("left out 1 of the images, which lie in")


def test_names_that_are_not_utf8(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "x.png")
    os.rename(tmp_path / "a" / "x.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")  # noqa: PTH104
    found = layout.read(tmp_path, log)
    assert found.train.image(1).size == (4, 4)  # a file may be called anything
    os.rename(tmp_path / "a", os.fsencode(tmp_path) + b"/caf\xe9")  # noqa: PTH104
    with pytest.raises(AttarError, match="has a name that is not UTF-8, so it cannot name a class; rename it"):
        layout.read(tmp_path, log)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, class_folders: Make, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    listing = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(AttarError, match=r"/b cannot be read \(Permission denied\); fix its permissions\."):
        layout.read(tmp_path, log)
