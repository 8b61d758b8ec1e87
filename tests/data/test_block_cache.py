import contextlib
import errno
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from attar.core.errors import AttarError
from attar.data import block_cache
from attar.data.block_cache import BlockCache, DamagedBlock, Grow


class Store:
    """Blocks of 100 bytes; counts how often each is fetched."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def use(self, cache: BlockCache, name: str) -> bytes:
        def make(path: Path, _grow: Grow) -> None:
            self.fetched.append(name)
            path.write_bytes(name.encode().ljust(100))

        return cache.use(name, 100, make, Path.read_bytes).strip()


def held(folder: Path, but: str = "") -> int:
    """Bytes in the folder; of files with this ending none count."""
    total = 0
    for path in folder.iterdir():
        if not path.name.startswith("lock-") and (not but or path.suffix != but):
            with contextlib.suppress(FileNotFoundError):  # other threads remove files meanwhile
                total += path.stat().st_size
    return total


def test_a_block_is_fetched_once_while_it_is_held(tmp_path: Path) -> None:
    store, cache = Store(), BlockCache(tmp_path / "blocks", 300)
    assert cache.read_if_there("a", Path.read_bytes) is None
    assert [store.use(cache, name) for name in "aabbaa"] == [b"a", b"a", b"b", b"b", b"a", b"a"]
    assert store.fetched == ["a", "b"]
    assert cache.read_if_there("b", Path.read_bytes) == b"b".ljust(100)


def test_the_limit_is_kept_and_the_oldest_is_removed(tmp_path: Path) -> None:
    store, cache = Store(), BlockCache(tmp_path, 300)
    for name in "abcadae":
        assert store.use(cache, name) == name.encode()
        assert held(tmp_path) <= 300
    assert store.fetched == ["a", "b", "c", "d", "e"]  # a was used again and again
    store.use(cache, "a")
    assert store.fetched[-1] == "e"
    store.use(cache, "b")
    assert store.fetched[-1] == "b"


def test_uses_within_one_step_of_the_systems_clock_have_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = itertools.count(10**18)
    monkeypatch.setattr(block_cache, "time", SimpleNamespace(time_ns=lambda: next(moments)))
    store, cache = Store(), BlockCache(tmp_path, 300)
    for name in "abca":
        store.use(cache, name)
    used = [path.stat().st_mtime_ns - 10**18 for path in map(cache._path, "bca")]
    assert 0 < used[0] < used[1] < used[2] < 10
    store.use(cache, "d")
    assert not cache._path("b").exists()


def test_a_block_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match=r"^a has 100 bytes, more than the cache may hold; raise --data"):
        Store().use(BlockCache(tmp_path, 99), "a")


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path, _grow: Grow) -> None:
        path.write_bytes(b"half")
        raise AttarError("The store cannot be reached.")

    cache = BlockCache(tmp_path, 300)
    with pytest.raises(AttarError, match="cannot be reached"):
        cache.use("a", 100, fail, Path.read_bytes)
    assert held(tmp_path) == 0
    assert Store().use(cache, "a") == b"a"


def test_threads_share_the_blocks(tmp_path: Path) -> None:
    store, cache, wrong = Store(), BlockCache(tmp_path, 500), []

    def read(first: int) -> None:
        for place in range(60):
            name = str((first + place) % 8)
            if store.use(cache, name) != name.encode():
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(first,)) for first in (0, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert held(tmp_path) <= 500


def test_blocks_that_are_made_at_once_keep_the_limit(tmp_path: Path) -> None:
    cache, most = BlockCache(tmp_path, 250), []

    def make(path: Path, _grow: Grow) -> None:
        time.sleep(0.01)
        path.write_bytes(bytes(100))
        most.append(held(tmp_path))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda name: cache.use(name, 100, make, Path.read_bytes), "abcdef"))
    assert found == [bytes(100)] * 6
    assert max(most) <= 2 * 250  # a reservation and its block
    assert held(tmp_path) == 200


def test_a_block_that_is_finished_while_room_is_looked_for_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, listed, most = BlockCache(tmp_path, 300), threading.Event(), list[int]()
    listing, here = Path.iterdir, threading.current_thread()

    def first(path: Path, _grow: Grow) -> None:
        path.write_bytes(bytes(200))
        written.set()
        listed.wait(60)

    def second(path: Path, _grow: Grow) -> None:
        path.write_bytes(bytes(200))
        most.append(held(tmp_path, but=".reserved"))

    def then_finish(self: Path) -> Iterator[Path]:
        found = list(listing(self))
        if threading.current_thread() is here:
            listed.set()
            other.join(0.3)  # it may finish now
        return iter(found)

    written = threading.Event()
    other = threading.Thread(target=cache.use, args=("a", 200, first, Path.read_bytes))
    other.start()
    written.wait(60)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", then_finish)
        cache.use("b", 200, second, Path.read_bytes)
    other.join()
    assert most == [200]


def test_finished_blocks_are_removed_first(tmp_path: Path) -> None:
    store, cache = Store(), BlockCache(tmp_path, 300)
    for name in "abc":
        store.use(cache, name)
    cache.finish("c")
    cache.finish("nothing")
    for name in "dab":
        store.use(cache, name)
    assert store.fetched == list("abcd")


def test_a_block_that_turns_out_larger_keeps_the_limit(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 300)

    def grown(size: int) -> int:
        def make(path: Path, grow: Grow) -> None:
            grow(size)
            path.write_bytes(bytes(size))
            held_then.append(held(tmp_path, but=".reserved"))

        return len(cache.use(str(size), 10, make, Path.read_bytes))

    held_then: list[int] = []
    Store().use(cache, "a")
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(grown, (250, 251, 252, 5))) == [250, 251, 252, 5]
    assert max(held_then) <= 300
    with pytest.raises(AttarError, match="301 bytes, more than the cache may hold"):
        grown(301)


def test_a_damaged_block_is_fetched_again(tmp_path: Path) -> None:
    def read(path: Path) -> bytes:
        if len(found := path.read_bytes()) != 100:
            raise DamagedBlock
        return found

    cache, made = BlockCache(tmp_path, 300), []

    def make(path: Path, _grow: Grow) -> None:
        made.append(path)
        path.write_bytes(bytes(size))

    size = 100
    cache.use("a", 100, make, read)
    block = next(path for path in tmp_path.iterdir() if path.stat().st_size)
    block.write_bytes(b"half")
    assert cache.read_if_there("a", read) is None
    assert (cache.use("a", 100, make, read), len(made)) == (bytes(100), 2)
    block.write_bytes(b"half")
    size = 50
    with pytest.raises(AttarError, match="a was written to .* and cannot be read; check the disk"):
        cache.use("a", 100, make, read)


def test_errors_of_the_disk_are_those_of_the_cache(tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").touch()
    with pytest.raises(
        AttarError, match=r"^The cache folder .*file/x cannot be used \(Not a directory\); set ATTAR_CACHE"
    ):
        Store().use(BlockCache(tmp_path / "file" / "x", 300), "a")
    with pytest.raises(
        AttarError, match=r"^The disk is full while writing .*; free some space, or set ATTAR_CACHE to a"
    ):
        BlockCache(tmp_path, 300).use("a", 100, full, Path.read_bytes)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ("0" * 40 + ".reserved")).write_bytes(bytes(300))
    for number in range(3):
        (tmp_path / f".{'0' * 40}.{number}.tmp").write_bytes(bytes(300))
    assert Store().use(BlockCache(tmp_path, 300), "a") == b"a"
    assert held(tmp_path) == 100
