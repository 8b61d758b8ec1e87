"""Seconds until a folder of many files is open: its first look, and again.

    python benchmarks/many_files.py --files 200000 --classes 1000

Makes a folder of tiny PNG files in a temporary place, and removes it afterwards. ``--bytes 2000`` makes each file
larger, so that the folder is too large for all of its content to be read. Each look is a process of its own, as each
run of attar is; the disk's cache is warm from making the files.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

LOOK = """
import sys, time
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
began, used = time.perf_counter(), time.process_time()
real = load(DataChoice(source=sys.argv[1]), 0, Log(quiet=True))
wall, used = time.perf_counter() - began, time.process_time() - used
print(f"{wall:.2f} {used:.2f} {real.fingerprint[:12]} {len(real.train) + len(real.val)}")
"""


def make(folder: Path, files: int, classes: int, size: int) -> None:
    """Write ``files`` different images of 4 x 4 pixels, evenly over the classes; ``size`` pads each with zeros."""
    draws = np.random.default_rng(0)
    for place in range(classes):
        (folder / f"n{place:08}").mkdir()
    for number in range(files):
        written = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(written, "PNG")
        place = number % classes
        (folder / f"n{place:08}" / f"{number:07}.png").write_bytes(written.getvalue().ljust(size, b"\0"))


def main() -> None:
    """Print the seconds of each look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--looks", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        make(folder, given.files, given.classes, given.bytes)
        environment = os.environ | {"XDG_CACHE_HOME": f"{place}/cache"}
        for look in range(given.looks):
            command = [sys.executable, "-c", LOOK, str(folder)]
            found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            wall, cpu, fingerprint, count = found.stdout.split()
            print(f"look {look + 1}: {wall} s, {cpu} s of CPU; {count} images, fingerprint {fingerprint}", flush=True)


if __name__ == "__main__":
    main()
