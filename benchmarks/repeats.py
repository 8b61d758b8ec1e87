"""Whether recovering repeats itself to the bit: the same unit twice in this process, compiled.

    python benchmarks/repeats.py --row tiny-gpu --iterations 50

Prints one line of JSON: a SHA-256 of each run's pixels, milliseconds an iteration, seconds of the first run (compiling
included). Run it in several processes, each with a cache of its own (TORCHINDUCTOR_CACHE_DIR), with and without
TORCHINDUCTOR_DETERMINISTIC=1: kernels that are chosen by timing may round differently from process to process.
"""

import argparse
import hashlib
import json
import sys
import time
from types import SimpleNamespace

import torch

from attar.methods import cda
from attar.models.build import build
from sides import ROWS, Sides, teacher_of


def repeated(sides: Sides, iterations: int, runs: int) -> dict[str, object]:
    """Recover the row's first units several times; what came out, and how long it took."""
    task = sides.task(monitor=SimpleNamespace(step=lambda *_, **__: None))
    config = sides.row.config.changed(iterations=iterations)
    hashes, seconds = [], []
    for _ in range(runs):
        started = time.perf_counter()
        images = cda.recover(task, config).images.cpu()
        seconds.append(time.perf_counter() - started)
        hashes.append(hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16])
    return {
        "pixels": hashes,
        "ms_per_iteration": round(1e3 * min(seconds[1:]) / iterations, 3),
        "first_seconds": round(seconds[0], 1),
        "compilation": sides.state(),
        "precision": sides.precision,
    }


def main() -> int:
    """Print the line; exit code 1 when the runs of this process differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", default="tiny-gpu", choices=ROWS)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="nothing compiled and no teacher trained, to try it out")
    asked = parser.parse_args()
    row = ROWS[asked.row]
    if row.skipped():
        print(f"{asked.row} is skipped: {row.skipped()}.", file=sys.stderr)
        return 2
    torch.backends.cudnn.deterministic = True
    teacher = (
        build(row.network, row.num_classes, row.size, seed=0)
        if asked.quick
        else teacher_of(row.network, row.num_classes, row.size, row.device)
    )
    sides = Sides(row, teacher, asked.quick)
    found = repeated(sides, asked.iterations, asked.runs)
    print(json.dumps(found), flush=True)
    return int(len(set(found["pixels"])) > 1)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
