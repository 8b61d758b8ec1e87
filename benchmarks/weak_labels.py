"""attar's own recipe on CIFAR-10, part by part and beside other methods, under labels of the same weak teachers.

    python benchmarks/weak_labels.py FOLDER --out runs/weak --images random attar lowest --ipc 10 --seeds 3

FOLDER holds CIFAR-10 as Parquet files. Teachers, students and protocol are those of attar/cifar10-ipc10; --epochs
changes how long students train. Accuracy is on the validation images, or with --held-out on a tenth of the training
images, which nothing is trained on: choose by that. Runs go on where they stopped, and share the teachers.
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

_LOWEST = {"patch_rule": "lowest", "patch_crops": 0}
_METHODS = ("cda", "sre2l", "fadrm", "edc", "cim", "gvbsm", "delt", "cvdd", "dwa")
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "lowest": ("rded", _LOWEST),
    "attar": ("attar", {}),
    "statistics": (
        "edc",
        {
            "learning_rate": 0.05,
            "observe": ("batchnorm",),
            "target": "running",
            "statistics_momentum": 0.0,
            "views_per_image": True,
            "bn_weight": 0.01,
        },
    ),
    "in-turn": ("attar", {"committee": "round-robin"}),
    "mean": ("attar", {"committee": "mean"}),
    "shared-views": ("attar", {"views_per_image": False}),
    "small-crops": ("attar", {"min_crop": 0.08}),
    "long": ("attar", {"iterations": 1000}),
    "noise": ("attar", {"start": "noise"}),
    "from-lowest": ("attar", {"start": "patches"} | _LOWEST),
    "rded": ("rded", {}),
    "herding": ("herding", {}),
    **{method: (method, {}) for method in _METHODS},
    "dm": ("dm", {"iterations": 100}),
}
"""Method and settings of each kind of images.

'attar' is the recipe, and those up to 'from-lowest' change one part of it. The rest are other methods with the default
settings of their files, and as many iterations as attar has in the recipe of this size; 'dm' always has 100, which take
longer than attar's thousand.
"""


def base(data: Path, ipc: int, epochs: int | None, seeds: int, held_out: bool) -> Recipe[Any]:
    """The recipe with the distilled row alone."""
    recipe = recipe_named(f"attar/cifar10-ipc{ipc}")
    protocol = recipe.evaluate.protocol
    epochs = epochs or protocol.training.epochs
    protocol = protocol.changed(training=protocol.training.changed(epochs=epochs))
    return recipe.changed(
        data=recipe.data.changed(source=str(data), validate_on="train" if held_out else "val"),
        relabel=recipe.relabel.changed(epochs=epochs),
        evaluate=recipe.evaluate.changed(protocol=protocol, num_seeds=seeds, rows=("distilled",)),
    )


def judged(recipe: Recipe[Any], way: str, teachers: Path, out: Path) -> Line:
    """Make the images of one kind and train students on them; the first line of the run's table."""
    method, settings = WAYS[way]
    if way in (*_METHODS, "statistics"):
        settings = settings | {"iterations": recipe.recover.iterations}
    members = [{"weights": str(teachers / str(place))} for place in range(len(recipe.squeeze.members))]
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(members=members)).with_method(method)
    return attar.run(recipe.changed(recover=recipe.recover.changed(**settings)), out).table[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each kind of images; exit code 2 when the command is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/weak"))
    parser.add_argument("--images", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--ipc", type=int, default=10, choices=(1, 10, 50))
    parser.add_argument("--epochs", type=int, help="of the students; by default the recipe's")
    parser.add_argument("--held-out", action="store_true", help="judge on training images that nothing is trained on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="file that the lines are added to")
    asked = parser.parse_args(arguments)
    try:
        recipe = base(asked.data, asked.ipc, asked.epochs, asked.seeds, asked.held_out)
        attar.run(recipe, asked.out / "teachers", stage="squeeze")
        for way in asked.images:
            epochs = recipe.evaluate.protocol.training.epochs
            folder = asked.out / f"{way}-ipc{asked.ipc}-{epochs}"
            line = judged(recipe, way, asked.out / "teachers" / "squeeze", folder)
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
