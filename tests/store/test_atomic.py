"""store/atomic.py: folders that are whole or not there."""

import errno
import math
import os
import threading
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.store import atomic


def test_a_new_folder_is_there_when_it_is_whole(tmp_path):
    with atomic.new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic.new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "out" / "file").exists()


def test_nothing_remains_of_a_failure(tmp_path):
    def fill():
        with atomic.new_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_file", [True, False])
def test_what_is_there_is_left_alone(tmp_path, is_file):
    there = tmp_path / "out" if is_file else tmp_path / "out" / "mine"
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    with (
        pytest.raises(AttarError, match="is not an empty folder; choose another --out"),
        atomic.new_folder(tmp_path / "out"),
    ):
        pytest.fail("it was to be refused")
    assert there.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def fill(path: Path, fault: Exception) -> None:
    with atomic.new_folder(path) as temporary:
        (temporary / "one").write_text("1")
        raise fault


def test_a_full_disk_is_a_sentence(tmp_path: Path):
    with pytest.raises(AttarError, match="disk is full while writing .*out"):
        fill(tmp_path / "out", OSError(errno.ENOSPC, "full"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, [0.5, math.inf], {"a": {"b": -math.inf}}])
def test_what_json_has_no_word_for_is_not_written(tmp_path, value):
    atomic.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path):
    begun, order = threading.Event(), list[str]()

    def second() -> None:
        begun.set()
        with atomic.one_at_a_time(tmp_path / "data"):
            order.append("second")

    with atomic.one_at_a_time(tmp_path / "data"):
        thread = threading.Thread(target=second)
        thread.start()
        begun.wait()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_sweep_of_one_kind_of_files(tmp_path: Path):
    old, new, other = (tmp_path / f".{name}.tmp" for name in ("a.npy.1", "b.npy.2", "c.json.3"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    atomic.sweep(tmp_path, "*.npy")
    assert sorted(tmp_path.iterdir()) == [new, other]
