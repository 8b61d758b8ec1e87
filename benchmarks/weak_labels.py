"""Images under labels of weak teachers on CIFAR-10: chosen and briefly optimised photographs against random ones.

    python benchmarks/weak_labels.py FOLDER --out runs/weak --images random lowest brief --ipc 10 --epochs 300 --seeds 3

FOLDER holds CIFAR-10 as Parquet files. Teachers are three ConvNets of width 64, trained for six, six and one epoch;
students are the same network, with labels made during training. Accuracy is on images held out of the training split.
Runs go on where they stopped, and share the teachers.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import attar
from attar.core.errors import AttarError
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe
from attar.report.table import Line

NETWORK = "convnet3_w64"
TEACHER_EPOCHS = (6, 6, 1)
_CHOSEN = {"patch_rule": "lowest", "patch_crops": 0}
_BRIEF = {
    "iterations": 100,
    "observe": ("batchnorm",),
    "target": "running",
    "statistics_momentum": 0.0,
    "views_per_image": True,
    "min_crop": 0.5,
    "bn_weight": 0.01,
    "learning_rate": 0.05,
    "image_format": "png",
    "rounding": "nearest",
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "lowest": ("rded", _CHOSEN),
    "brief": ("edc", {"start": "real"} | _BRIEF),
    "brief-lowest": ("edc", {"start": "patches"} | _CHOSEN | _BRIEF),
}
"""Method and settings of each kind of images."""


def base(data: Path, epochs: int, seeds: int) -> Recipe[Any]:
    """EDC's recipe for CIFAR-10 with the weak teachers, and with labels made while students train."""
    recipe = recipe_named("edc/cifar10-ipc10")
    training = {
        "batch_size": 128,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "weight_decay": 5e-4,
        "warmup_epochs": 0.5,
    }
    teachers = {
        "architecture": NETWORK,
        "training": {"epochs": 6} | training,
        "views": {"crop": "padded"},
        "members": [{"training": {"epochs": count}} for count in TEACHER_EPOCHS],
    }
    protocol = recipe.evaluate.protocol
    protocol = protocol.changed(training=protocol.training.changed(epochs=epochs))
    judging = recipe.evaluate.changed(protocol=protocol, students=(NETWORK,), num_seeds=seeds, rows=("distilled",))
    return recipe.changed(
        data=recipe.data.changed(source=str(data), validate_on="train", resident="on"),
        squeeze=teachers,
        relabel=recipe.relabel.changed(mode="online", epochs=epochs),
        evaluate=judging,
    )


def judged(recipe: Recipe[Any], way: str, ipc: int, teachers: Path, out: Path) -> Line:
    """Make the images of one kind and train students on them; the first line of the run's table."""
    method, settings = WAYS[way]
    members = [{"weights": str(teachers / str(place))} for place in range(len(TEACHER_EPOCHS))]
    recipe = recipe.changed(squeeze={"architecture": NETWORK, "members": members}).with_method(method)
    settings = {"ipc": ipc, "unit_classes": 10, "unit_slots": ipc, "parallel_units": 1} | settings
    return attar.run(recipe.changed(recover=recipe.recover.changed(**settings)), out).table[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each kind of images; exit code 2 when the command is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/weak"))
    parser.add_argument("--images", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="file that the lines are added to")
    asked = parser.parse_args(arguments)
    try:
        recipe = base(asked.data, asked.epochs, asked.seeds)
        attar.run(recipe, asked.out / "teachers", stage="squeeze")
        for way in asked.images:
            folder = asked.out / f"{way}-ipc{asked.ipc}-{asked.epochs}"
            line = judged(recipe, way, asked.ipc, asked.out / "teachers" / "squeeze", folder)
            spread = "" if line.top1_std is None else f" ± {line.top1_std:.1f}"
            print(f"{way:<14} {line.top1_mean:.1f}{spread} (n = {line.num_seeds})", flush=True)
            if asked.csv:
                add(asked.csv, asdict(line) | {"run": folder.name})
    except AttarError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def add(path: Path, values: dict[str, Any]) -> None:
    """Add a line to a CSV file, which is begun where there is none."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, values)
        if new:
            writer.writeheader()
        writer.writerow(values)


if __name__ == "__main__":
    sys.exit(main())
