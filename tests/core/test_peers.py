"""core/peers.py: when one of several processes ends early, all end within seconds, and one says why."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import run  # imports PyTorch for the forked processes, which so start at once

from attar import cli
from attar.core import interruption, peers, ranks
from attar.core.errors import AttarError
from attar.core.interruption import MESSAGE
from meeting import free_port

SOON_SECONDS = 20
"""Far below the timeouts of torchrun (30 s) and of the group (14 days), for a busy machine."""
Body = Callable[[int, Path], None]


def launched(rank: int, size: int, port: int, body: Body, folder: Path) -> None:
    """A process as torchrun starts it, which runs ``body`` as the command line runs a verb."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (folder / "said").open("a") as said:
        os.dup2(said.fileno(), 2)
    sys.stderr, sys.argv = os.fdopen(2, "w", buffering=1), ["attar"]
    interruption.set_message(MESSAGE)  # tests of other verbs may have set another in the process that was forked
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli._dispatch = lambda arguments: body(rank, folder)
    cli.main()


def launch(body: Body, folder: Path, size: int = 2) -> list[multiprocessing.process.BaseProcess]:
    """Processes that have all got as far as to have written 'ready'."""
    context, port = multiprocessing.get_context("fork"), free_port()  # PyTorch is imported already
    started = [context.Process(target=launched, args=(rank, size, port, body, folder)) for rank in range(size)]
    for process in started:
        process.start()
    return started


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def ended(started: list[multiprocessing.process.BaseProcess], folder: Path) -> tuple[list[int | None], str]:
    """Exit codes by rank, and what was said; no process may outlive the test."""
    until = time.monotonic() + SOON_SECONDS
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes, (folder / "said").read_text()


def works(rank: int, folder: Path) -> None:
    """Computes for long without meeting the others."""
    (folder / f"ready{rank}").touch()
    time.sleep(60)


def meets(rank: int, folder: Path) -> None:
    """The first waits for the second one, which computes."""
    (folder / f"ready{rank}").touch()
    if rank == 0:
        ranks.wait()
    time.sleep(60)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("body", [works, meets])
def test_a_killed_process_ends_the_other_with_one_sentence(body: Body, killed: int, tmp_path: Path):
    started = launch(body, tmp_path)
    for rank in (0, 1):
        wait_for(tmp_path / f"ready{rank}")
    process = started[killed].pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    codes, said = ended(started, tmp_path)
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 1
    assert said == f"attar: {peers.lost(killed, 2)}\n"


def errs(rank: int, folder: Path) -> None:
    if rank == 1:
        raise AttarError("This is wrong; fix it.")
    time.sleep(60)


def all_err(rank: int, folder: Path) -> None:
    raise AttarError("This is wrong; fix it.")


@pytest.mark.parametrize("body", [errs, all_err])
def test_what_the_user_can_mend_is_said_once_and_all_end_with_code_2(body: Body, tmp_path: Path):
    codes, said = ended(launch(body, tmp_path, 3), tmp_path)
    assert codes == [2, 2, 2]
    assert said == "attar: This is wrong; fix it.\n"


@pytest.mark.parametrize("attempt", range(5))
def test_no_answer_is_lost_when_many_err_at_once(attempt: int, tmp_path: Path):
    codes, said = ended(launch(all_err, tmp_path, 6), tmp_path)
    assert codes == [2] * 6
    assert said == "attar: This is wrong; fix it.\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_a_signal_to_any_process_ends_all_with_one_sentence(
    number: signal.Signals, code: int, asked: list[int], tmp_path: Path
):
    started = launch(works, tmp_path)
    for rank in (0, 1):
        wait_for(tmp_path / f"ready{rank}")
    for rank in asked:
        process = started[rank].pid
        assert process is not None
        os.kill(process, number)
    codes, said = ended(started, tmp_path)
    assert codes == [code, code]
    assert said == f"attar: {MESSAGE}\n"


def looks(rank: int, folder: Path) -> None:
    """Two processes on each of two machines."""
    os.environ["LOCAL_RANK"] = str(rank % 2)
    works(rank, folder)


def test_a_machine_that_is_lost_with_its_processes_is_told_by_the_next_one(tmp_path: Path):
    started = launch(looks, tmp_path, 4)
    for rank in range(4):
        wait_for(tmp_path / f"ready{rank}")
    for number in (signal.SIGSTOP, signal.SIGKILL):  # so that neither sees the other's end
        for rank in (0, 1):
            os.kill(started[rank].pid or 0, number)
    codes, said = ended(started, tmp_path)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 1, 1]
    assert said == f"attar: {peers.lost(0, 4)}\n"


def test_the_system_asks_within_a_minute_whether_the_other_machine_is_still_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    kept = peers.Peers(1, 2, {0: here})
    found = {name: here.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in peers._KEEP_ALIVE}
    assert here.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert found["TCP_KEEPIDLE"] + found["TCP_KEEPCNT"] * found["TCP_KEEPINTVL"] <= 40
    assert found["TCP_USER_TIMEOUT"] <= 40_000
    kept.close()
    there.close()


LOST = """
import os, sys, time
from attar.core import interruption, ranks
interruption.handle_signals()
with ranks.group():
    open(os.path.join(sys.argv[1], "ready" + os.environ["RANK"]), "w").close()
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_machine_without_network_is_noticed_within_a_minute(tmp_path: Path):
    """Two network namespaces stand for two machines; the cable between them is cut."""
    (tmp_path / "script.py").write_text(LOST)
    spaces = [f"attar{os.getpid()}-{rank}" for rank in (0, 1)]

    def inside(rank: int, *words: str) -> list[str]:
        return ["ip", "netns", "exec", spaces[rank], *words]

    def run_all(*commands: list[str]) -> None:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)

    try:
        run_all(*(["ip", "netns", "add", space] for space in spaces))
        cable = ["ip", "link", "add", "cable0", "netns", spaces[0], "type", "veth", "peer", "name", "cable1"]
        run_all([*cable, "netns", spaces[1]])
        for rank in (0, 1):
            run_all(inside(rank, "ip", "addr", "add", f"10.77.0.{rank + 1}/24", "dev", f"cable{rank}"))
            run_all(*(inside(rank, "ip", "link", "set", device, "up") for device in ("lo", f"cable{rank}")))
    except (OSError, subprocess.CalledProcessError):
        _remove(spaces)
        pytest.skip("needs the right to make network namespaces")
    together = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    started = [
        subprocess.Popen(
            inside(rank, sys.executable, str(tmp_path / "script.py"), str(tmp_path)),
            env=os.environ | together | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": f"cable{rank}"},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        for rank in (0, 1):
            wait_for(tmp_path / f"ready{rank}")
        run_all(inside(1, "ip", "link", "set", "cable1", "down"))
        said = [process.communicate(timeout=60)[1] for process in started]
        assert [process.returncode for process in started] == [1, 1]
        assert [said[rank].count(f"attar: {peers.lost(1 - rank, 2)}") for rank in (0, 1)] == [1, 1]
    finally:
        for process in started:
            process.kill()
        _remove(spaces)


def _remove(spaces: list[str]) -> None:
    for space in spaces:
        subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def finishes(rank: int, folder: Path) -> None:
    """The second one is done, and gone, before the first."""
    ranks.wait()
    if rank == 0:
        time.sleep(0.5)
        (folder / "whole").touch()


def test_a_process_that_is_done_ends_nobody(tmp_path: Path):
    codes, said = ended(launch(finishes, tmp_path), tmp_path)
    assert (codes, said) == ([0, 0], "")
    assert (tmp_path / "whole").exists()


def forks(rank: int, folder: Path) -> None:
    """The second one has a child that lives on, as a process that reads images may."""
    if rank == 1:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (folder / "child").write_text(str(child))
    works(rank, folder)


def test_a_child_of_a_killed_process_does_not_hide_its_death(tmp_path: Path):
    started = launch(forks, tmp_path)
    for rank in (0, 1):
        wait_for(tmp_path / f"ready{rank}")
    process = started[1].pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    started[0].join(SOON_SECONDS)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # it was alive
    assert started[0].exitcode == 1
    _, said = ended(started, tmp_path)
    assert said == f"attar: {peers.lost(1, 2)}\n"


SCRIPT = """
import os, pathlib, sys, time
from attar.core import interruption, ranks
interruption.handle_signals()
with ranks.group():
    ready = pathlib.Path(sys.argv[1], f"ready{ranks.rank()}")
    ready.with_suffix(".part").write_text(str(os.getpid()))
    ready.with_suffix(".part").rename(ready)
    time.sleep(60)
"""


def torchrun(folder: Path) -> None:
    """torchrun's own entry, in a process that has PyTorch already; the processes that it starts import it anew."""
    os.setsid()
    with (folder / "said").open("w") as said:
        os.dup2(said.fileno(), 2)
    run.main(["--standalone", "--nproc-per-node", "2", str(folder / "script.py"), str(folder)])


def test_torchrun_ends_soon_with_one_sentence_when_a_process_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    started = multiprocessing.get_context("fork").Process(target=torchrun, args=(tmp_path,))
    started.start()
    try:
        for rank in (0, 1):
            wait_for(tmp_path / f"ready{rank}")
        os.kill(int((tmp_path / "ready1").read_text()), signal.SIGKILL)
        began = time.monotonic()
        started.join(60)
    finally:
        if started.is_alive():
            os.killpg(started.pid or 0, signal.SIGKILL)
    assert time.monotonic() - began < SOON_SECONDS
    assert started.exitcode == 1
    said = (tmp_path / "said").read_text()
    assert [line for line in said.splitlines() if line.startswith("attar: ")] == [f"attar: {peers.lost(1, 2)}"]


def stops_early(rank: int, port: int, answers: multiprocessing.SimpleQueue) -> None:
    """A program of the user's own that calls attar as a library: nothing ends it from within."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ranks.group():
        assert interruption.should_report(2) == (rank == 0)
        if rank == 1:
            os._exit(3)
        try:
            ranks.wait()
        except AttarError as error:
            answers.put(str(error))


def test_a_library_raises_where_processes_meet():
    context, port = multiprocessing.get_context("fork"), free_port()
    answers = context.SimpleQueue()
    started = [context.Process(target=stops_early, args=(rank, port, answers)) for rank in (0, 1)]
    for process in started:
        process.start()
    assert "Another process of this launch ended early" in answers.get()
    for process in started:
        process.join(30)
        process.kill()
