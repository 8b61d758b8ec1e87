import json
import math
from pathlib import Path

import pytest

from attar.report.run_log import RunLog, StageProgress


def write(run: Path, name: str, *entries: dict) -> None:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps({"time": 100.0, **entry}) + "\n" for entry in entries)


def progress(when: float, done: float, total: float, what: str = "recover", **more) -> dict:
    return {"time": when, "event": "progress", "what": what, "unit": "iterations", "done": done, "total": total, **more}


def jobs(when: float, done: int, total: int, **more) -> dict:
    return {"time": when, "event": "jobs", "what": "recover", "results": "units", "done": done, "total": total, **more}


def recover(log: RunLog) -> StageProgress:
    log.read()
    return log.state.stages["recover"]


def test_rate_and_time_left_are_those_of_the_last_entries(tmp_path):
    write(tmp_path, "recover/log.jsonl", jobs(0, 0, 4, by="group"), progress(0, 0, 400), progress(10, 50, 400))
    stage = recover(log := RunLog(tmp_path))
    assert (stage.done, stage.total, stage.rate(), stage.seconds_left()) == (50, 400, 5.0, 70.0)
    for when in range(11, 50):  # now ten times as fast
        write(tmp_path, "recover/log.jsonl", progress(when, 50 + (when - 10) * 5, 400))
    assert recover(log).rate() == pytest.approx(5.0)
    assert recover(log).done == 245


def test_the_steps_of_a_training_that_is_continued_do_not_count_for_the_rate(tmp_path):
    path = "recover/log.jsonl"
    write(tmp_path, path, jobs(0, 0, 4), progress(1, 0, 400), progress(2, 300, 400, taken_over=300))
    write(tmp_path, path, progress(12, 310, 400, taken_over=300))
    assert recover(RunLog(tmp_path)).rate() == pytest.approx(1.0)


def test_the_processes_of_a_run_are_added_up(tmp_path):
    for name in ("log.jsonl", "log.rank1.jsonl"):  # of 1000 steps, 200 were there; each process has 400
        write(tmp_path, f"recover/{name}", jobs(0, 1, 5, by="group"), progress(1, 200, 600, before=200))
    write(
        tmp_path, "recover/log.jsonl", progress(2, 500, 600, before=200), {"event": "group", "name": "a", "results": 2}
    )
    write(tmp_path, "recover/log.rank1.jsonl", progress(3, 300, 600, before=200), {"event": "group", "name": "b"})
    stage = recover(RunLog(tmp_path))
    assert (stage.before, stage.done, stage.total) == (200, 600, 1000)
    assert (stage.results_done, stage.results_total) == (4, 5)


def test_a_run_is_finished_when_its_first_process_is(tmp_path):
    write(tmp_path, "log.jsonl", {"event": "run", "recipe": "digits"})
    write(tmp_path, "log.rank1.jsonl", {"event": "run", "recipe": "digits"}, {"event": "finished"})
    log = RunLog(tmp_path)
    assert [entry["event"] for entry in log.read()] == ["run"]
    assert log.state.ended == ""
    write(tmp_path, "log.jsonl", {"event": "finished"})
    log.read()
    assert log.state.ended == "finished"


def test_half_a_line_is_read_when_its_rest_is_there(tmp_path):
    write(tmp_path, "recover/log.jsonl", jobs(0, 0, 4), progress(1, 10, 400))
    whole = (tmp_path / "recover" / "log.jsonl").read_text()
    line = json.dumps(progress(2, 20, 400))
    (tmp_path / "recover" / "log.jsonl").write_text(whole + line[:30])
    log = RunLog(tmp_path)
    assert recover(log).done == 10
    (tmp_path / "recover" / "log.jsonl").write_text(whole + line + "\n")
    assert [entry["done"] for entry in log.read()] == [20]
    assert log.state.stages["recover"].done == 20


def test_damaged_lines_are_skipped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"time": 1, "event"\n[]\n{"time": "x", "event": "run"}\n{"time": 2}\n\xff\n')
    write(
        tmp_path, "log.jsonl", progress(1, math.nan, 4), {"event": "score", "row": "distilled"}, {"event": "__init__"}
    )
    write(tmp_path, "log.jsonl", {"event": "warning", "text": "mind"})
    log = RunLog(tmp_path)
    log.read()
    assert list(log.state.warnings) == ["mind"]
    assert log.state.scores == {}


def test_a_continued_run_has_not_stopped_and_counts_on(tmp_path):
    write(
        tmp_path,
        "log.jsonl",
        {"time": 1, "event": "run", "recipe": "digits"},
        {"time": 9, "event": "stopped", "why": "x"},
    )
    write(tmp_path, "recover/log.jsonl", jobs(2, 0, 4, by="group"), progress(3, 0, 400), progress(8, 90, 400))
    log = RunLog(tmp_path)
    assert recover(log).done == 90
    assert log.state.ended == "x"
    write(tmp_path, "log.jsonl", {"time": 500, "event": "run", "recipe": "digits"})
    write(tmp_path, "recover/log.jsonl", jobs(501, 0, 4, by="group"), progress(501, 80, 400), progress(511, 100, 400))
    assert recover(log).rate() == 2.0
    assert log.state.ended == ""


def test_a_curve_is_of_the_current_unit_and_marks_what_is_not_finite(tmp_path):
    values = [progress(when, when, 400, values={"loss": 9.0 - when}) for when in (1, 2)]
    write(tmp_path, "recover/log.jsonl", jobs(0, 0, 4, by="group"), *values, {"time": 3, "event": "group", "name": "a"})
    log = RunLog(tmp_path)
    assert list(recover(log).curves["loss"]) == [8.0, 7.0]
    write(tmp_path, "recover/log.jsonl", progress(4, 4, 400, values={"loss": 9.5}))
    write(tmp_path, "recover/log.jsonl", progress(5, 5, 400, values={"loss": None}))
    curve = list(recover(log).curves["loss"])
    assert curve[0] == 9.5
    assert math.isnan(curve[1])


def test_baselines_and_teachers_have_names_of_their_own(tmp_path):
    write(tmp_path, "recover/log.jsonl", jobs(0, 0, 4))
    write(tmp_path, "baselines/random/recover/log.jsonl", jobs(1, 0, 2))
    write(tmp_path, "squeeze/1/log.jsonl", {"event": "accuracy", "top1": 0.5}, {"event": "epoch", "loss": 2.0})
    log = RunLog(tmp_path)
    log.read()
    assert log.state.stages["recover (random)"].results_total == 2
    assert log.state.stages["recover"].results_total == 4
    assert log.state.teachers == {"teacher 1": 0.5}
    assert list(log.state.stages["squeeze"].curves) == ["teacher 1, loss"]
