import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.report import watch
from attar.report.run_log import RunLog, RunState

RUNNING = [
    {"time": 90.0, "event": "run", "recipe": "digits", "stages": ["squeeze", "recover"]},
    {"time": 91.0, "event": "jobs", "what": "recover", "results": "units", "done": 0, "total": 4, "by": "group"},
    {"time": 92.0, "event": "progress", "what": "recover", "unit": "iterations", "done": 0, "total": 400},
    {"time": 93.0, "event": "progress", "what": "recover", "unit": "iterations", "done": 20, "total": 400,
     "values": {"loss": 8.0}},
    {"time": 94.0, "event": "progress", "what": "recover", "unit": "iterations", "done": 40, "total": 400,
     "values": {"loss": 4.0}},
    {"time": 95.0, "event": "warning", "text": "too \x1b[2Jfew [red]steps"},
    {"time": 96.0, "event": "score", "row": "distilled", "student": "convnet3", "seed": 0, "top1": 0.5},
    {"time": 97.0, "event": "score", "row": "distilled", "student": "convnet3", "seed": 1, "top1": 0.7},
]  # fmt: skip


def logged(run: Path, *entries: dict) -> RunState:
    """Everything is written into one file, which the reader does not mind."""
    run.mkdir(exist_ok=True)
    with (run / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    log = RunLog(run)
    log.read()
    return log.state


def test_the_lines_say_how_far_the_run_is(tmp_path):
    lines = watch.summary(tmp_path, logged(tmp_path, *RUNNING), now=99.0)
    assert lines[0] == f"{tmp_path}: digits, running; last entry 2 s ago"
    assert lines[1].startswith("recover            40/400 iterations, 0/4 units, 20 a second, about 0:18 left")
    assert lines[2] == "loss               █▁ 4"
    assert lines[3].split() == ["distilled,", "convnet3", "60.0%", "(2", "seeds)"]
    assert lines[4] == "warning: too \x1b[2Jfew [red]steps"  # escaped where it is printed


def test_the_screen_says_the_same_and_escapes_what_the_log_holds(tmp_path):
    with (tmp_path / "screen").open("w+") as file:
        console = SafeConsole(width=100, file=file, highlight=False)
        console.print(watch.screen(tmp_path, logged(tmp_path / "run", *RUNNING), now=99.0))
        file.seek(0)
        shown = file.read()
    for part in ("digits, running", "40/400 iterations", "20/s", "0:18 left", "60.0% (2 seeds)", "[red]steps"):
        assert part in shown.replace("\n", " "), shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_silent_run_and_an_ended_one_are_called_so(tmp_path):
    state = logged(tmp_path, *RUNNING)
    assert "no entry for 1:00:00: it was killed" in watch.heading(tmp_path, state, now=97.0 + 3600)
    state = logged(tmp_path, {"time": 98.0, "event": "stopped", "why": "Not enough memory."})
    assert "stopped: Not enough memory." in watch.heading(tmp_path, state, now=5000.0)
    assert "loss " not in "\n".join(watch.summary(tmp_path, state, now=5000.0))
    state = logged(tmp_path, {"time": 99.0, "event": "run", "recipe": "digits"}, {"time": 99.5, "event": "finished"})
    assert watch.heading(tmp_path, state, now=5000.0).startswith(f"{tmp_path}: digits, finished (")


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([3.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 7.0, 3.5], "▁█▅"), ([1.0, float("nan"), 0.0], "█!▁"),
     ([float("inf")], "!")],
)  # fmt: skip
def test_a_sparkline_reaches_from_the_least_to_the_greatest(values, line):
    assert watch.sparkline(values) == line


def test_a_long_sparkline_is_averaged():
    assert watch.sparkline([*[0.0] * 500, *[1.0] * 500], width=4) == "▁▁██"


def test_a_finished_run_is_shown_and_the_verb_ends(mini_run, capsys):
    watch.main([str(mini_run)])
    said = capsys.readouterr()
    assert "mini: digits, finished (" in said.out
    assert "evaluate" in said.out
    assert "distilled, convnet3" in said.out
    assert "(2 seeds)" in said.out
    assert said.err == ""
    lines = [json.loads(line) for line in (mini_run / "recover" / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["event"] == "progress"]
    assert (found[0]["done"], found[-1]["done"]) == (0, found[-1]["total"])
    assert next(line for line in lines if line["event"] == "jobs")["results"] == "units"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AttarError, match="is a file; give the --out folder"):
        watch.main([str(tmp_path / "file")])


def test_of_several_runs_the_newest_is_named(tmp_path):
    for age, name in enumerate(("dm-2", "dm-1")):
        logged(tmp_path / name, *RUNNING)
        os.utime(tmp_path / name / "log.jsonl", (1000 + age, 1000 + age))
    with pytest.raises(AttarError, match=r"holds 2 runs; .* attar watch .*dm-1\.$"):
        watch.main([str(tmp_path)])


def test_it_waits_for_a_run_and_ctrl_c_ends_it_quietly(tmp_path):
    run = tmp_path / "later"
    command = [sys.executable, "-u", "-m", "attar", "watch", str(run)]
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's tests ignore it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=heeds) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            assert (
                watching.stdout.readline()
                == f"{run} has no log yet; waiting for the run to begin (Ctrl-C ends the waiting).\n"
            )
            logged(run, *RUNNING[:2])
            assert watching.stdout.readline() == "run                digits begins\n"
            assert watching.stdout.readline() == "recover            begins: 0 of 4 units are there\n"
            os.kill(watching.pid, signal.SIGINT)
            assert (watching.wait(60), watching.stderr.read()) == (0, "")
        finally:
            with contextlib.suppress(ProcessLookupError):
                watching.kill()


def test_following_ends_with_the_run(tmp_path, monkeypatch, capsys):
    logged(tmp_path, *RUNNING)
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(time, "sleep", lambda _: logged(tmp_path, {"time": 99.0, "event": "finished"}))
    watch.main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-1] == "finished"
