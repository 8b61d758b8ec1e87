"""How long each verb takes before it does anything: CPU seconds, which other work on the machine hardly alters.

    python benchmarks/startup.py

Shown are the least and the median CPU seconds (user and system) of several starts, and the least wall seconds. What
lists, shows and explains is to stay below a second; ``run`` up to its first sentence imports PyTorch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

TARGET_SECONDS = 1.0
VERBS = {
    "(python alone)": None,
    "attar --version": TARGET_SECONDS,
    "attar list recipes": TARGET_SECONDS,
    "attar list methods": TARGET_SECONDS,
    "attar list datasets": TARGET_SECONDS,
    "attar list protocols": TARGET_SECONDS,
    "attar show digits": TARGET_SECONDS,
    "attar show cda/imagenet-1k-ipc50": TARGET_SECONDS,
    "attar run digits --help": TARGET_SECONDS,
    "attar list models resnet": None,
    "attar run digits --out OUT --data.source /nowhere": None,
}
"""What is measured, and what it should take at most."""


def start(verb: str) -> tuple[float, float]:
    """CPU and wall seconds of one start."""
    words = ["-c", ""] if verb.startswith("(") else ["-m", *verb.split()]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return used.ru_utime + used.ru_stime, time.perf_counter() - began


def main(arguments: list[str] | None = None) -> int:
    """Print a row as soon as it is measured; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="CPU seconds that attar's verbs take to start.")
    parser.add_argument("--starts", type=int, default=7, help="of each verb, after one that fills the caches")
    parser.add_argument("--quick", action="store_true", help="one start of a few verbs, to try it out")
    options = parser.parse_args(arguments)
    verbs = dict(list(VERBS.items())[:3]) if options.quick else VERBS
    print(f"{'verb':<52} {'CPU s':>6} {'median':>7} {'wall s':>7}", flush=True)
    missed = 0
    for verb, target in verbs.items():
        if not options.quick:
            start(verb)
        times = [start(verb) for _ in range(1 if options.quick else options.starts)]
        cpu, wall = zip(*times, strict=True)
        late = target is not None and min(cpu) > target
        missed += late
        note = f"  more than {target:g} s" if late else ""
        print(f"{verb:<52} {min(cpu):6.2f} {statistics.median(cpu):7.2f} {min(wall):7.2f}{note}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
