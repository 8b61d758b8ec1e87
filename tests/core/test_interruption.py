"""Signals, sent to real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from attar.core.interruption import MESSAGE, should_report

SOON_SECONDS = 20
"""For a busy machine; every process would go on for a minute at least."""
IN_ORDER = """
    interruption.GRACE_SECONDS = 60.0  # it ends by itself
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as error:
        interruption.end(error.code)
"""
DEAF = """
    try:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # no line of Python for an hour
    except KeyboardInterrupt as error:  # where the signal comes before that
        interruption.end(error.code)
"""
STUBBORN = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)
"""
FORKED = """
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print("ready", flush=True)
    os.kill(child, 15)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15
    time.sleep(1.2)
    print("lives")
"""


def start(body: str) -> subprocess.Popen[str]:
    """A process that is watching and has got as far as 'ready'."""
    code = (
        "import hashlib, os, time\nfrom attar.core import interruption\ninterruption.handle_signals()\nif True:" + body
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # What runs in the background of a script is started to ignore Ctrl-C, and so would its children be.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("body", [IN_ORDER, DEAF, STUBBORN], ids=["in order", "deaf", "stubborn"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_ends_soon_whatever_it_does(body, number, code):
    process = start(body)
    if body is DEAF:
        time.sleep(0.2)  # until it is deaf
    os.kill(process.pid, number)
    try:
        _, said = process.communicate(timeout=SOON_SECONDS)
    finally:
        process.kill()
    assert process.returncode == code
    assert said == f"attar: {MESSAGE}\n"


def test_a_signal_to_a_forked_process_does_not_end_this_one():
    process = start(FORKED)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out, said) == (0, "lives\n", "")


def test_a_process_that_ignores_ctrl_c_still_does():
    code = "import os, signal\nfrom attar.core import interruption\ninterruption.handle_signals()\n"
    code += "os.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(1.2)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [
        ({}, True),
        ({"RANK": "3"}, True),
        ({"RANK": "0", "WORLD_SIZE": "4"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4"}, False),
    ],
)
def test_before_processes_know_each_other_the_first_one_speaks(
    environment: dict[str, str], speaks: bool, monkeypatch: pytest.MonkeyPatch
):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert should_report(2) is speaks
