"""Class-incremental learning from a distilled set: classes come in steps, a student is retrained on all seen so far.

    python examples/continual.py digits --out runs/continual
    python examples/continual.py runs/tiny --steps 5 10 --seeds 3 --out runs/tiny-continual --data.root FOLDER
    torchrun --nproc-per-node 2 examples/continual.py ...      trainings shared among processes

The first argument is a recipe (a name or a YAML file), whose run is made in OUT/run, or the folder of a finished run.
Settings of the recipe may follow, as for 'attar run'; beside a finished run only those that make none of it anew:
--evaluate.*, --execution.*, --data.root, --data.source. The student is the first of --evaluate.students, trained as
the evaluation protocol says, for --epochs epochs.

The setting is GDumb's (Prabhu et al., 2020), as in section 3.7 of SRe2L (Yin et al., 2023, arXiv 2306.13092): a memory
holds the images of the classes seen so far; after each step a student with one output a seen class is trained on that
memory from scratch, and tested on the real validation images of the seen classes. Nothing of earlier students is kept.

What a soft label means when only some classes are seen:

- The labels that come with a distilled set cannot be used as they are. They spread over all classes, and most of their
  records mix an image with one of a class that is yet to come: such a view shows pixels that nobody may know, and
  leaving those records out would leave one in ten at the first of ten steps.
- So every step labels its memory anew: views are drawn among the seen images alone, mixing partners too, and the run's
  teacher answers to each view during training. Of its logits those of the seen classes are taken before the softmax,
  so that a target sums to 1 over the seen classes, in the teacher's own proportions.
- Old images keep no label. When classes are added, an image is asked about again: its logits for the old classes are
  what they were for the same view, the new classes get their share, and its partners may be of new classes.
- Held beside the images is therefore the teacher: its bytes are the labels' bytes here.

The teacher has seen all classes from the start, and the distilled images were made to fit its statistics. That is the
published setting, and it is kinder than a stream of which nothing is known; the rows compare memories, all with the
same teacher, and random real images with hard labels need none.
"""

import argparse
import csv
import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor, nn

import attar
from attar.core import ranks, work
from attar.core.config import Config, digest
from attar.core.log import Advance, Log
from attar.core.randomness import generator
from attar.models import build, teacher
from attar.models.teacher import Teacher
from attar.ops import replay
from attar.ops.pixels import Normalisation, from_bytes
from attar.ops.targets import Targets
from attar.recipes.arguments import with_settings
from attar.report.table import percent, readable_bytes
from attar.stages import scores
from attar.stages.label_choice import Relabel
from attar.stages.protocols import Protocol
from attar.stages.run import teacher_folders, teacher_in
from attar.stages.workspace import Workspace
from attar.store import atomic, images
from attar.training.loop import TrainingBatch, fit

ROWS = {
    "distilled": "distilled, soft labels",
    "random-soft": "random real, soft labels",
    "random-hard": "random real, hard labels",
}
TEACHER = "teacher"
TITLES = {**ROWS, TEACHER: "the teacher itself, seen classes only"}


@dataclass(frozen=True)
class Memory:
    """Images that are kept for training, on the device."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, " image"]
    """On the CPU: each image's place among the classes of the memory."""
    num_bytes: Int[Tensor, " image"]
    """Of each image as it is stored."""

    def of(self, seen: tuple[int, ...]) -> "Memory":
        """What it holds of the seen classes; a label is now the class's place among them."""
        place = places_of(seen)
        chosen = torch.tensor([index for index, label in enumerate(self.labels.tolist()) if label in place])
        labels = torch.tensor([place[label] for label in self.labels[chosen].tolist()])
        return Memory(self.images[chosen.to(self.images.device)], labels, self.num_bytes[chosen])


@dataclass(frozen=True)
class Line:
    """One line of the table: a memory after a step; accuracy is per cent of the seen classes' validation images."""

    steps: int
    step: int
    num_classes: int
    """Seen so far."""
    row: str
    top1_mean: float
    top1_std: float | None
    """Sample standard deviation over seeds; None for a single training."""
    num_seeds: int
    num_images: int
    image_bytes: int
    """As stored; mean over seeds."""
    label_bytes: int
    """Of the teacher, which gives the soft labels."""


@dataclass(frozen=True)
class Average:
    """Average incremental accuracy (Rebuffi et al., 2017): mean over steps of the accuracy after each, in per cent."""

    steps: int
    row: str
    top1_mean: float
    top1_std: float | None
    num_seeds: int


class Continual:
    """One comparison: a finished run, its real data, and how students are trained."""

    def __init__(self, recipe: attar.Recipe[Any], run: Path, out: Path, epochs: int, quiet: bool) -> None:
        self.space = Workspace(out, recipe.seed, recipe.data, recipe.execution, Log(quiet=quiet))
        self.device = self.space.device.device
        self.distilled = attar.load(run / "distilled")
        folders = teacher_folders(run / "squeeze")
        if not folders:
            raise attar.AttarError(f"{run} has no teacher, which labels the memory here; make a run with soft labels.")
        self.teacher = teacher.load(folders[0])
        self.teacher.module.to(self.device)
        self.teacher_sha256 = teacher_in(folders[0]).weights_sha256
        self.teacher_bytes = (folders[0] / teacher.WEIGHTS).stat().st_size
        self.recipe = recipe
        protocol = recipe.evaluate.protocol
        self.protocol = protocol.changed(training=protocol.training.changed(epochs=epochs))

    def memory(self, row: str, seed: int) -> Memory:
        """All images of a row: the distilled ones, or as many real ones of each class, drawn anew for each seed."""
        pixels, labels = self.distilled.images, self.distilled.labels
        if row != "distilled":
            real, counts = self.space.train, torch.bincount(labels, minlength=len(self.distilled.classes))
            chosen = []
            for label, name in enumerate(self.distilled.classes):
                places = np.flatnonzero(real.labels == label)
                order = torch.randperm(len(places), generator=generator(seed, "continual", "random real", name))
                chosen.extend(places[order[: int(counts[label])].numpy()].tolist())
            pixels, labels = real.take(chosen), torch.from_numpy(real.labels[chosen])
        how = self.recipe.recover
        stored = [images.encode(image, how.image_format, how.image_quality) for image in pixels]
        pixels = torch.stack([images.decode(image) for image in stored])  # which loses some, and for all rows alike
        return Memory(pixels.to(self.device), labels, torch.tensor([len(image) for image in stored]))

    def restricted(self, seen: tuple[int, ...]) -> Teacher:
        """The teacher, answering with the logits of the seen classes alone, in their order."""
        return teacher.aligned(self.teacher, [self.distilled.classes[label] for label in seen])

    def accuracy(self, logits: Callable[[Tensor], Tensor], seen: tuple[int, ...]) -> float:
        """Top-1 on the real validation images of the seen classes, a fraction; a logit is a place among ``seen``."""
        return teacher.accuracy(logits, self.validation(seen))[0]

    def real_size(self, seen: tuple[int, ...]) -> tuple[int, int]:
        """How many real training images there are of the seen classes, and their bytes, in proportion."""
        train = self.space.real.train
        count = int(np.isin(train.labels, seen).sum())
        return count, train.num_bytes() * count // len(train)

    def validation(self, seen: tuple[int, ...]) -> Iterator[tuple[Float[Tensor, "image 3 height width"], Tensor]]:
        """The real validation images of the seen classes, in [0, 1], with the classes' places among ``seen``."""
        place = places_of(seen)
        chosen = [index for index, label in enumerate(self.space.val.labels.tolist()) if label in place]
        for start in range(0, len(chosen), 256):
            part = chosen[start : start + 256]
            labels = torch.tensor([place[label] for label in self.space.val.labels[part].tolist()])
            yield from_bytes(self.space.val.take(part).to(self.device)), labels

    def student(self, row: str, memory: Memory, seen: tuple[int, ...], seed: int) -> nn.Module:
        """A student trained from scratch on a memory of the seen classes; it has one output for each."""
        evaluate, size = self.recipe.evaluate, self.distilled.info.size
        network = build.build(evaluate.students[0], len(seen), size, stem=evaluate.student_stem, seed=seed)
        network.to(self.device)
        hard = row == "random-hard"
        restricted = None if hard else self.restricted(seen)
        fit(
            network,
            self.distilled.normalisation,
            lambda epoch: batches(memory, restricted, self.recipe.relabel, self.protocol, seed, epoch),
            lambda logits, targets: self.protocol.value(logits, targets, hard),
            self.protocol.training,
            len(memory.images),
            self.space.device.autocast,
            lambda epoch: None,
        )
        return network

    def score(self, row: str, memory: Memory, seen: tuple[int, ...], seed: int) -> float:
        """The accuracy after a step, from a file where this training is done already."""
        if len(seen) == 1:
            return 1.0  # a single answer is always right
        path = self.score_path(row, seen, seed)
        if not path.is_file():
            network = self.student(row, memory, seen, seed)
            top1 = self.accuracy(predictor(network, self.distilled.normalisation), seen)
            names = [self.distilled.classes[label] for label in seen]
            atomic.write_json(path, {"row": row, "classes": names, "seed": seed, "top1": top1})
        return json.loads(path.read_text())["top1"]

    def score_path(self, row: str, seen: tuple[int, ...], seed: int) -> Path:
        """The file of a training's accuracy, named after all that it depends on."""
        info = self.distilled.info
        names = [self.distilled.classes[label] for label in seen]
        depends = [
            row,
            seed,
            names,
            scores.data_of(self.space, Config.identity),
            self.space.real.fingerprint,
            self.space.device.precision,
        ]
        views, mix = self.recipe.relabel.views.identity(), self.recipe.relabel.mix.identity()
        depends += [info.images_sha256, self.teacher_sha256, self.protocol.identity(), views, mix]
        depends += [self.recipe.evaluate.students[0], self.recipe.evaluate.student_stem]
        return self.space.out / "scores" / f"{row}-{len(seen)}-seed{seed}-{digest(depends)[:8]}.json"


def batches(
    memory: Memory, restricted: Teacher | None, relabel: Relabel, protocol: Protocol, seed: int, epoch: int
) -> Iterator[TrainingBatch]:
    """One epoch: each image once, in a fresh view, mixed with others of the memory, with targets over its classes.

    ``restricted`` answers for the classes of the memory and no others; without it the targets hold classes only.
    """
    size = (memory.images.shape[2], memory.images.shape[3])
    draws = generator(seed, "continual", "epoch", epoch)
    records = replay.draw(len(memory.images), size, relabel.views, relabel.mix, draws)
    mix = records.mix
    order = torch.randperm(len(memory.images), generator=draws)
    for index in order.split(protocol.training.batch_size):
        shown = replay.show(memory.images, index, records)
        with torch.no_grad():
            logits = None if restricted is None else restricted.logits(shown)
        partners, weight = None, None
        if mix is not None:
            partners, weight = memory.labels[mix.partner[index]].to(shown.device), mix.weight[index].to(shown.device)
        yield shown, Targets(memory.labels[index].to(shown.device), partners, weight, logits)


def predictor(network: nn.Module, normalisation: Normalisation) -> Callable[[Tensor], Tensor]:
    """The network's logits for images in [0, 1]."""
    return lambda shown: network(normalisation.apply(shown)).float()


def places_of(seen: tuple[int, ...]) -> dict[int, int]:
    """Each seen class with its place among them."""
    return {label: place for place, label in enumerate(seen)}


def seen_after(num_classes: int, num_steps: int, order_seed: int) -> list[tuple[int, ...]]:
    """The classes seen after each step, in the order of their coming; raises AttarError when there are too few."""
    if not 1 <= num_steps <= num_classes:
        raise attar.AttarError(f"{num_classes} classes cannot come in {num_steps} steps; use --steps {num_classes}.")
    order = torch.randperm(num_classes, generator=generator(order_seed, "continual", "class order"))
    ends = np.cumsum([len(part) for part in np.array_split(order.numpy(), num_steps)])
    return [tuple(order[:end].tolist()) for end in ends]


def compare(continual: Continual, num_steps: int, num_seeds: int, order_seed: int) -> tuple[list[Line], list[Average]]:
    """The tables of one number of steps; steps that see the same classes share their trainings."""
    stages = seen_after(len(continual.distilled.classes), num_steps, order_seed)
    lines, averages = [], []
    for row in ROWS:
        top1, held = np.zeros((num_seeds, num_steps)), np.zeros((num_seeds, num_steps, 2), dtype=np.int64)
        for number in range(num_seeds):
            seed = continual.space.seed * 1000 + number
            memory = continual.memory(row, seed)
            for step, seen in enumerate(stages):
                kept = memory.of(seen)
                top1[number, step] = continual.score(row, kept, seen, seed)
                held[number, step] = len(kept.images), int(kept.num_bytes.sum())
        label_bytes = 0 if row == "random-hard" else continual.teacher_bytes
        lines += [_line(stages, step, row, top1, held, label_bytes) for step in range(num_steps)]
        averages.append(Average(num_steps, row, *spread(top1.mean(axis=1)), num_seeds))
    top1 = np.array([[continual.accuracy(continual.restricted(seen).logits, seen) for seen in stages]])
    held = np.array([[continual.real_size(seen) for seen in stages]])
    lines += [_line(stages, step, TEACHER, top1, held, 0) for step in range(num_steps)]
    averages.append(Average(num_steps, TEACHER, *spread(top1.mean(axis=1)), 1))
    return lines, averages


def train(continual: Continual, numbers_of_steps: Sequence[int], num_seeds: int, order_seed: int) -> None:
    """Every training that no file knows yet; torchrun's processes share them."""
    num_classes = len(continual.distilled.classes)
    stages = dict.fromkeys(
        seen for num_steps in numbers_of_steps for seen in seen_after(num_classes, num_steps, order_seed)
    )

    def score(row: str, number: int, seen: tuple[int, ...], advance: Advance) -> None:
        seed = continual.space.seed * 1000 + number
        top1 = continual.score(row, continual.memory(row, seed).of(seen), seen, seed)
        advance(note=f"{row} seed {number}, {len(seen)} classes: {top1:.1%}")

    jobs = []
    for row in ROWS:
        for number in range(num_seeds):
            for seen in stages:
                if len(seen) == 1:  # needs no training
                    continue
                path = continual.score_path(row, seen, continual.space.seed * 1000 + number)
                run = functools.partial(score, row, number, seen)
                jobs.append(work.Job(path.stem, run, lambda path=path: path.is_file()))
    work.do(jobs, continual.space.log, "trainings", results="trainings")


def _line(
    stages: list[tuple[int, ...]], step: int, row: str, top1: np.ndarray, held: np.ndarray, label_bytes: int
) -> Line:
    num_images, image_bytes = held[:, step].mean(axis=0).round().astype(int).tolist()
    mean, std = spread(top1[:, step])
    seen = len(stages[step])
    return Line(len(stages), step + 1, seen, row, mean, std, len(top1), num_images, image_bytes, label_bytes)


def spread(fractions: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation in per cent."""
    values = 100 * fractions
    return round(float(values.mean()), 2), round(float(values.std(ddof=1)), 2) if len(values) > 1 else None


def figure(lines: list[Line]) -> Figure:
    """Accuracy over the classes seen, one panel for each number of steps; bars are standard deviations."""
    numbers = list(dict.fromkeys(line.steps for line in lines))
    drawn = Figure(figsize=(4.6 * len(numbers), 4.2), layout="constrained")
    panels = drawn.subplots(1, len(numbers), squeeze=False, sharey=True)[0]
    for panel, steps in zip(panels, numbers, strict=True):
        for row, style in zip(TITLES, ("o-", "s-", "^-", "k:"), strict=True):
            shown = [line for line in lines if (line.steps, line.row) == (steps, row)]
            seen, means = [line.num_classes for line in shown], [line.top1_mean for line in shown]
            errors = [line.top1_std or 0.0 for line in shown]
            panel.errorbar(seen, means, errors, fmt=style, capsize=2, markersize=4, linewidth=1, label=TITLES[row])
        panel.set_title(f"{steps} steps", fontsize=10)
        panel.set_xlabel("classes seen")
    panels[0].set_ylabel("top-1 of seen classes, %")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return drawn


def as_csv(table: list[Line] | list[Average]) -> str:
    """A table as CSV, every column."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(table[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in table)
    return buffer.getvalue()


def as_markdown(lines: list[Line], averages: list[Average]) -> str:
    """The end of each comparison: all classes seen, and the average over steps."""
    header = "steps|trained on|after the last step, top-1 %|average incremental %|n|images|image bytes|label bytes"
    cells = [header.split("|"), ["---:", "---", *["---:"] * 6]]
    for mean in averages:
        last = next(line for line in reversed(lines) if (line.steps, line.row) == (mean.steps, mean.row))
        top1, average = percent(last.top1_mean, last.top1_std), percent(mean.top1_mean, mean.top1_std)
        held = [str(last.num_images), readable_bytes(last.image_bytes), readable_bytes(last.label_bytes)]
        cells.append([str(mean.steps), TITLES[mean.row], top1, average, str(mean.num_seeds), *held])
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)


def open_run(source: str, settings: list[str], out: Path, quiet: bool) -> tuple[attar.Recipe[Any], Path]:
    """The recipe, and the folder of its run up to the labels: made in OUT/run, or the finished one that is named."""
    kept = Path(source) / "recipe.yaml"
    named = str(kept) if kept.is_file() else source
    before = attar.recipe(named)
    recipe = with_settings(before, settings, f"attar run {named}")
    if kept.is_file():
        data = recipe.data.changed(root=before.data.root, source=before.data.source)
        if recipe.changed(evaluate=before.evaluate, execution=before.execution, data=data) != before:
            raise attar.AttarError(f"{source} is finished, and these settings alter it; name the recipe in its place.")
        return recipe, Path(source)
    for stage in ("squeeze", "recover", "relabel"):
        attar.run(recipe, out / "run", stage=stage, quiet=quiet)
    return recipe, out / "run"


def positive(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main(arguments: list[str] | None = None) -> None:
    """Compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", metavar="RECIPE_OR_RUN")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; scores that it has are kept")
    parser.add_argument("--steps", type=positive, nargs="+", default=[5, 10], help="numbers of steps; default 5 10")
    parser.add_argument("--seeds", type=positive, default=1, help="trainings of each row and step; default 1")
    parser.add_argument("--order-seed", type=int, default=0, help="seed of the order of classes; default 0")
    parser.add_argument("--epochs", type=positive, default=100, help="of a training; default 100, as SRe2L's")
    parser.add_argument("--quiet", action="store_true")
    asked, settings = parser.parse_known_args(arguments)
    with ranks.group():
        recipe, run = open_run(asked.source, settings, asked.out, asked.quiet)
        continual = Continual(recipe, run, asked.out, asked.epochs, asked.quiet)
        train(continual, asked.steps, asked.seeds, asked.order_seed)
        if not ranks.is_first():
            return
    lines, averages = [], []
    for num_steps in asked.steps:
        more, average = compare(continual, num_steps, asked.seeds, asked.order_seed)
        lines, averages = lines + more, averages + average
    atomic.write_text(asked.out / "continual.csv", as_csv(lines))
    atomic.write_text(asked.out / "average.csv", as_csv(averages))
    with atomic.replace(asked.out / "continual.png") as temporary:
        figure(lines).savefig(temporary, format="png", dpi=100)
    print(as_markdown(lines, averages), end="")


if __name__ == "__main__":
    try:
        main()
    except attar.AttarError as error:
        sys.exit(f"continual.py: {error}")
