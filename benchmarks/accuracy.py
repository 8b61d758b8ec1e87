"""What precision, compilation and smaller views do to accuracy: images recovered in several ways from one teacher.

    python benchmarks/accuracy.py digits --out runs/digits-accuracy --students 3
    python benchmarks/accuracy.py results/tiny-imagenet-10-ipc10.yaml --out runs/tiny --short --one-teacher \
        --data.root FOLDER

Every way and seed is a run of attar in a folder of its own, so an interrupted comparison goes on where it stopped; what
is given beside these options goes to every run. Prints lines of CSV.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from attar.stages.run import Run

WAYS = {
    "fp32": ["--execution.precision", "fp32", "--execution.compile", "off"],
    "bf16-compiled": ["--execution.precision", "bf16", "--execution.compile", "on"],
    "bf16-compiled-half-views": [
        *("--execution.precision", "bf16", "--execution.compile", "on"),
        *("--recover.view-sizes", "0.5", "1.0"),
    ],
}
SHORT = [
    *("--recover.parallel-units", "10", "--recover.iterations", "500"),
    *("--recover.image-format", "png", "--recover.rounding", "nearest"),
    *("--squeeze.training.epochs", "15", "--relabel.epochs", "150"),
    *("--evaluate.protocol.training.epochs", "150"),
]
"""What the ten Tiny-ImageNet classes were compared with, to fit into an hour of two cores."""


def attar(stage: str, recipe: str, out: Path, *options: str) -> None:
    """Run one stage; ends the comparison when it fails."""
    done = subprocess.run([sys.executable, "-m", "attar", stage, recipe, "--out", str(out), *options])
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe's name or file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["fp32", "bf16-compiled"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one-teacher", action="store_true", help="that of seed 0 for all seeds")
    parser.add_argument("--short", action="store_true", help="fewer iterations and epochs, ten units side by side")
    parser.add_argument("--students", type=int, default=1, help="of every run")
    asked, more = parser.parse_known_args()
    rows = ["--evaluate.rows", "distilled", "--evaluate.num-seeds", str(asked.students)]
    options = [*(SHORT if asked.short else []), *rows, *more]
    print("way,seed,student,top1", flush=True)
    for seed in range(asked.seeds):
        whose = 0 if asked.one_teacher else seed
        teacher = asked.out / f"teacher-{whose}"
        attar("squeeze", asked.recipe, teacher, *options, "--seed", str(whose))
        for way in asked.ways:
            out = asked.out / f"{way}-{seed}"
            if not out.exists():
                shutil.copytree(teacher / "squeeze", out / "squeeze")
            own = [*options, "--seed", str(seed)]
            attar("recover", asked.recipe, out, *own, *WAYS[way])
            attar("relabel", asked.recipe, out, *own)
            attar("evaluate", asked.recipe, out, *own)
            for score in (score for score in Run(out).accuracies if not score.diverged):
                print(f"{way},{seed},{score.seed},{score.top1:.4f}", flush=True)


if __name__ == "__main__":
    main()
