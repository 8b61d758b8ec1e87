"""A quick look for pictures that cannot be read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.core.log import Log
from attar.data import damage
from attar.data.choice import DataChoice
from attar.data.damage import Damage, look
from attar.data.load import load
from attar.data.source import Arrays

Make = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, class_folders: Make) -> Path:
    """Two classes of sound PNG files, and four other pictures: a CMYK JPEG is sound, the others are damaged."""
    class_folders(tmp_path, {"cat": 4, "dog": 4})
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 4), dtype=np.uint8)
    Image.fromarray(pixels, "CMYK").save(tmp_path / "cat" / "x.jpg")
    whole = (tmp_path / "cat" / "x.jpg").read_bytes()
    (tmp_path / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    (tmp_path / "dog" / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    return tmp_path


def looked(folder: Path) -> Damage:
    real = load(DataChoice(source=str(folder)), 0, Log(quiet=True))
    return look((real.train, real.val))


def test_cut_and_empty_files_and_other_files_are_found_in_both_splits(folder: Path) -> None:
    found = looked(folder)
    assert (found.num_pictures, found.num_opened) == (12, 12)
    assert {Path(fault.where).name for fault in found.faults} == {"cut.jpg", "empty.jpg", "page.jpg"}
    (sentence,) = found.sentences(skips=False)
    assert sentence.startswith("Unreadable pictures: 3 of 12 (every file was opened): ")
    assert "the file is empty" in sentence
    assert sentence.endswith("The run stops: repair or delete them, or add --data.on-corrupt skip.")
    assert found.sentences(skips=True)[0].endswith("The run leaves them out.")


def test_a_picture_is_opened_once_until_its_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = damage._fault, []
    monkeypatch.setattr(damage, "_fault", lambda split, place: opened.append(place) or real(split, place))
    before = looked(folder)
    assert (looked(folder), len(opened)) == (before, 12)
    (folder / "dog" / "empty.jpg").write_bytes((folder / "cat" / "x.jpg").read_bytes())
    assert len(looked(folder).faults) == len(before.faults) - 1


def test_of_many_pictures_a_part_is_opened_and_the_sentence_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "MOST_PICTURES", 4)
    monkeypatch.setattr(damage, "RUNS", 2)
    found = looked(folder)
    assert (found.num_pictures, found.num_opened) == (12, 4)
    assert "of 4 (a sample of 12)" in found.sentences(skips=False)[0]


def test_nothing_is_said_of_pictures_in_memory() -> None:
    split = Arrays(np.zeros((3, 4, 4, 3), dtype=np.uint8), np.arange(3), "mine")
    assert look((split, split)).sentences(skips=False) == []
