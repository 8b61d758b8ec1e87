"""core/session.py: a process follows a run that another process directs, and runs the jobs that it is asked for."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attar import pipeline
from attar.core import ranks, work
from attar.core.log import Log
from attar.core.session import Session
from attar.core.work import Job
from attar.report.run_log import RunLog
from conftest import interrupt, mini_recipe


@pytest.fixture(autouse=True)
def follower(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ranks, "_follower", 3)
    yield
    assert isinstance(work.launcher(), work.Processes)


class Program:
    """Two calls of ``work.do``, as in two stages, and the jobs that were run."""

    def __init__(self, folder: Path) -> None:
        self.ran, self.log = list[str](), Log(folder / "log.jsonl")

    def walk(self) -> None:
        for stage in ("first", "second"):
            work.do([self._job(stage, name) for name in "abc"], self.log, stage)

    def _job(self, stage: str, name: str) -> Job:
        def run(advance: work.Advance) -> None:
            self.ran.append(f"{stage} {name}")
            advance()
            if name == "c":
                raise ValueError("c fails")

        return Job(name, run, lambda: f"{stage} {name}" in self.ran)


def test_a_session_runs_the_jobs_that_it_is_asked_for_and_walks_on(tmp_path: Path):
    program, moved = Program(tmp_path), list[float]()
    session = Session(program.walk)
    place = {stage: (stage, str(tmp_path)) for stage in ("first", "second")}
    for stage, name in (("first", "b"), ("first", "b"), ("first", "a"), ("second", "a")):
        assert session.run(place[stage], name, lambda steps=1: moved.append(steps))
    assert program.ran == ["first b", "first a", "second a"], "what is done is not done again"
    assert moved == [1, 1, 1, 1]
    assert not session.run(place["first"], "c", lambda: None), "the walk is past it"
    assert not session.run(place["second"], "b", lambda: None), "the session has ended"
    assert {path.name for path in tmp_path.iterdir()} == {"log.rank3.jsonl"}


def test_an_error_of_a_job_reaches_whoever_asked_for_it_and_ends_the_session(tmp_path: Path):
    session = Session(Program(tmp_path).walk)
    with pytest.raises(ValueError, match="c fails"):
        session.run(("second", str(tmp_path)), "c", lambda: None)
    assert not session.run(("second", str(tmp_path)), "a", lambda: None)


def test_a_session_without_work_ends_and_frees_its_memory(tmp_path: Path):
    ended = list[bool]()

    def walk() -> None:
        try:
            Program(tmp_path).walk()
        finally:
            ended.append(True)

    session = Session(walk, idle=600.0)

    def advance() -> None:
        session._idle = 0.05  # from now on: the first request may come late

    assert session.run(("first", str(tmp_path)), "a", advance)
    until = time.monotonic() + 60
    while not ended:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not session.run(("first", str(tmp_path)), "b", lambda: None)


def test_a_follower_makes_the_same_unit_and_no_shared_file(mini_run: Path, tmp_path: Path):
    """The directing process has begun recover; one of its units is asked for."""
    out = tmp_path / "run"
    for stage in ("squeeze", "recover"):
        shutil.copytree(mini_run / stage, out / stage)
    interrupt(out / "recover")
    unit, *_ = sorted((out / "recover" / "units").glob("*.safetensors"))
    expected = unit.read_bytes()
    unit.unlink()
    for log in out.rglob("*.jsonl"):
        log.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    session = Session(lambda: pipeline.run(mini_recipe(), out))
    assert session.run(("recover", str(out / "recover")), unit.stem, lambda steps=1, note="", values=None: None)
    session.close()
    assert unit.read_bytes() == expected
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    new = {path.relative_to(out).as_posix() for path in after.keys() - before.keys()}
    assert new - {"recover/previews/iteration-000012.png"} == {
        unit.relative_to(out).as_posix(), "log.rank3.jsonl", "recover/log.rank3.jsonl",
    }  # fmt: skip
    assert all(after[path] == when for path, when in before.items() if path.suffix != ".png")
    log = RunLog(out)
    log.read()
    assert [entry["name"] for entry in log.state.units] == [unit.stem]


def test_a_teacher_whose_process_was_lost_after_its_last_step_is_asked_for_again(squeezed: Path):
    moved = list[float]()
    session = Session(lambda: pipeline.run(mini_recipe(), squeezed, stage="squeeze"))
    assert session.run(("squeeze", str(squeezed)), "squeeze", moved.append)
    session.close()
    assert moved == [4], "its epochs"
