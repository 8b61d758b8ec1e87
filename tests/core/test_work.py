"""core/work.py: jobs are filtered, shared out, run and logged."""

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from attar.core import ranks, work
from attar.core.log import Advance, Log
from attar.core.work import Job


class Files:
    """Jobs that leave a file each, and the names of those that were run."""

    def __init__(self, folder: Path, steps: Sequence[float]) -> None:
        self.folder, self.ran = folder, list[str]()
        self.jobs = [self._job(f"job{place}", steps) for place, steps in enumerate(steps)]

    def _job(self, name: str, steps: float) -> Job:
        def run(advance: Advance) -> dict[str, Any]:
            self.ran.append(name)
            advance(steps)
            (self.folder / name).touch()
            return {"answer": len(name)}

        return Job(name, run, (self.folder / name).exists, steps)

    def do(self, **more: Any) -> None:
        work.do(self.jobs, Log(self.folder / "log.jsonl", quiet=True), "files", **more)

    def events(self) -> list[dict[str, Any]]:
        return list(map(json.loads, (self.folder / "log.jsonl").read_text().splitlines()))


def test_only_what_is_not_done_is_run_and_each_job_logs_one_event(tmp_path: Path):
    files = Files(tmp_path, [1, 2, 3])
    (tmp_path / "job1").touch()
    files.do(event="made")
    assert files.ran == ["job0", "job2"]
    begun, *events = [event for event in files.events() if event["event"] != "progress"]
    expected = {"event": "jobs", "what": "files", "results": "jobs", "done": 1, "total": 3, "by": "made"}
    assert {key: value for key, value in begun.items() if key != "time"} == expected
    for name, event in zip(files.ran, events, strict=True):
        assert (event["event"], event["name"], event["answer"], event["results"]) == ("made", name, 4, 1)
        assert event["seconds"] >= 0
        assert event["processor_seconds"] >= 0
    num_events = len(files.events())
    files.do(event="made")
    assert len(files.ran) == 2, "what is done is not done again"
    assert len(files.events()) == num_events, "nothing is logged when nothing is left to do"


def test_the_bar_begins_after_what_is_done_and_ends_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import contextlib

    moved: list[float] = []

    @contextlib.contextmanager
    def progress(self: Log, what: str, total: int, done: int = 0, unit: str = ""):
        moved.extend([-total, done])
        yield lambda steps=1, note="": moved.append(steps)

    monkeypatch.setattr(Log, "progress", progress)
    files = Files(tmp_path, [1, 2, 3])
    (tmp_path / "job1").touch()
    files.do()
    assert moved == [-6, 2, 1, 3]


def test_a_message_says_how_much_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = Files(tmp_path, [1, 1, 1, 1])
    (tmp_path / "job2").touch()
    work.do(files.jobs, Log(), "files", results="files")
    assert "files     1 of 4 files are there already" in capsys.readouterr().err
    work.do(files.jobs, Log(), "files", results="files")
    assert "already" not in capsys.readouterr().err, "nothing is left to do"


def test_a_job_that_another_run_finishes_meanwhile_is_skipped(tmp_path: Path):
    files = Files(tmp_path, [1, 1])
    first = files.jobs[0]

    def run(advance: Advance) -> Any:
        (tmp_path / "job1").touch()
        return first.run(advance)

    files.jobs[0] = Job(first.name, run, first.done, first.steps)
    files.do()
    assert files.ran == ["job0"]


def test_an_error_of_a_job_ends_the_work(tmp_path: Path):
    files = Files(tmp_path, [1, 1])

    def fail(advance: Advance) -> None:
        raise ValueError("no")

    files.jobs[0] = Job("fails", fail)
    with pytest.raises(ValueError, match="no"):
        files.do()
    assert files.ran == []


def test_open_jobs_are_spread_evenly_whichever_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three seeds are known and two are added, for four processes: two of them train one each."""
    ran = []
    for rank in range(4):
        (tmp_path / str(rank)).mkdir()
        files = Files(tmp_path / str(rank), [1] * 8)
        for done in (0, 1, 3, 4, 5, 7):
            (files.folder / f"job{done}").touch()
        with monkeypatch.context() as patch:
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            patch.setattr(ranks, "world_size", lambda: 4)
            patch.setattr(ranks, "any_of", lambda flags, files=files: [job.done() for job in files.jobs])
            files.do()
        ran.append(files.ran)
    assert ran == [["job2"], ["job6"], [], []]


def test_shares_are_close_when_jobs_are_unequal():
    assert work.shares([1, 1, 1, 1, 1], 2) == [[0, 2, 4], [1, 3]]
    assert work.shares([1, 9, 1, 1, 3, 3], 2) == [[1], [0, 2, 3, 4, 5]]
    assert work.shares([], 3) == [[], [], []]
    costs = [7, 6, 5, 4, 3, 2, 1]
    dealt = work.shares(costs, 3)
    assert sorted(place for share in dealt for place in share) == list(range(7))
    sums = [sum(costs[place] for place in share) for share in dealt]
    assert max(sums) - min(sums) <= 2


def test_a_launcher_of_ones_own_gets_the_open_jobs(tmp_path: Path):
    asked: list[list[str]] = []

    class OneByOne:
        together: bool | None = None

        def team_size(self) -> int:
            return 1

        def do(self, call: work.Call) -> None:
            waiting = call.begin()
            asked.append([job.name for job in waiting])
            for job in waiting:
                call.run([job], waiting)

    files = Files(tmp_path, [1, 1, 1])
    (tmp_path / "job0").touch()
    with work.launched_by(OneByOne()):
        files.do()
    assert asked == [["job1", "job2"]]
    assert files.ran == ["job1", "job2"]


def test_what_was_said_once_is_not_said_again():
    said: list[str] = []
    say = work.once(said.append)
    for text in ("a", "b", "a"):
        say(text)
    assert said == ["a", "b"]


def share(place: int, meeting: Path, folder: Path, answers: Any) -> None:
    """A process of two."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=place, world_size=2)
    files = Files(folder, [1, 1, 1, 1, 1])
    files.do()
    answers.put((place, files.ran, all(job.done() for job in files.jobs)))
    torch.distributed.destroy_process_group()


def test_processes_share_the_same_open_jobs_and_wait_for_each_other(tmp_path: Path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job0").touch()
    context = multiprocessing.get_context("fork")  # PyTorch is imported already
    answers = context.Queue()
    arguments = (tmp_path / "meeting", tmp_path / "jobs", answers)
    processes = [context.Process(target=share, args=(place, *arguments)) for place in (0, 1)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, ["job1", "job3"], True), (1, ["job2", "job4"], True)]
