"""stages/mirror.py: a copy of a run in an object store holds whole stages only, and comes back byte for byte."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from attar import cli, pipeline
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.stages import mirror, squeeze
from attar.stages.mirror import INDEX, LOOSE, Mirror, stages_of
from attar.store import objects
from attar.store.objects import Folder
from conftest import mini_recipe

STAGES = {"squeeze", "recover", "distilled", "evaluate", "baselines/random/distilled", "baselines/herding/recover"}


@pytest.fixture
def address() -> Iterator[str]:
    """A folder in fsspec's store in memory."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://bucket/runs/mine"
    store.store.clear()


@pytest.fixture
def log() -> Log:
    return Log(quiet=True)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of finished stages."""
    return {name: (folder / name).read_bytes() for files in stages_of(folder).values() for name in files}


def test_a_run_comes_back_whole(mini_run: Path, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]):
    assert set(stages_of(mini_run)) > STAGES
    assert run("push", str(mini_run), address) == 0
    assert run("pull", address, "--out", str(tmp_path / "back")) == 0
    said = capsys.readouterr()
    assert f"push      the finished stages of {mini_run} to {address}" in said.err.replace("\n", "")
    assert f'Open it with attar.load("{tmp_path / "back"}")' in said.out
    assert content(tmp_path / "back") == content(mini_run)
    assert (tmp_path / "back" / "recipe.yaml").read_text() == (mini_run / "recipe.yaml").read_text()
    assert f"{address}: " in said.out
    capsys.readouterr()
    assert run("push", str(mini_run), address) == 0
    assert "all of it is there already" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "back").rglob("*.safetensors")}
    pipeline.run(mini_recipe(), tmp_path / "back", quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "back").rglob("*.safetensors")} == stamps


def run(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_nothing_is_sent_or_fetched_twice(mini_run: Path, tmp_path: Path, address: str, log: Log, monkeypatch):
    first = Mirror(mini_run, address, log).push()
    assert first > sum(map(len, content(mini_run).values()))
    assert Mirror(mini_run, address, log).push() == 0
    assert Mirror(tmp_path / "back", address, log).pull() == first
    assert Mirror(tmp_path / "back", address, log).pull() == 0


def broken(after: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the store's client fail after this many files."""
    store = fsspec.filesystem("memory")
    real, count = getattr(type(store), name), 0

    def fails(self, *values, **named):
        nonlocal count
        count += 1
        if count > after:
            raise ConnectionError("the line is cut")
        return real(self, *values, **named)

    monkeypatch.setattr(type(store), name, fails)


@pytest.mark.parametrize("after", [0, 3, 9])
def test_an_interrupted_push_shows_whole_stages_only_and_goes_on(
    after: int, mini_run: Path, tmp_path: Path, address: str, log: Log, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(objects, "NUM_THREADS", 1)
    monkeypatch.setattr(mirror, "NOTED_BYTES", 1)
    with monkeypatch.context() as cut:
        broken(after, cut, "put_file")
        with pytest.raises(AttarError, match=r"cannot be reached \(the line is cut\).*repeat the command"):
            Mirror(mini_run, address, log).push()
    Mirror(tmp_path / "part", address, log).pull()
    whole, sent = content(mini_run), {name: entry.bytes for name, entry in Folder(address).files().items()}
    for stage, files in stages_of(tmp_path / "part").items():
        assert files == stages_of(mini_run)[stage]
    rest = Mirror(mini_run, address, log).push()
    total = sum(entry.bytes for name, entry in Folder(address).files().items() if name != INDEX)
    assert rest == total - sum(size for name, size in sent.items() if name != INDEX)
    Mirror(tmp_path / "all", address, log).pull()
    assert content(tmp_path / "all") == whole


@pytest.mark.parametrize("after", [0, 3, 9])
def test_an_interrupted_pull_leaves_whole_stages_only_and_goes_on(
    after: int, mini_run: Path, tmp_path: Path, address: str, log: Log, monkeypatch: pytest.MonkeyPatch
):
    Mirror(mini_run, address, log).push()
    with monkeypatch.context() as cut:
        broken(after, cut, "get_file")
        with pytest.raises(AttarError, match="the line is cut"):
            Mirror(tmp_path / "back", address, log).pull()
    for stage, files in stages_of(tmp_path / "back").items():
        assert files == stages_of(mini_run)[stage]
    Mirror(tmp_path / "back", address, log).pull()
    assert content(tmp_path / "back") == content(mini_run)


def test_a_changed_stage_replaces_the_one_in_the_copy(mini_run: Path, tmp_path: Path, address: str, log: Log):
    out = tmp_path / "run"
    shutil.copytree(mini_run, out)
    Mirror(out, address, log).push()
    gone = next((out / "evaluate" / "scores").iterdir())
    gone.unlink()
    Mirror(out, address, log).push()
    Mirror(tmp_path / "back", address, log).pull()
    assert content(tmp_path / "back") == content(out)
    assert f"evaluate/scores/{gone.name}" not in Folder(address).files()


def test_what_is_wrong_is_said(mini_run: Path, tmp_path: Path, address: str, log: Log):
    with pytest.raises(AttarError, match="has no finished stage"):
        Mirror(tmp_path, address, log).push()
    assert Mirror(tmp_path / "back", address, log).pull() == 0  # nothing there yet
    Folder(address).write("other.txt", b"mine")
    with pytest.raises(AttarError, match="files that attar did not write"):
        Mirror(mini_run, address, log).push()
    for malformed in ("s3://", "s3:///", "memory://a/../b"):
        with pytest.raises(AttarError, match="names no folder"):
            Mirror(mini_run, malformed, log)
    with pytest.raises(AttarError, match="There is no client for carrier"):
        Mirror(mini_run, "carrier://pigeon/coop", log).push()


def test_a_stage_that_differs_is_not_overwritten(mini_run: Path, tmp_path: Path, address: str, log: Log):
    Mirror(mini_run, address, log).push()
    out = tmp_path / "run"
    shutil.copytree(mini_run / "squeeze", out / "squeeze")
    manifest = out / "squeeze" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(AttarError, match="differs from that stage"):
        Mirror(out, address, log).pull()
    assert not (out / "recover").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: b"[",
        lambda index: b"[]",
        lambda index: json.dumps(index | {"parts": {"../squeeze": index["parts"]["squeeze"]}}).encode(),
        lambda index: json.dumps(index | {"parts": {LOOSE: {"../../x": {"bytes": 1, "sha256": ""}}}}).encode(),
        lambda index: json.dumps(index | {"parts": {LOOSE: {"/x": {"bytes": 1, "sha256": ""}}}}).encode(),
        lambda index: json.dumps(index | {"parts": {LOOSE: {"x": {"bytes": -1, "sha256": ""}}}}).encode(),
        lambda index: json.dumps(index | {"parts": {LOOSE: {"x": {"bytes": 10**18, "sha256": ""}}}}).encode(),
        lambda index: json.dumps(index | {"parts": {"squeeze": {}}}).encode(),
    ],
)
def test_a_hostile_index_writes_nothing(spoil: Callable, mini_run: Path, tmp_path: Path, address: str, log: Log):
    Mirror(mini_run, address, log).push()
    store = Folder(address)
    store.write(INDEX, spoil(json.loads(store.read(INDEX) or b"")))
    out = tmp_path / "inner" / "back"
    with pytest.raises(AttarError):
        Mirror(out, address, log).pull()
    assert list(tmp_path.rglob("*")) == []


def test_a_changed_file_is_refused(mini_run: Path, tmp_path: Path, address: str, log: Log):
    Mirror(mini_run, address, log).push()
    store = Folder(address)
    name = "squeeze/teacher.safetensors"
    whole = store.read(name) or b""
    for spoilt in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        store.write(name, spoilt)
        with pytest.raises(AttarError, match=r"teacher.safetensors (has|is damaged)"):
            Mirror(tmp_path / "back", address, log).pull()
        assert not (tmp_path / "back" / name).exists()


def test_a_run_follows_its_mirror(mini_run: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch):
    recipe = mini_recipe()
    recipe = recipe.changed(execution=recipe.execution.changed(mirror=address))
    pipeline.run(recipe, tmp_path / "first", stage="squeeze", quiet=True)
    assert set(stages_of(tmp_path / "first")) == {"squeeze"}
    monkeypatch.setattr(squeeze, "fit", None)  # the teacher is not trained again
    pipeline.run(recipe, tmp_path / "second", stage="recover", quiet=True)
    assert set(stages_of(tmp_path / "second")) == {"squeeze", "recover"}
    assert content(tmp_path / "second").keys() <= Folder(address).files().keys()
    name = "recover/data/train-00000-of-00001.parquet"
    assert (tmp_path / "second" / name).read_bytes() == (mini_run / name).read_bytes()


def test_a_mirror_that_fails_stops_only_the_last_stage(
    mini_run: Path,
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    shutil.copytree(mini_run, tmp_path / "run")
    recipe = mini_recipe()
    recipe = recipe.changed(execution=recipe.execution.changed(mirror=address))
    broken(0, monkeypatch, "put_file")
    with pytest.raises(AttarError, match="the line is cut"):
        pipeline.run(recipe, tmp_path / "run")
    assert "the run goes on, and sends it after the next stage" in capsys.readouterr().err
