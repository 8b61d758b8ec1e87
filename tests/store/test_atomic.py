"""store/atomic.py: whole folders, all or nothing."""

import errno
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.store import atomic


def test_a_folder_is_there_when_it_is_filled(tmp_path: Path):
    out = tmp_path / "a" / "out"
    with atomic.new_folder(out) as temporary:
        (temporary / "one").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "one").read_text() == "1"


def fill(path: Path, fault: Exception) -> None:
    with atomic.new_folder(path) as temporary:
        (temporary / "one").write_text("1")
        raise fault


def test_nothing_is_left_of_a_folder_that_failed(tmp_path: Path):
    with pytest.raises(KeyError):
        fill(tmp_path / "out", KeyError())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path):
    with pytest.raises(AttarError, match="disk is full while writing .*out"):
        fill(tmp_path / "out", OSError(errno.ENOSPC, "full"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        with pytest.raises(AttarError, match=rf"{name} is there already and not empty"):
            fill(tmp_path / name, AssertionError())
    assert (tmp_path / "out" / "mine").exists()
    (tmp_path / "out" / "mine").unlink()
    with atomic.new_folder(tmp_path / "out") as temporary:
        (temporary / "one").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one"]
