import errno
import os
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.store import atomic
from attar.store.cache import cache_folder, usable


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/attar")
    monkeypatch.setenv("ATTAR_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(AttarError, match="no home folder; set ATTAR_CACHE"):
        cache_folder()


def test_a_folder_that_cannot_be_used_is_one_sentence_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "inner", Path("/proc/attar")):
        with (
            pytest.raises(
                AttarError, match=r"^The cache folder .* cannot be used \(.*\); set ATTAR_CACHE to a folder of"
            ),
            usable(folder),
            atomic.locked(folder / "lock"),
        ):
            pass
        with pytest.raises(AttarError, match="^The cache folder"), usable(folder):
            atomic.write_text(folder / "x", "x")
    with (
        pytest.raises(AttarError, match=r"^The disk is full while writing .*; free some space, or set"),
        usable(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_keep_a_lock(tmp_path: Path) -> None:
    ends_of_pipe = os.pipe()
    with atomic.locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:  # as a worker that is started while another thread holds the lock
            os.read(ends_of_pipe[0], 1)
            os._exit(0)
        assert atomic.is_locked(tmp_path / "lock")
    try:
        assert not atomic.is_locked(tmp_path / "lock")
    finally:
        os.write(ends_of_pipe[1], b"x")
        os.waitpid(child, 0)


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    with atomic.locked(tmp_path / "lock"):
        assert atomic.is_locked(tmp_path / "lock")
    assert not atomic.is_locked(tmp_path / "lock")
