"""The campaign's steps: what is measured on a GPU, in the order of its worth. ``campaign.py`` runs them."""

import csv
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import attar
import cifar
import evaluate
import profiles
import recover
import relabel
from attar.core.errors import AttarError
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe
from attar.report.table import lines as report_lines
from attar.stages.run import Run
from attar.store import atomic
from attar.store import images as image_files
from blocks import main as blocks_main
from campaign import Campaign, Piece
from carried import TINY, chosen, score_files, shortened, summarised, teacher_files, train_teacher, with_teacher
from sides import ROWS, Sides, check, photographs, teacher_of

HERE = Path(__file__).parent
SLOTS = 10
"""Images per class that are recovered in one go: ``tiny-ipc50`` is five such slices, of which ``tiny-ipc10`` is the
first."""
WEAK_EPOCHS = 4
SIDE_BY_SIDE = 4
"""Units of 100 images that are recovered at once: one does not fill a large GPU."""
FAMILY_PROTOCOL, AT_ONCE = "edc", 2
"""The protocol of ``tiny-family``, and how many of its runs share the GPU: one decodes while another computes."""
PUBLISHED = {"tiny-ipc10": 43.0, "tiny-ipc50": 48.7}


# check


def gpu_tests(campaign: Campaign) -> dict[str, Any]:
    """The tests marked gpu; in a rehearsal one file of others."""
    chosen = ["-m", "not slow", "tests/synthesis/test_curriculum.py"] if campaign.dry else ["-m", "gpu", "tests"]
    spread = ["-n", "8", "--dist", "worksteal"] if find_spec("xdist") and not campaign.dry else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *spread, *chosen]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    campaign.say("\n".join(done.stdout.splitlines()[-40:]))
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    if not counts:
        raise AttarError(f"pytest said nothing of its tests: {done.stderr.strip()[-300:]}")
    return counts | {"failures": re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)}


def repeats(campaign: Campaign) -> dict[str, Any]:
    """The same unit in four processes, two of them in Inductor's deterministic mode; each compiles for itself."""
    row, iterations = ("rehearsal", 2) if campaign.dry else ("tiny-gpu", 50)
    quick = ["--quick", "--runs", "2"] if campaign.dry else []
    command = [sys.executable, str(HERE / "repeats.py"), "--row", row, "--iterations", str(iterations), *quick]
    found: dict[str, list[Any]] = {}
    for mode in ("usual", "deterministic"):
        for process in range(1 if campaign.dry else 2):
            with tempfile.TemporaryDirectory() as cache:
                chosen = {"TORCHINDUCTOR_CACHE_DIR": cache} | (
                    {"TORCHINDUCTOR_DETERMINISTIC": "1"} if mode == "deterministic" else {}
                )
                done = subprocess.run(command, env=os.environ | chosen, capture_output=True, text=True, check=False)
            if not done.stdout.strip():
                raise AttarError(f"repeats.py failed: {done.stderr.strip()[-500:]}")
            found.setdefault(mode, []).append(json.loads(done.stdout.splitlines()[-1]))
            campaign.say(f"    {mode}, process {process + 1}: {done.stdout.strip()}")
    values: dict[str, Any] = {"runs": found}
    for mode, processes in found.items():
        each = [set(process["pixels"]) for process in processes]
        values[f"{mode}: repeated in a process"] = all(len(pixels) == 1 for pixels in each)
        values[f"{mode}: same in both processes"] = len(set().union(*each)) == 1
    paces = {mode: min(process["ms_per_iteration"] for process in processes) for mode, processes in found.items()}
    return values | {"deterministic mode costs": f"{paces['deterministic'] / paces['usual'] - 1:+.1%}"}


def gradients(campaign: Campaign) -> dict[str, Any]:
    """What is compiled in bf16 against the plain loop in float32, on noise and on pictures."""
    row = ROWS["rehearsal" if campaign.dry else "cifar-gpu"]
    sides = Sides(row, teacher_of(row.network, row.num_classes, row.size, row.device), campaign.dry)
    sides.run("attar", 1)
    words = check(sides, photographs())
    for line in words:
        campaign.say(f"    {line}")
    return {"checks": words, "worst cosine": min(float(line.rsplit(" ", 1)[1]) for line in words)}


def digits(precision: str, campaign: Campaign) -> dict[str, Any]:
    """Accuracy of students on distilled digits, whose images were recovered in one precision; three seeds."""
    recipe = recipe_named("digits")
    how = {"precision": precision, "compile": "on" if precision == "bf16" and not campaign.dry else "off"}
    recipe = recipe.changed(
        recover=recipe.recover.changed(snapshots=()),
        evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=1),
        execution=recipe.execution.changed(device=campaign.device, **how),
    )
    if campaign.dry:
        recipe = shortened(recipe)
    accuracies = []
    for seed in range(1 if campaign.dry else 3):
        result = attar.run(recipe.changed(seed=seed), campaign.folder / f"digits-{precision}-{seed}", quiet=True)
        accuracies.append(result.table[0].top1_mean)
        campaign.say(f"    {precision}, seed {seed}: {accuracies[-1]:.1f} %")
    values = torch.tensor(accuracies)
    spread = float(values.std()) if len(values) > 1 else 0.0
    return {"top-1 %": round(float(values.mean()), 2), "std": round(spread, 2), "n": len(values), "each": accuracies}


# speed


def timed(script: str, row: str, campaign: Campaign) -> dict[str, Any]:
    """A row of a benchmark, as its own script measures it; in a rehearsal one for CPUs."""
    rehearsal = ("rehearsal" if script == "recover" else "data-32") if campaign.dry else ""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "lines.csv"
        short = ["--quick"] if campaign.dry else ["--alternations", "3"]
        arguments = ["--rows", rehearsal or row, "--csv", str(table), *short]
        if script == "recover":
            code = recover.main([*arguments, "--no-memory"])
        elif script == "relabel":
            code = blocks_main(relabel.__doc__ or "", relabel.ROWS, relabel.Relabelling, arguments)
        else:
            code = blocks_main(evaluate.__doc__ or "", evaluate.ROWS, evaluate.Training, arguments)
        if code:
            raise AttarError(f"{script}.py ended with exit code {code}; its words are above.")
        with table.open(newline="") as file:
            lines = list(csv.DictReader(file))
    plain = next(line for line in lines if line["side"] == "plain")
    return {"attar is faster": f"{float(plain['faster']):.1f}x", "lines": lines}


def profiled(campaign: Campaign) -> dict[str, Any]:
    """Kernels against launches, for a step of recover, of squeeze and of a student."""
    lines = profiles.main(["--quick"] if campaign.dry else ["--device", "cuda"])
    return {"steps": [vars(line) for line in lines]}


# Tiny-ImageNet


def tiny_recipe(campaign: Campaign, ipc: int, whole: bool = False) -> Recipe[Any]:
    """CDA's recipe at so many images per class, with the campaign's teacher."""
    return with_teacher(chosen(campaign, f"cda/tiny-imagenet-ipc{ipc}", TINY, whole), campaign.fetch("teacher"))


def tiny_slice(place: int, campaign: Campaign) -> dict[str, Any]:
    """Recover ten more images of every class."""
    recipe = tiny_recipe(campaign, 50)
    slots = 1 if campaign.dry else SLOTS
    units = 1 if campaign.dry else SIDE_BY_SIDE
    recipe = recipe.changed(
        recover=recipe.recover.changed(ipc_start=place * slots, ipc=(place + 1) * slots, parallel_units=units)
    )
    out = campaign.folder / f"slice-{place}"
    for stage in ("squeeze", "recover"):
        attar.run(recipe, out, stage=stage)
    made = Run(out).images
    return {"images": made.num_images, "seconds": made.elapsed.seconds}


def tiny_ipc10(campaign: Campaign) -> dict[str, Any]:
    """Label, train and judge the first slice."""
    return judged(campaign, [campaign.folder / "slice-0"])


def tiny_ipc50(campaign: Campaign) -> dict[str, Any]:
    """Label, train and judge all slices, the first of which is that of ``tiny-ipc10``."""
    slices = [campaign.fetch("tiny-ipc10") / "slice-0", *(campaign.folder / f"slice-{place}" for place in range(1, 5))]
    return judged(campaign, slices)


def judged(campaign: Campaign, slices: Sequence[Path]) -> dict[str, Any]:
    """Put slices together and judge them as one set of images, beside random real images under the same labels."""
    merged = campaign.folder / "merged"
    slots = 1 if campaign.dry else SLOTS
    classes = Run(slices[0]).images.classes
    rows = [row for each in slices for row in image_files.encoded(each / "recover" / "data")]
    image_files.write(merged, iter(rows), classes)
    recipe = tiny_recipe(campaign, 10 if len(slices) == 1 else 50)
    recipe = recipe.changed(images=str(merged), recover=recipe.recover.changed(ipc=slots * len(slices)))
    result = attar.run(recipe, campaign.folder / "judged")
    values = summarised(result.table, PUBLISHED[campaign.step])
    if campaign.dry:
        values["published"] = f"no result, for it is a rehearsal: {values['published']}"
    return values


def family_recipes(campaign: Campaign) -> dict[str, Recipe[Any]]:
    """Ten images per class by several methods, judged by one protocol; labels of one teacher, or of three weak ones."""
    base = tiny_recipe(campaign, 10, whole=True).with_protocol(FAMILY_PROTOCOL)
    base = base.changed(
        relabel=base.relabel.changed(mode="online"),
        evaluate=base.evaluate.changed(rows=("distilled",), num_seeds=1 if campaign.dry else 2),
    )
    images = str(campaign.fetch("tiny-ipc10") / "slice-0" / "recover" / "data")
    brief = {"training": {"epochs": WEAK_EPOCHS, "warmup_epochs": 1.0}, "weights": ""}
    weak = base.squeeze.changed(weights="", members=[brief] * 3)

    def made_by(method: str, **settings: Any) -> Recipe[Any]:
        recipe = base.with_method(method)
        if "iterations" in type(recipe.recover).model_fields:
            settings = {"parallel_units": SIDE_BY_SIDE, "accept_weak_teacher": True} | settings
        return recipe.changed(recover=recipe.recover.changed(**settings))

    found = {
        "random": made_by("random"),
        "rded": made_by("rded", patch_rule="lowest"),
        "cda": base.changed(images=images),
        "fadrm": made_by("fadrm", iterations=1000, block_sizes=(1.0, 1.0), learning_rate=0.01),
        "edc": made_by("edc"),
        "edc-brief": made_by("edc", iterations=200),
    }
    labelled_by_weak = ("random", "rded", "cda", "edc-brief")
    found |= {f"{name}, weak teachers": found[name].changed(squeeze=weak) for name in labelled_by_weak}
    if not campaign.dry:
        return found
    short = {name: shortened(found[name]) for name in ("random", "cda", "random, weak teachers")}
    return short | {"cda": short["cda"].changed(recover=short["cda"].recover.changed(ipc=1))}


def family(campaign: Campaign) -> dict[str, Any]:
    """Run the family side by side, several processes on one GPU; each goes on where it stopped."""
    waiting, running, values = family_recipes(campaign), dict[str, subprocess.Popen[str]](), dict[str, Any]()
    tables: dict[str, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                name = next(iter(waiting))
                running[name] = started(family_folder(campaign, name), waiting.pop(name))
            time.sleep(0.2)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                folder, code = family_folder(campaign, name), running.pop(name).returncode
                if code:
                    log = folder.with_suffix(".log").read_text().strip().splitlines()
                    values[name] = f"exit code {code}: {log[-1] if log else ''}"
                else:
                    lines = report_lines(folder)
                    values[name] = summarised(lines)["distilled"]
                    tables[name] = [vars(line) for line in lines]
                campaign.say(f"    {name}: {values[name]}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    failed = [name for name in values if name not in tables]
    if failed:
        raise AttarError(f"These runs failed, and go on in the next command: {'; '.join(failed)}.")
    return values | {"tables": tables}


def family_folder(campaign: Campaign, name: str) -> Path:
    """Where a run of the family lies; its settings and its log lie beside it."""
    return campaign.folder / name.replace(", ", "-").replace(" ", "-")


def started(folder: Path, recipe: Recipe[Any]) -> "subprocess.Popen[str]":
    """A process that runs the recipe and writes what it says beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    atomic.write_text(file, recipe.to_yaml())
    with folder.with_suffix(".log").open("a") as log:
        command = [sys.executable, "-m", "attar", "run", str(file), "--out", str(folder)]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)


def family_files(campaign: Campaign) -> list[Path]:
    """Scores and logs first, then images and units, then teachers."""
    runs = [run for run in sorted(campaign.folder.glob("*")) if run.is_dir()]
    found = [*sorted(campaign.folder.glob("*.log")), *(path for run in runs for path in score_files(run))]
    for run in runs:
        found += [path for path in sorted((run / "recover").rglob("*")) if path.is_file()]
    return found


def slice_files(campaign: Campaign) -> list[Path]:
    """Finished slices as images, the one under way as units; then scores and tables."""
    found: list[Path] = []
    for folder in sorted(campaign.folder.glob("slice-*")):
        done = Run(folder).is_done("recover")
        kept = ("recover/manifest.json", "recover/data/*") if done else ("recover/plan.json", "recover/units/*")
        found += [path for pattern in (*kept, "recover/log*.jsonl", "squeeze/*.json*") for path in folder.glob(pattern)]
    return found + score_files(campaign.folder / "judged")


STEPS: dict[str, list[Piece]] = {
    "check": [
        Piece("gpu tests", gpu_tests, 60.0),
        Piece("repeats", repeats, 120.0),
        Piece("gradients", gradients, 60.0),
        Piece("digits in float32", functools.partial(digits, "fp32"), 40.0),
        Piece("digits in bf16", functools.partial(digits, "bf16"), 60.0),
    ],
    "speed": [
        Piece("recover imagenet-gpu", functools.partial(timed, "recover", "imagenet-gpu"), 60.0),
        Piece("recover tiny-gpu", functools.partial(timed, "recover", "tiny-gpu"), 60.0, rehearsed=False),
        Piece("recover tiny-gpu-4", functools.partial(timed, "recover", "tiny-gpu-4"), 45.0, rehearsed=False),
        *(
            Piece(f"{script} {row}", functools.partial(timed, script, row), 45.0, rehearsed=row == "whole-gpu-224")
            for row in ("whole-gpu-224", "whole-gpu-64", "data-gpu-64")
            for script in ("relabel", "evaluate")
        ),
        Piece("recover cifar-gpu", functools.partial(timed, "recover", "cifar-gpu"), 45.0, rehearsed=False),
        Piece("profile", profiled, 90.0),
    ],
    "teacher": [Piece("squeeze", functools.partial(train_teacher, name="cda/tiny-imagenet-ipc50", dataset=TINY), 60.0)],
    "tiny-ipc10": [Piece("recover", functools.partial(tiny_slice, 0), 60.0), Piece("judge", tiny_ipc10, 60.0)],
    "tiny-ipc50": [
        *(Piece(f"recover {place}", functools.partial(tiny_slice, place), 60.0) for place in range(1, 5)),
        Piece("judge", tiny_ipc50, 60.0),
    ],
    "tiny-family": [Piece("runs", family, 120.0)],
    "cifar10": cifar.pieces("cifar10"),
    "cifar100": cifar.pieces("cifar100"),
}
FILES: dict[str, Callable[[Campaign], Sequence[Path]]] = {
    "teacher": teacher_files,
    "tiny-ipc10": slice_files,
    "tiny-ipc50": slice_files,
    "tiny-family": family_files,
    "cifar10": teacher_files,
    "cifar100": teacher_files,
}
