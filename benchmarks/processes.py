"""How many units a second recover makes with one process and with several, and whether they make the same bytes.

    python benchmarks/processes.py --processes 1 2

A hundred units of digits, one image and one thread each, recovered alternately with each number of processes; the first
is the base of the ratios. Counted from the beginning of the first unit to the end of the last, so starts do not count.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from attar.store.atomic import sha256_of

UNITS = ["--recover.ipc", "10", "--recover.parallel-units", "1"]
UNITS += ["--recover.unit-slots", "1", "--recover.unit-classes", "1"]


def attar(*words: str, processes: int = 1) -> None:
    """Run a command of attar, with one thread in each process."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launch, "-m", "attar", *words], check=True, env=environment, capture_output=True)


def units_a_second(run: Path) -> float:
    """Return the rate from the logs of all processes."""
    logs = (json.loads(line) for path in (run / "recover").glob("log*.jsonl") for line in path.open())
    units = [(entry["time"], entry["seconds"]) for entry in logs if entry["event"] == "unit"]
    return len(units) / (max(end for end, _ in units) - min(end - took for end, took in units))


def main() -> None:
    """Print each number of processes with its rates, their median and its ratio to the first."""
    parser = argparse.ArgumentParser(description="Units a second of recover with several processes.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=150, help="of each unit")
    parser.add_argument("--runs", type=int, default=3, help="with each number of processes")
    options = parser.parse_args()
    settings = [*UNITS, "--recover.iterations", str(options.iterations), "--execution.threads", "1"]
    rates, made = dict[int, list[float]](), set[str]()
    with tempfile.TemporaryDirectory() as name:
        base, run = Path(name) / "base", Path(name) / "run"
        attar("squeeze", "digits", *settings, "--out", str(base))
        for _ in range(options.runs):
            for processes in options.processes:
                shutil.copytree(base, run)
                attar("recover", "digits", *settings, "--out", str(run), processes=processes)
                rates.setdefault(processes, []).append(units_a_second(run))
                made |= {sha256_of(path) for path in (run / "recover" / "data").iterdir()}
                shutil.rmtree(run)
    first = statistics.median(rates[options.processes[0]])
    for processes, found in rates.items():
        median = statistics.median(found)
        spread = f"({min(found):.2f} to {max(found):.2f})"
        print(f"{processes:3} processes: {median:.2f} units/s {spread}, {median / first:.2f}x")
    print("the same bytes each time" if len(made) == 1 else f"{len(made)} different sets of images")


if __name__ == "__main__":
    main()
