"""A whole run on 10,450 classes, as ImageNet-21K-P has: seconds, processor seconds and peak memory of every stage.

    python benchmarks/many_classes.py --classes 1045 10450 --out FOLDER

Pictures are made up (a colour and a pattern per class, with noise), 16 pixels wide, in a folder per class. What is
measured is everything that grows with the number of classes: the listing, units, labels, tables and pages. Each stage
is a command of its own, as a user types it; one that is done is not run again. With two numbers of classes, `growth`
is the exponent p in seconds ~ classes^p between them.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

import tables
from attar.core.device import Execution, resolve
from attar.stages.folder import versions

RECIPE = "cda/imagenet-21k-ipc10"
SIDE, NUM_TRAIN, NUM_VALIDATION = 16, 4, 1
SETTINGS = {
    "data.size": "16",
    "data.resize": "none",
    "squeeze.architecture": "convnet2",
    "squeeze.training.epochs": "3",
    "squeeze.training.optimizer": "sgd",
    "squeeze.training.schedule": "cosine",
    "squeeze.training.decay-norms": "yes",
    "squeeze.training.batch-size": "128",
    "squeeze.training.learning-rate": "0.05",
    "squeeze.training.warmup-epochs": "0",
    "recover.ipc": "2",
    "recover.iterations": "10",
    "recover.snapshots": "5",
    "recover.jitter": "2",
    "recover.accept-weak-teacher": "yes",
    "relabel.epochs": "2",
    "relabel.codec.kind": "topk",
    "evaluate.protocol.training.epochs": "2",
    "evaluate.protocol.training.batch-size": "128",
    "evaluate.students": "convnet2",
    "evaluate.num-seeds": "1",
    "evaluate.rows": "distilled,random-soft,herding-soft,kcentre-soft",
    "execution.threads": "1",
}
ONLY_CDA = ("recover.iterations", "recover.snapshots", "recover.jitter", "recover.accept-weak-teacher")


@dataclass(frozen=True)
class Line:
    """What one command took."""

    classes: int
    stage: str
    seconds: float
    processor_seconds: float
    peak_mib: float
    growth: str = ""

    def cells(self) -> list[str]:
        """What the table shows of it."""
        numbers = (f"{self.seconds:.1f}", f"{self.processor_seconds:.1f}", f"{self.peak_mib:,.0f}")
        return [f"{self.classes:,}", self.stage, *numbers, self.growth]


def picture(label: int, draws: np.random.Generator) -> Image.Image:
    """Make up a picture of the class: waves whose direction, length and colour are the class's own."""
    own = np.random.default_rng(label)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.sin(2 * math.pi * (own.uniform(0.5, 3) * rows + own.uniform(0.5, 3) * columns) + draws.uniform(0, 1))
    pixels = own.uniform(60, 200, 3) + own.uniform(-55, 55, 3) * waves[..., None] + draws.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_pictures(folder: Path, num_classes: int) -> None:
    """Write train/ and val/ with a folder per class, unless they are there whole."""
    if (folder / "whole").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    draws = np.random.default_rng(0)
    for label in range(num_classes):
        for part, count in (("train", NUM_TRAIN), ("val", NUM_VALIDATION)):
            place = folder / "pictures" / part / f"n{label:08d}"
            place.mkdir(parents=True)
            for number in range(count):
                picture(label, draws).save(place / f"{number}.png")
    (folder / "whole").touch()


def flags(source: Path, method: str) -> list[str]:
    """Return the settings as the command line takes them; those of CDA only with its own method."""
    taken = {key: value for key, value in SETTINGS.items() if method == "cda" or key not in ONLY_CDA}
    words = ["--data.source", str(source)]
    for key, value in taken.items():
        words += [f"--{key}", *value.split(",")]
    return words if method == "cda" else [*words, "--method", method]


def command(words: list[str], log: Path) -> tuple[float, float, float]:
    """Run attar; return seconds, processor seconds, and the peak of the memory of its process in MiB."""
    begun = time.perf_counter()
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "attar", *words],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"attar {words[0]} ended with {process.returncode}; its output is in {log}.")
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def stages(folder: Path) -> list[tuple[str, list[str]]]:
    """Return every command of the run by its name, in order."""
    source, run = folder / "pictures", folder / "run"
    own = [RECIPE, "--out", str(run), *flags(source, "cda")]
    found = [(verb, [verb, *own]) for verb in ("squeeze", "recover", "relabel", "evaluate")]
    chosen = [
        (f"recover, {method}", ["recover", RECIPE, "--out", str(folder / method), *flags(source, method)])
        for method in ("herding", "kcentre")
    ]
    again = ("run, when finished", ["run", *own])
    page = ("report with page", ["report", str(run), "--out", str(folder / "page"), "--csv", str(folder / "table.csv")])
    return [*found, again, page, *chosen]


def measured(folder: Path, num_classes: int) -> list[Line]:
    """Run what is not yet measured; each stage's line is kept in FOLDER/lines.json as soon as it is known."""
    make_pictures(folder, num_classes)
    kept = folder / "lines.json"
    lines = [Line(**line) for line in json.loads(kept.read_text())] if kept.exists() else []
    known = {line.stage for line in lines}
    for stage, words in stages(folder):
        if stage in known:
            continue
        out = Path(words[words.index("--out") + 1])
        if stage.startswith("recover, "):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(folder / "run" / "squeeze", out / "squeeze")
        seconds, processor, peak = command(words, folder / "log.txt")
        lines.append(Line(num_classes, stage, round(seconds, 1), round(processor, 1), round(peak)))
        kept.write_text(json.dumps([asdict(line) for line in lines]))
        print(f"{num_classes:,} classes, {stage}: {seconds:.0f} s, {peak:,.0f} MiB", flush=True)
    return lines


def grown(lines: list[Line], line: Line) -> Line:
    """Return the line with the exponent between it and the one of the fewest classes, by processor seconds."""
    least = min((other for other in lines if other.stage == line.stage), key=lambda other: other.classes)
    if least.classes == line.classes:
        return line
    exponent = math.log(line.processor_seconds / least.processor_seconds) / math.log(line.classes / least.classes)
    return replace(line, growth=f"{exponent:.2f}")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[1045, 10450])
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and runs; kept, to go on")
    parser.add_argument("--csv", type=Path, help="file for the table")
    asked = parser.parse_args()
    machine = resolve(Execution(threads=1)).describe()
    print(f"{machine}, torch {versions()['torch']}, {datetime.date.today()}{tables.load()} before", flush=True)
    lines = [line for count in asked.classes for line in measured(asked.out / str(count), count)]
    lines = [grown(lines, line) for line in lines]
    table = tables.Table({"classes": 7, "command": 18, "seconds": 7, "processor": 9, "peak MiB": 8, "growth": 6})
    for count in asked.classes:
        table.add([line for line in lines if line.classes == count])
    if asked.csv:
        tables.write_csv(asked.csv, Line, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
