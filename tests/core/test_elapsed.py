"""Wall seconds and processor seconds are two things."""

import subprocess
import sys
import time

import pytest

from attar.core.elapsed import Clock, Elapsed, processor_seconds

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\n"


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_waiting_takes_wall_seconds_and_no_processor():
    """In a process of its own: threads of PyTorch from other tests may be at work in this one."""
    code = "import time\nfrom attar.core.elapsed import Clock\nclock = Clock()\ntime.sleep(0.2)\n"
    code += "found = clock.elapsed()\nprint(found.seconds, found.processor_seconds)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, processor = map(float, done.stdout.split())
    assert seconds >= 0.2
    assert processor < 0.15


def test_work_takes_processor_seconds_and_goes_on_from_before():
    clock = Clock(Elapsed(100.0, 50.0))
    busy(0.1)
    found = clock.elapsed()
    assert found.seconds >= 100.1
    assert found.processor_seconds is not None
    assert 50.1 <= found.processor_seconds < 51


def test_what_was_not_measured_before_is_not_known_after():
    assert Clock(Elapsed(1.0, None)).elapsed().processor_seconds is None
    assert Elapsed(3.0, None).part(2) == Elapsed(1.5, None)
    assert Elapsed(3.0, 1.0).part(2) == Elapsed(1.5, 0.5)
    assert Elapsed(1.23456, None).plain() == {"seconds": 1.235, "processor_seconds": None}


def test_processes_count_when_they_have_ended():
    before = processor_seconds()
    subprocess.run([sys.executable, "-S", "-c", BUSY.format(seconds=0.2)], check=True)
    assert processor_seconds() - before >= 0.15


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of processes that run")
def test_processes_count_while_they_run():
    clock = Clock()
    child = subprocess.Popen([sys.executable, "-S", "-c", BUSY.format(seconds=60)])
    try:
        until = time.monotonic() + 20
        while (clock.elapsed().processor_seconds or 0) < 0.3 and time.monotonic() < until:
            time.sleep(0.05)
        assert (clock.elapsed().processor_seconds or 0) >= 0.3
    finally:
        child.kill()
        child.wait()
