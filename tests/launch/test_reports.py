"""What jobs on a cluster report, and how it is shown by the process that the user started; no Ray is needed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from attar.core.log import Log
from attar.core.work import Job
from attar.launch.inbox import Inbox, Message
from attar.launch.tasks import Shown


class Bar:
    """A progress bar."""

    def __init__(self) -> None:
        self.done, self.earlier, self.notes, self.begun = 0.0, 0.0, list[str](), 0

    def advance(self, steps: float = 1, note: str = "", values: Any = None, earlier: bool = False) -> None:
        self.done += steps
        self.earlier += steps * earlier
        self.notes += [note] * bool(note)

    def begin(self) -> None:
        self.begun += 1


def test_progress_follows_the_jobs_and_begins_again_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bar = Bar()
    shown = Shown(Log(tmp_path / "log.jsonl"), bar.advance, bar.begin)
    for message in (
        Message("a", "1", "began", "10.0.0.1"),
        Message("b", "2", "began", "10.0.0.2"),
        Message("a", "1", "moved", "loss 3", 4.0),
        Message("b", "2", "moved", "loss 2", 5.0),
    ):
        shown.add(message)
    assert (bar.done, bar.notes) == (9.0, ["loss 3", "loss 2"])
    assert not capsys.readouterr().err
    shown.add(Message("a", "3", "began", "10.0.0.2"))
    assert bar.done == 5.0, "what the lost process had done is done again"
    assert "warning: a begins again on 10.0.0.2, because its process on 10.0.0.1 was lost" in capsys.readouterr().err
    shown.add(Message("a", "1", "moved", "loss 1", 9.0))
    assert bar.done == 5.0, "a process that was given up counts no more"
    shown.finish(Job("a", lambda advance: None, steps=10))
    assert bar.done == 15.0


def test_what_several_workers_say_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bar = Bar()
    shown = Shown(Log(tmp_path / "log.jsonl"), bar.advance, bar.begin)
    for job in "ab":
        for kind, text in (("began", "10.0.0.1"), ("say", "recover   fp32"), ("warn", "a weak teacher")):
            shown.add(Message(job, job, kind, text))
    assert capsys.readouterr().err == "recover   fp32\nwarning: a weak teacher\n"
    assert bar.begun


def test_steps_that_an_earlier_process_did_do_not_count_for_the_time_left(tmp_path: Path):
    bar = Bar()
    shown = Shown(Log(tmp_path / "log.jsonl"), bar.advance, bar.begin)
    shown.add(Message("a", "1", "began", "10.0.0.1"))
    shown.add(Message("a", "1", "moved", "", 7.0, earlier=6.0))
    shown.add(Message("a", "1", "moved", "", 8.0, earlier=6.0))
    assert (bar.done, bar.earlier) == (8.0, 6.0)
    shown.add(Message("a", "2", "began", "10.0.0.1"))
    assert (bar.done, bar.earlier) == (0.0, 0.0)
    shown.add(Message("a", "2", "moved", "", 7.5, earlier=7.0))
    shown.finish(Job("a", lambda advance: None, steps=10))
    assert (bar.done, bar.earlier) == (10.0, 7.0)


def test_the_inbox_keeps_reports_until_they_are_taken_and_numbers_the_workers():
    async def use() -> None:
        inbox, (first, second, third) = Inbox(), (Message(job, "1", "began") for job in "abc")
        assert [await inbox.number(worker) for worker in ("x", "y", "x")] == [1, 2, 1]
        assert await inbox.take(0) == await inbox.take(0.01) == []
        waiting = asyncio.ensure_future(inbox.take(60))
        await asyncio.sleep(0)
        await inbox.put(first)
        assert await waiting == [first]
        await inbox.put(second)
        await inbox.put(third)
        assert await inbox.take(0) == [second, third]

    asyncio.run(use())
