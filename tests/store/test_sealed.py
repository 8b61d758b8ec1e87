"""store/sealed.py: what was damaged is named, what nobody listed is not opened, what is whole is read."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from attar.core.errors import AttarError
from attar.store import atomic, sealed

VALUE = {"name": "a", "list": [1, 2.5, None], "inner": {"é": "\x00"}}


def test_what_was_sealed_comes_back_without_its_seal(tmp_path: Path):
    sealed.write_json(tmp_path / "a.json", VALUE)
    assert sealed.read_json(tmp_path / "a.json", "fix") == VALUE
    assert json.loads((tmp_path / "a.json").read_text()).keys() == {*VALUE, "sha256"}


def test_json_from_before_there_were_seals_is_read(tmp_path: Path):
    atomic.write_json(tmp_path / "a.json", VALUE | {"images_sha256": "ab" * 32})
    assert sealed.read_json(tmp_path / "a.json", "fix")["name"] == "a"
    with pytest.raises(FileNotFoundError):
        sealed.read_json(tmp_path / "b.json", "fix")


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path):
    """Every bit of the file: either the sentence, or the very same values (as by the case of a hexadecimal digit)."""
    path = tmp_path / "a.json"
    sealed.write_json(path, VALUE)
    data, said = path.read_bytes(), set[str]()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert sealed.read_json(path, "fix") == VALUE
        except AttarError as error:
            said.add(str(error))
    assert len(said) > 10
    assert all(text.startswith(f"{path} is damaged") and text.endswith("; fix.") for text in said)


def files(folder: Path) -> dict[str, sealed.SealedFile]:
    (folder / "data").mkdir()
    for name in ("data/a", "data/b", "c"):
        (folder / name).write_bytes(name.encode() * 10)
    return sealed.entries(folder, [folder / "data" / "a", folder / "data" / "b", folder / "c"])


def test_files_are_listed_by_their_path_below_the_folder(tmp_path: Path):
    known = files(tmp_path)
    assert list(known) == ["c", "data/a", "data/b"]
    assert sealed.below(known, "data").keys() == {"a", "b"}
    assert known["c"] == sealed.SealedFile(bytes=10, sha256=atomic.sha256_of(tmp_path / "c"))
    assert sealed.read_entries({name: entry.plain() for name, entry in known.items()}, tmp_path) == known
    sealed.check_all(tmp_path, known)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if how == "bytes" else data[:-1] + b"x")


@pytest.mark.parametrize(("how", "words"), [("missing", "is missing"), ("bytes", "has"), ("SHA-256", "SHA-256")])
def test_what_is_missing_or_damaged_is_named_with_the_mend(tmp_path: Path, how: str, words: str):
    known = files(tmp_path)
    damage(tmp_path / "data" / "b", how)
    sealed.check(tmp_path, "data/a", known)
    with pytest.raises(AttarError, match=rf"{tmp_path}/data/b .*{words}.*run the same command again"):
        sealed.check_all(tmp_path, known)
    assert [fault.partition(" ")[0] for fault in sealed.faults(tmp_path, known)] == [str(tmp_path / "data" / "b")]


def test_files_that_are_large_together_are_not_read_for_a_glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = files(tmp_path)
    damage(tmp_path / "c", "SHA-256")
    assert sealed.faults(tmp_path, known)
    monkeypatch.setattr(sealed, "READ_BYTES", 10)
    assert sealed.faults(tmp_path, known) == []
    damage(tmp_path / "c", "bytes")
    assert sealed.faults(tmp_path, known)


@pytest.mark.parametrize("name", ["../outside", "/dev/zero", "data/../../outside"])
def test_nothing_outside_the_folder_is_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").write_bytes(b"x")
    monkeypatch.setattr(sealed, "sha256_of", lambda path: pytest.fail(f"{path} was opened"))
    with pytest.raises(AttarError, match="is not one of the files that belong there"):
        sealed.check(tmp_path / "in", name, {name: sealed.SealedFile(bytes=1, sha256="ab")})


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, original = [], atomic.sha256_of
    monkeypatch.setattr(atomic, "sha256_of", lambda path: read.append(path) or original(path))
    path = tmp_path / "a"
    path.write_bytes(b"one")
    sealed.settle(path.stat())
    first = sealed.sha256_of(path)
    assert sealed.sha256_of(path) == first
    assert len(read) == 1
    path.write_bytes(b"three")
    assert sealed.sha256_of(path) != first
    assert 2 <= len(read) <= 3


def test_a_change_that_leaves_the_times_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As two changes within one step of the system's clock do."""
    stat, path = Path.stat, tmp_path / "a"

    def in_steps(self: Path, **how: bool) -> os.stat_result:
        found = list(stat(self, **how))
        found[7:10] = [now] * 3
        return os.stat_result(found)

    now = int(time.time())
    monkeypatch.setattr(Path, "stat", in_steps)
    monkeypatch.setattr(sealed, "time", SimpleNamespace(time=lambda: now + sealed.CLOCK_STEP_SECONDS / 2))
    path.write_bytes(b"one")
    first = sealed.sha256_of(path)
    path.write_bytes(b"two")
    assert sealed.sha256_of(path) != first


def test_a_file_that_was_just_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state, slept = tmp_path.stat(), list[float]()
    for age in (-1.0, 0.0, sealed.CLOCK_STEP_SECONDS / 2, 2 * sealed.CLOCK_STEP_SECONDS):
        clock = SimpleNamespace(time=lambda age=age: state.st_ctime + age, sleep=slept.append)
        monkeypatch.setattr(sealed, "time", clock)
        sealed.settle(state)
    step = sealed.CLOCK_STEP_SECONDS
    assert slept == pytest.approx([step, step / 2], abs=1e-6)
