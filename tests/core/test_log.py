import errno
import json
import math
import os
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.core.log import Log


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


def test_progress_draws_nothing_where_there_is_no_terminal(capsys):
    with Log().progress("recover", 3) as advance:
        advance()
        advance(2, note="loss 1")
    assert capsys.readouterr().err == ""


def test_progress_draws_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Log().progress("recover", 3, done=1) as advance:
        advance(note="loss 1.5")
    said = capsys.readouterr().err
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
