import errno
import io
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from attar.core import log as logs
from attar.core.errors import AttarError
from attar.core.log import Log, ProgressState


class Hands:
    """A clock that stands still until it is moved."""

    time = staticmethod(time.time)

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        """Move the clock; a progress line that is due then is printed."""
        self.now += seconds
        logs._REPORTER.print_if_due()


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The clock of logs, moved by hand; the thread that prints progress lines is away."""
    clock = Hands()
    monkeypatch.setattr(logs, "time", clock)
    monkeypatch.setattr(logs.Reporter, "_watch", lambda self, ended: None)
    return clock


def said_until(capsys: pytest.CaptureFixture[str], enough: Callable[[str], bool]) -> str:
    """What is printed, waited for."""
    found, until = "", time.monotonic() + 60
    while not enough(found):
        assert time.monotonic() < until, found
        time.sleep(0.01)
        found += capsys.readouterr().err
    return found


def test_events_are_appended_as_json_lines(tmp_path):
    log = Log(tmp_path / "deep" / "log.jsonl", quiet=True)
    log.event("epoch", epoch=1, loss=0.5)
    Log(tmp_path / "deep" / "log.jsonl", quiet=True).event("epoch", epoch=2, loss=0.25)
    lines = [json.loads(line) for line in (tmp_path / "deep" / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["epoch"], line["loss"]) for line in lines] == [("epoch", 1, 0.5), ("epoch", 2, 0.25)]
    assert all(line["time"] > 1.6e9 for line in lines)


def test_what_is_no_number_is_null(tmp_path):
    Log(tmp_path / "log.jsonl", quiet=True).event("epoch", loss=math.nan, rate=-math.inf, epoch=3, name="nan")
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["rate"], line["epoch"], line["name"]) == (None, None, 3, "nan")


def test_it_speaks_on_standard_error_and_a_quiet_one_not_at_all(capsys):
    log = Log()
    log.say("[red]as it is[/red]")
    log.warn("mind")
    Log(quiet=True).say("nothing")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[red]as it is[/red]\nwarning: mind\n"


def test_a_warning_is_an_event(tmp_path):
    Log(tmp_path / "log.jsonl", quiet=True).warn("mind")
    assert json.loads((tmp_path / "log.jsonl").read_text())["text"] == "mind"


def test_a_warning_is_recorded_once_with_its_values_and_said_each_time(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    for _ in range(2):  # the second is of another start
        log = Log(path)
        for unit in (1, 1, 2):
            log.warn("mind", unit=unit)
    assert [json.loads(line)["unit"] for line in path.read_text().splitlines()] == [1, 2]
    assert capsys.readouterr().err.count("warning: mind") == 6


def test_quick_work_says_nothing_where_there_is_no_terminal(capsys):
    with Log().progress("recover", 3) as advance:
        advance()
        advance(2, note="loss 1")
    assert capsys.readouterr().err == ""


def test_without_a_terminal_lines_come_in_the_middle_of_a_step(monkeypatch, capsys):
    monkeypatch.setattr(logs, "OFTEN_SECONDS", 0.02)
    with Log().progress("squeeze", 20, done=10, unit="epochs") as advance:
        advance(2.5, note="loss 1.5")
        said_until(capsys, lambda said: said.count("squeeze   12.5/20 epochs, ") >= 3)  # one long step
    assert "attar-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_line_has_the_time_that_is_left_and_the_note(hands, capsys):
    with Log().progress("squeeze", 20, done=10, unit="epochs") as advance:
        advance(2.5, note="loss 1.5")
        hands.move(8.9)
        hands.move(0.1)
    assert capsys.readouterr().err == "squeeze   12.5/20 epochs, 0:09 so far, about 0:27 left, loss 1.5\n"


def test_lines_become_seldom_in_a_long_task(hands, capsys):
    with Log().progress("squeeze", 20):
        for _ in range(400):
            hands.move(1)
    ages = [line.partition(", ")[2].partition(" ")[0] for line in capsys.readouterr().err.splitlines()]
    often = [f"{seconds // 60}:{seconds % 60:02}" for seconds in range(9, 181, 9)]
    assert ages == [*often, "4:00", "5:00", "6:00"]


def test_what_is_said_puts_the_next_line_off(hands, capsys):
    log = Log()
    with log.progress("squeeze", 20):
        for number in range(4):
            hands.move(8)
            log.say(f"word {number}")
    assert capsys.readouterr().err.splitlines() == [f"word {number}" for number in range(4)]


def test_between_tasks_a_line_says_that_it_goes_on(hands, capsys):
    log = Log()
    with log.heartbeat("attar"):
        hands.move(9)
        with log.progress("squeeze", 20) as advance:
            hands.move(9)
            advance(20)
        hands.move(9)
    assert capsys.readouterr().err.splitlines() == [
        "attar     working, 0:09 so far",
        "squeeze   0/20, 0:09 so far, working on the first step",
        "after squeeze working, 0:09 so far",
    ]


def test_the_quiet_and_other_processes_print_no_lines(monkeypatch, capsys):
    monkeypatch.setattr(logs, "OFTEN_SECONDS", 0.02)
    monkeypatch.setattr(logs.ranks, "rank", lambda: 1)
    for log in (Log(quiet=True), Log()):
        with log.heartbeat("attar"), log.progress("squeeze", 20):
            time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_what_is_left_is_estimated_from_what_was_done_here(hands):
    stretch = ProgressState("evaluate", 16200, 4100, "full", "steps", began=hands.now - 75, before=100)
    assert stretch.line() == "evaluate  4,100/16,200 steps, 1:15 so far, about 3:47 left, full"
    stretch = ProgressState("recover", 4000, began=hands.now - 3675)
    assert stretch.line() == "recover   0/4,000, 1:01:15 so far, working on the first step"
    stretch = ProgressState("recover", 4000, 100, unit="iterations", began=hands.now - 9, before=100)
    assert stretch.line() == "recover   100/4,000 iterations, 0:09 so far, working on the next iteration"


def test_steps_of_a_training_that_is_continued_do_not_count_for_the_time_left(hands, tmp_path):
    log = Log(tmp_path / "log.jsonl", quiet=True)
    with log.progress("evaluate", 8000, 4000, unit="steps") as advance:
        advance(2500, earlier=True)
        advance(75)
    begun, *_, last = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert begun["done"] == 4000
    assert (last["done"], last["before"], last["taken_over"]) == (6575, 4000, 2500)
    stretch = ProgressState("evaluate", 8000, 6575, unit="steps", began=hands.now - 75, before=4000)
    stretch.taken_over = 2500
    assert stretch.line() == "evaluate  6,575/8,000 steps, 1:15 so far, about 23:45 left"
    stretch.done = 6500
    assert stretch.line() == "evaluate  6,500/8,000 steps, 1:15 so far, working on the next step"


def test_a_bar_counts_no_steps_of_a_training_that_is_continued_for_its_speed(monkeypatch):
    log = Log()
    log.console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = []
    monkeypatch.setattr(log, "_bar", lambda state, make=log._bar: bars.append(make(state)) or bars[-1])
    with log.progress("evaluate", 8000, 4000) as advance:
        advance(2500, earlier=True)
        (task,) = bars[0][0].tasks
        assert task.completed == 6500
        assert not task._progress
        advance(75)
        assert [sample.completed for sample in task._progress] == [75]


def test_a_line_says_that_the_work_compiles(hands):
    stretch = ProgressState("recover", 4000, unit="iterations", began=hands.now - 9)
    with logs.activity("compiling"):
        assert stretch.line() == "recover   0/4,000 iterations, 0:09 so far, compiling"
        assert ProgressState("plan", began=hands.now - 9).line() == "plan      compiling, 0:09 so far"
    assert "compiling" not in stretch.line()


def test_progress_draws_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Log().progress("recover", 3, done=1) as advance:
        advance(note="loss 1.5")
        with logs.activity("compiling"):
            said = said_until(capsys, lambda said: "compiling" in said)
    said += capsys.readouterr().err
    assert "recover" in said
    assert "2/3" in said
    assert "loss 1.5" in said


def test_errors_inside_a_bar_get_out():
    with pytest.raises(KeyError), Log(quiet=True).progress("x", 1):
        raise KeyError


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_log_that_may_not_be_written_is_one_sentence(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "log.jsonl")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AttarError, match=rf"log.jsonl cannot be written \({os.strerror(number)}\); .*--out"):
        Log(tmp_path / "log.jsonl", quiet=True).event("epoch")


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_progress_is_in_the_file_at_its_start_now_and_then_and_at_its_end(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    with Log(tmp_path / "log.jsonl", quiet=True).progress("recover", 10000, 100, unit="iterations") as advance:
        for step in range(3000):
            now += 0.25
            advance(1, note="early" if step < 1500 else "late", values={"loss": math.inf if step == 3 else 1.0})
    lines = events(tmp_path / "log.jsonl")
    first = {"event": "progress", "what": "recover", "unit": "iterations", "done": 100, "total": 10000, "before": 100}
    assert {key: value for key, value in lines[0].items() if key != "time"} == first
    assert lines[1]["values"] == {"loss": None}  # after a second, which four steps take
    assert lines[1]["done"] == 104
    assert (lines[-1]["done"], lines[-1]["note"]) == (3100, "late")
    assert 250 < len(lines) < 350  # of 750 seconds: seldomer when the task is older than a hundred
    gaps = [after["done"] - before["done"] for before, after in itertools.pairwise(lines)]
    assert gaps[0] == 4
    assert gaps[-2] in (29, 30)


def test_held_events_are_written_when_work_begins_below(tmp_path):
    above = Log(tmp_path / "run" / "log.jsonl", quiet=True, hold=True)
    above.warn("early")
    below = above.beside(tmp_path / "run" / "recover")
    assert not (tmp_path / "run").exists()
    below.release()
    above.event("late")
    assert [line["event"] for line in events(tmp_path / "run" / "log.jsonl")] == ["warning", "late"]
    assert not (tmp_path / "run" / "recover").exists()
