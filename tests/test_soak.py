"""A long run among accidents: processes killed at random moments, units truncated and changed between the launches."""

import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from stages.test_determinism import TIMEOUT_SECONDS, finish, start_ranks

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

    out, whole, num_kills, num_spoilt = tmp_path / "rough", list[str](), 0, 0
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
            spoil(out / "recover" / "units" / chance.choice(whole), chance)
            num_spoilt += 1
    assert num_kills == NUM_KILLS
    assert num_spoilt > 3
    assert units_in(out) == quiet
    name = "recover/data/train-00000-of-00001.parquet"
    assert (out / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
    print(f"{num_kills} kills, {num_spoilt} spoilt units, {NUM_UNITS} units as in the quiet run")
