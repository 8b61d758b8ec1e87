"""Long runs among accidents: processes killed at random, units spoilt, a disk that fills, two runs in one folder."""

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from conftest import MINI
from stages.test_determinism import TIMEOUT_SECONDS, assert_same, finish, start, start_ranks

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--execution.threads", "1", "--execution.precision", "fp32", "--squeeze.training.epochs", "2"),
    *("--recover.ipc", "20", "--recover.unit-classes", "1", "--recover.unit-slots", "1", "--recover.iterations", "6"),
    *("--recover.parallel-units", "1", "--recover.snapshots", "3"),
]
NUM_UNITS, NUM_KILLS, MAX_LAUNCHES = 200, 12, 60


def units_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "recover" / "units").glob("*.safetensors"))}


def launch(out: Path, folder: Path) -> list[tuple[BaseProcess, Path]]:
    return start_ranks(["recover", "digits", "--out", str(out), *SETTINGS], folder)


def spoil(path: Path, chance: random.Random) -> None:
    """Truncate a file, or flip one bit of it."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        path.write_bytes(content[: chance.randrange(len(content))])
        return
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def wait_for_units(out: Path, begun: float, count: int, processes: list[tuple[BaseProcess, Path]]) -> None:
    """Return when this launch has written so many units."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while sum(path.stat().st_mtime > begun for path in (out / "recover" / "units").glob("*.safetensors")) < count:
        assert time.monotonic() < until
        assert all(process.is_alive() for process, _ in processes)
        time.sleep(0.005)


def test_two_hundred_units_among_accidents_equal_those_of_a_quiet_run(tmp_path: Path):
    for process, said in start_ranks(["squeeze", "digits", "--out", str(tmp_path / "quiet"), *SETTINGS], tmp_path):
        finish(process, said)
    shutil.copytree(tmp_path / "quiet", tmp_path / "rough")
    for process, said in launch(tmp_path / "quiet", tmp_path):
        finish(process, said)
    quiet, chance = units_in(tmp_path / "quiet"), random.Random(0)
    assert len(quiet) == NUM_UNITS

    out, whole, num_kills, spoilt = tmp_path / "rough", list[str](), 0, list[str]()
    for _ in range(MAX_LAUNCHES):
        begun, processes = time.time(), launch(out, tmp_path)
        if num_kills < NUM_KILLS:
            share = (NUM_UNITS - len(whole)) // (NUM_KILLS - num_kills + 1)
            wait_for_units(out, begun, chance.randrange(1, max(2, share)), processes)
            victim, _ = chance.choice(processes)
            victim.kill()
            num_kills += 1
        for process, _ in processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, "a process waits for one that was killed"
        made = units_in(out)
        if all(process.exitcode == 0 for process, _ in processes):
            break
        whole = [name for name, content in made.items() if content == quiet[name]]
        if whole and chance.random() < 0.7:
            spoilt.append(chance.choice(whole))
            spoil(out / "recover" / "units" / spoilt[-1], chance)
    assert num_kills == NUM_KILLS
    assert len(spoilt) > 3
    said = "\n".join(path.read_text() for path in out.rglob("log*.jsonl"))
    for name in spoilt:
        assert re.search(rf"{re.escape(name)}[^\n]*made again", said), f"nothing says that {name} was made again"
    assert units_in(out) == quiet
    name = "recover/data/train-00000-of-00001.parquet"
    assert (out / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
    print(f"{num_kills} kills, {len(spoilt)} spoilt units, {NUM_UNITS} units as in the quiet run")


Resize = Callable[[int], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A file system in memory, and a function that gives it another size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str, *more: str) -> None:
        subprocess.run(["mount", "-o", options, *more, str(folder)], check=True, capture_output=True)

    try:
        mount("size=64k", "-t", "tmpfs", "tmpfs")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder, lambda size: mount(f"remount,size={size}k")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def used_kib(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize // 1024


def test_a_disk_that_fills_again_and_again(small_disk: tuple[Path, Resize], mini_run: Path, tmp_path: Path):
    """After each stop there is a little more room than is used: twice as much more, where it stops at the same file."""
    folder, resize = small_disk
    out, sentences, room = folder / "run", list[str](), 32
    resize(10_000)
    shutil.copytree(mini_run / "squeeze", out / "squeeze")  # its checkpoints are larger than all the rest
    while True:
        resize(used_kib(folder) + room)
        process = start(["run", "digits", "--out", str(out), *MINI], tmp_path / "said")
        process.join(TIMEOUT_SECONDS)
        if process.exitcode == 0:
            break
        *_, last = (tmp_path / "said").read_text().strip().splitlines()
        assert process.exitcode == 2, last
        assert last.startswith("attar: ")
        assert "free some space and run the same command again" in last or "needs" in last, last
        assert not list(out.rglob(".*.tmp")), "a file is half-written"
        least = 32 if len(sentences) < 6 else 200  # the first stages write little
        room = 2 * room if [last] == sentences[-1:] else least
        sentences.append(last)
    places = {sentence.partition(str(out))[2].split("/")[1] for sentence in sentences if str(out) in sentence}
    assert {"recover", "baselines", "report"} <= places  # the other stages write less than there is room
    assert_same(mini_run, out)
    print(f"the disk was full {len(sentences)} times, at {len(set(sentences))} files, in {', '.join(sorted(places))}")


def test_two_runs_at_once_in_one_folder_do_not_harm_each_other(mini_run: Path, tmp_path: Path):
    command = ["run", "digits", "--out", str(tmp_path / "both"), *MINI]
    started = [(start(command, tmp_path / name), tmp_path / name) for name in ("first", "second")]
    for process, said in started:
        finish(process, said)
    assert_same(mini_run, tmp_path / "both")
