from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attar.data import content, folder


def files(root: Path, count: int, size: int, seed: int = 0) -> tuple[Callable[[int], Path], np.ndarray]:
    root.mkdir(exist_ok=True)
    for index in range(count):
        (root / str(index)).write_bytes(np.random.default_rng([seed, index]).bytes(size))
    return (lambda index: root / str(index)), np.full(count, size)


@pytest.mark.parametrize("whole_bytes", [10**9, 0])
def test_other_contents_of_the_same_size_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(content, "NUM_PIECES", 7)
    monkeypatch.setattr(content, "PIECE_BYTES", 64)
    one, two, other = (files(tmp_path / name, 20, 300, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert content.of_many(*one) == content.of_many(*two) != content.of_many(*other)
    few = [[path(index) for index in range(20)] for path, _ in (one, two, other)]
    assert content.of_few(few[0]) == content.of_few(few[1]) != content.of_few(few[2])


def test_one_changed_byte_is_noticed_where_all_is_read(tmp_path: Path) -> None:
    path, sizes = files(tmp_path / "a", 3, 100)
    before = content.of_many(path, sizes), content.of_few([path(0), path(1)])
    data = bytearray(path(1).read_bytes())
    data[99] ^= 1
    path(1).write_bytes(bytes(data))
    assert content.of_many(path, sizes) != before[0]
    assert content.of_few([path(0), path(1)]) != before[1]


def test_of_much_only_pieces_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(content, "NUM_PIECES", 4)
    assert content.sampled(np.full(10, 100)) == (list(range(10)), True)
    assert content.sampled(np.full(10, 101)) == ([0, 3, 6, 9], False)


def test_a_hash_made_while_a_file_was_unreadable_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, sizes = files(tmp_path / "a", 3, 100)
    path(1).rename(tmp_path / "lost")
    during = content.remembered(["listing"], lambda: content.of_many(path, sizes))
    (tmp_path / "lost").rename(path(1))
    after = content.remembered(["listing"], lambda: content.of_many(path, sizes))
    assert during != after == content.of_many(path, sizes).sha256
    kept = content.Content(bytes(32), is_whole=True)
    assert content.remembered(["listing"], lambda: kept) == after
    monkeypatch.setattr(content, "NUM_PIECES", 7)  # another way to hash
    assert content.remembered(["listing"], lambda: kept) == bytes(32)
    assert not content.of_items(lambda *_: b"short", np.array([6])).is_whole


def test_a_missing_file_is_left_to_who_decodes_it(tmp_path: Path) -> None:
    lost = folder.Files([tmp_path], [[("no.png", 3)]], np.array([0]))
    assert lost.identity() != lost.former_identity()
