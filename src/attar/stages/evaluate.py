"""Evaluate: students trained from scratch on a small set, and on what it has to be compared with."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from torch import nn

from attar.core import memory, ranks
from attar.core.config import Config, digest
from attar.core.log import Log
from attar.models import build
from attar.models import teacher as teachers
from attar.ops.pixels import Normalisation
from attar.ops.training import Epoch, fit
from attar.stages import squeeze
from attar.stages.distilled import Distilled
from attar.stages.folder import StageFolder, manifest_of
from attar.stages.protocols import PROTOCOLS, Protocol, protocol_named
from attar.stages.squeeze import Squeeze
from attar.stages.workspace import Workspace
from attar.store import atomic

Row = Literal["distilled", "random-soft", "random-hard", "full"]
ROWS: tuple[Row, ...] = ("distilled", "random-soft", "random-hard", "full")


class Evaluate(Config):
    """Train students and measure them on real validation images."""

    protocol: Protocol = PROTOCOLS["cda"]
    """How students are trained; in a file or in Python a name will do."""
    students: tuple[str, ...] = ("resnet18",)
    """Networks to train, from 'attar list models'."""
    student_stem: build.Stem = "auto"
    """First layers of torchvision ResNets, as for the teacher."""
    num_seeds: int = pydantic.Field(default=3, ge=1)
    """Trainings of each row, from different initial weights and orders."""
    rows: tuple[Row, ...] = ROWS
    """Rows of the table: the distilled set, random real images with soft and with hard labels, all real images."""
    full_data: Literal["train", "teacher"] = "train"
    """The row of all real images: train students as the teacher is trained, or show the teacher itself."""

    @pydantic.field_validator("protocol", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return protocol_named(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Score:
    """One student's last epoch."""

    row: Row
    student: str
    seed: int
    top1: float
    """Fraction of real validation images, as is ``top5``."""
    top5: float
    num_images: int
    image_bytes: int
    label_bytes: int
    seconds: float
    """Of training, on one device."""
    protocol: str


@dataclass(frozen=True)
class _Job:
    row: Row
    student: str
    seed: int
    identity: str

    def path(self, folder: Path) -> Path:
        student = self.student.replace("/", "-").replace(":", "-")
        return folder / "scores" / f"{self.row}-{student}-seed{self.seed}-{self.identity[:8]}.json"


def run(space: Workspace, config: Evaluate, squeezing: Squeeze, random_real: Path | None) -> list[Score]:
    """Train what ``<out>/evaluate`` does not know yet; returns the scores of all rows, in the order of the table.

    ``random_real`` is the artefact of random real images, None when there is none to compare with. Scores are kept
    one by one under what they depend on, so more seeds, students or another protocol only add to them.
    """
    out = space.out / "evaluate"
    check(space, config)
    log = space.log.beside(out)
    sets = _sets(space, config, random_real)
    jobs = _jobs(space, config, squeezing, sets)
    todo = [job for job in ranks.mine(jobs) if not job.path(out).exists()]
    epochs = {job: (squeezing.training if job.row == "full" else config.protocol.training).epochs for job in todo}
    with log.progress("evaluate", sum(epochs.values())) as advance:
        for job in todo:
            _train(space, config, squeezing, sets.get(job.row), job, out, log, advance)
    ranks.wait()
    scores = [Score(**json.loads(job.path(out).read_text())["score"]) for job in jobs]
    if "full" in config.rows and config.full_data == "teacher":
        scores.append(_teacher_score(space, config))
    if ranks.is_first():
        parents = {row: digest(manifest_of(folder, "relabel")["request"]) for row, folder in sets.items()}
        stage = StageFolder(out, "evaluate", space.request(evaluate=config.plain()), parents)
        stage.finish(
            {"scores": [vars(score) for score in scores]}, sum(s.seconds for s in scores), space.device.describe()
        )
    ranks.wait()
    return scores


def _sets(space: Workspace, config: Evaluate, random_real: Path | None) -> dict[Row, Path]:
    known: dict[Row, Path | None] = {
        "distilled": space.out / "distilled",
        "random-soft": random_real,
        "random-hard": random_real,
    }
    return {row: folder for row, folder in known.items() if row in config.rows and folder is not None}


def _jobs(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: dict[Row, Path]) -> list[_Job]:
    jobs = []
    for row in config.rows:
        if row == "full":
            if config.full_data == "teacher":
                continue
            how = squeezing.plain()
            source: Any = [space.real.fingerprint, how["training"], how["views"], how["label_smoothing"]]
        elif row in sets:
            manifest = manifest_of(sets[row], "relabel")
            source = [manifest["request"], manifest["parents"], config.protocol.plain()]
        else:
            continue
        for student in config.students:
            for seed in range(config.num_seeds):
                depends = [row, student, seed, space.request(), source, config.student_stem, space.device.precision]
                jobs.append(_Job(row, student, seed, digest(depends)))
    return jobs


def _train(
    space: Workspace,
    config: Evaluate,
    squeezing: Squeeze,
    folder: Path | None,
    job: _Job,
    out: Path,
    log: Log,
    advance: Callable[..., None],
) -> None:
    started = time.perf_counter()
    device, losses = space.device, []
    # The weights depend on the seed and not on the row, so that rows differ in their data alone.
    seed = space.seed * 1000 + job.seed
    network = build.build(
        job.student, len(space.real.classes), space.choice.size, stem=config.student_stem, seed=seed
    ).to(device.device)

    def after(epoch: Epoch) -> None:
        losses.append(epoch.loss)
        advance(note=f"{job.row} {job.student} seed {job.seed}  loss {epoch.loss:.3f}")

    if folder is None:
        squeeze.full_data(space, network, squeezing, f"evaluate-full-{job.seed}", after)
        normalisation = space.normalisation
        num_images, num_bytes = space.train.num_images, (space.real.train.num_bytes(), 0)
    else:
        opened = Distilled(folder, space.module)
        normalisation, num_images = opened.normalisation, len(opened)
        hard = job.row == "random-hard" or config.protocol.loss == "hard"
        num_bytes = (opened.info.image_bytes, 0 if hard else opened.info.label_bytes)
        _fit_small(space, config.protocol, opened, network, seed, hard, after)
    top1, top5 = teachers.accuracy(_predictor(network, normalisation), space.val.plain(256, device.device))
    score = Score(
        row=job.row,
        student=job.student,
        seed=job.seed,
        top1=top1,
        top5=top5,
        num_images=num_images,
        image_bytes=num_bytes[0],
        label_bytes=num_bytes[1],
        seconds=round(time.perf_counter() - started, 3),
        protocol="full data" if folder is None else config.protocol.title(),
    )
    job.path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(job.path(out), {"score": vars(score), "losses": losses})
    log.event("score", **vars(score))


def _fit_small(
    space: Workspace,
    protocol: Protocol,
    opened: Distilled,
    network: nn.Module,
    seed: int,
    hard: bool,
    after: Callable[[Epoch], None],
) -> None:
    device = space.device
    with memory.kept():
        fit(
            network,
            opened.normalisation,
            lambda epoch: opened.views(epoch, protocol.training.batch_size, device.device, seed, soft=not hard),
            lambda logits, targets: protocol.value(logits, targets, hard),
            protocol.training,
            len(opened),
            device.autocast,
            after,
        )


def _predictor(network: nn.Module, normalisation: Normalisation) -> Callable[[Any], Any]:
    return lambda images: network(normalisation.apply(images)).float()


def _teacher_score(space: Workspace, config: Evaluate) -> Score:
    manifest = manifest_of(space.out / "squeeze", "squeeze")
    teacher = teachers.load(space.out / "squeeze", space.module)
    return Score(
        row="full",
        student=teacher.architecture,
        seed=0,
        top1=manifest["result"]["top1"],
        top5=manifest["result"]["top5"],
        num_images=len(space.real.train.labels),
        image_bytes=space.real.train.num_bytes(),
        label_bytes=0,
        seconds=manifest["device_seconds"],
        protocol="the teacher",
    )


def check(space: Workspace, config: Evaluate) -> None:
    """Raise AttarError, before hours are spent, when a student is unknown or cannot take images of this size."""
    for student in config.students:
        num_classes, size = len(space.real.classes), space.choice.size
        network = build.build(student, num_classes, size, stem=config.student_stem, seed=space.seed)
        build.check_forward(network, size, num_classes, name=student)
