"""Accuracy against label bytes, and protocols side by side: one set of images, labelled and trained on in many ways.

    python benchmarks/ways.py labels results/tiny-imagenet-10-ipc10.yaml --out runs/ways --csv labels.csv \
        --figure labels.png --data.root FOLDER
    python benchmarks/ways.py protocols results/tiny-imagenet-10-ipc10.yaml --out runs/ways --csv protocols.csv ...
    python benchmarks/ways.py choose results/tiny-imagenet-10-ipc10.yaml --out runs/choose --csv choose.csv \
        --data.validate-on train ...

The teacher and the images are made once, in OUT/base. Every way is a run of attar in a folder of its own, so an
interrupted comparison goes on where it stopped; settings given beside these options go to every run. 'choose' varies
attar's own protocol one setting at a time; it is meant for images held out of the training split. Ways run ``--jobs``
at a time, each on one thread of a CPU or together on a GPU.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tables
from attar.stages.protocols import PROTOCOLS
from attar.stages.run import Run

Way = tuple[str, ...]


def labels_ways(epochs: int) -> dict[str, Way]:
    """Codecs and pools, for so many epochs of training."""

    def pool(part: int) -> Way:
        return ("--relabel.pool-epochs", str(max(1, round(epochs / part))))

    def top(k: int, *more: str) -> Way:
        return ("--relabel.codec.kind", "topk", "--relabel.codec.k", str(k), *more)

    eight, drop = ("--relabel.codec.values", "int8"), ("--relabel.codec.remainder", "drop")
    return {
        "fp16": (),
        "top 5": top(5),
        "top 5, rest dropped": top(5, *drop),
        "top 2 int8": top(2, *eight),
        "pool 10x": pool(10),
        "pool 20x": pool(20),
        "pool 40x": pool(40),
        "pool 10x, top 5": (*pool(10), *top(5)),
        "pool 10x, top 5 int8": (*pool(10), *top(5, *eight)),
        "pool 40x, top 2 int8": (*pool(40), *top(2, *eight)),
    }


def protocol_ways(epochs: int) -> dict[str, Way]:
    """Every protocol for this kind of images, all with as many epochs, or as published where ``epochs`` is 0.

    Those that train with AdamW come once more with Muon, whose steps are scaled to the size of AdamW's, at the same
    rate and decay.
    """
    names = ("cda", "sre2l", "tiny", "rded", "edc", "sre2l++", "rd3", "hard-label", "attar")
    same = ("--relabel.epochs", str(epochs), "--evaluate.protocol.training.epochs", str(epochs)) if epochs else ()
    ways = {name: ("--protocol", name, *same) for name in names}
    muon = ("--evaluate.protocol.training.optimizer", "muon")
    adamw = [name for name in names if PROTOCOLS[name].training.optimizer == "adamw"]
    return ways | {f"{name}, muon": (*ways[name], *muon) for name in adamw}


def choices(epochs: int) -> dict[str, Way]:
    """What attar's own protocol was before it was chosen, a batch of 25, with one setting changed at a time."""
    fixed = protocol_ways(epochs)["attar"]
    training, protocol = "--evaluate.protocol.training.", "--evaluate.protocol."
    changes: dict[str, Way] = {
        "as it is": (),
        "rate 0.002": (f"{training}learning-rate", "0.002"),
        "rate 0.004": (f"{training}learning-rate", "0.004"),
        "batch 10": (f"{training}batch-size", "10"),
        "batch 50": (f"{training}batch-size", "50"),
        "temperature 4": (f"{protocol}temperature", "4", "--relabel.codec.temperature", "4"),
        "crops from 0.25": ("--relabel.views.min-scale", "0.25"),
        "crops from 0.5": ("--relabel.views.min-scale", "0.5"),
        "mixup": ("--relabel.mix.kind", "mixup"),
        "unmixed": ("--relabel.mix.kind", "none"),
        "moving average 0.99": (f"{training}ema-decay", "0.99"),
        "stretch 2": (f"{training}cosine-stretch", "2"),
        "hard labels beside, 0.1": (f"{protocol}hard-weight", "0.1"),
        "squared error": (f"{protocol}loss", "mse"),
        "muon": (f"{training}optimizer", "muon"),
    }
    batch = (f"{training}batch-size", "25")
    return {name: (*fixed, *change, *(() if batch[0] in change else batch)) for name, change in changes.items()}


@dataclass(frozen=True)
class Line:
    """One student."""

    comparison: str
    way: str
    seed: int
    top1: float
    """Fraction of real validation images."""
    ece: float
    label_bytes: int
    image_bytes: int
    train_seconds: float
    settings: str


def attar(stage: str, recipe: str, out: Path, options: Sequence[str], environment: dict[str, str]) -> None:
    """Run one stage; its output goes beside its folder."""
    command = [sys.executable, "-m", "attar", stage, recipe, "--out", str(out), *options]
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{stage}.txt").open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(out / f'{stage}.txt').read_text()[-2000:]}")


def run_way(name: str, way: Way, asked: argparse.Namespace, more: Sequence[str]) -> list[Line]:
    """Label and evaluate in one way, and read what came out."""
    out = asked.out / asked.comparison / name.replace(" ", "-").replace(",", "").replace("+", "p")
    for stage in ("squeeze", "recover"):
        if not (out / stage).exists():
            shutil.copytree(asked.out / "base" / stage, out / stage)
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if asked.jobs > 1 else {})
    rows = ("--evaluate.rows", "distilled", "--evaluate.num-seeds", str(asked.seeds))
    options = [*more, *way, *rows]
    attar("relabel", asked.recipe, out, options, environment)
    attar("evaluate", asked.recipe, out, options, environment)
    scores = Run(out).scores.scores
    found = [
        Line(
            comparison=asked.comparison,
            way=name,
            seed=score.seed,
            top1=round(score.top1, 4),
            ece=round(score.ece, 4),
            label_bytes=score.label_bytes,
            image_bytes=score.image_bytes,
            train_seconds=score.seconds,
            settings=" ".join(way),
        )
        for score in scores
        if not score.diverged
    ]
    if len(found) < len(scores):
        print(f"{name:<24} {len(scores) - len(found)} of {len(scores)} trainings diverged and are left out", flush=True)
    print(f"{name:<24} {summary(found)}", flush=True)
    return found


def summary(lines: Sequence[Line]) -> str:
    """Accuracy over seeds, and bytes."""
    if not lines:
        return "no training ended in numbers"
    top1 = [100 * line.top1 for line in lines]
    spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    return f"{statistics.fmean(top1):.1f}{spread} %, n = {len(top1)}, {lines[0].label_bytes:,} bytes of labels"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Accuracy against label bytes, a point a way with its spread over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for way in dict.fromkeys(line.way for line in lines):
        own = [line for line in lines if line.way == way]
        top1 = [100 * line.top1 for line in own]
        spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
        size = own[0].label_bytes / 1e3
        axis.errorbar(size, statistics.fmean(top1), yerr=spread, fmt="o", capsize=3, color="tab:blue")
        axis.annotate(way, (size, statistics.fmean(top1)), xytext=(5, 5), textcoords="offset points", fontsize=8)
    images = lines[0].image_bytes / 1e3
    axis.axvline(images, color="grey", linewidth=0.8, linestyle=":")
    axis.annotate("bytes of images", (images, axis.get_ylim()[0]), rotation=90, fontsize=7, color="grey")
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_xlabel("label bytes, kB")
    axis.set_ylabel(f"top-1 %, mean ± standard deviation, n = {max(line.seed for line in lines) + 1}")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=("labels", "protocols", "choose"))
    parser.add_argument("recipe", help="a recipe's name or file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--csv", type=Path, help="file for the table, a line a student")
    parser.add_argument("--figure", type=Path, help="file for the curve of accuracy against label bytes")
    parser.add_argument("--epochs", type=int, default=100, help="of students; 0: each protocol's own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="ways at a time")
    parser.add_argument("--ways", nargs="+", help="only these")
    asked, more = parser.parse_known_args()
    if asked.comparison == "labels" and not asked.epochs:
        parser.error("'labels' needs --epochs, for pools are parts of them")
    plain = dict(os.environ)
    for stage in ("squeeze", "recover"):
        attar(stage, asked.recipe, asked.out / "base", more, plain)
    if asked.comparison == "labels":
        more += ["--relabel.epochs", str(asked.epochs), "--evaluate.protocol.training.epochs", str(asked.epochs)]
    ways = {"labels": labels_ways, "protocols": protocol_ways, "choose": choices}[asked.comparison](asked.epochs)
    wanted = {name: way for name, way in ways.items() if not asked.ways or name in asked.ways}
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = list(pool.map(lambda name: run_way(name, wanted[name], asked, more), wanted))
    lines = [line for each in found for line in each]
    if asked.csv:
        tables.write_csv(asked.csv, Line, lines)
    if asked.figure:
        draw(lines, asked.figure)


if __name__ == "__main__":
    main()
