"""Evaluate: students trained from scratch on a small set, and on what it has to be compared with."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import memory, ranks
from attar.core.config import digest
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.models import build, record
from attar.models import teacher as teachers
from attar.ops.metrics import measure
from attar.ops.pixels import Normalisation
from attar.ops.training import Epoch, fit
from attar.stages import agreement, scores, squeeze
from attar.stages.choices import Evaluate, Squeeze
from attar.stages.distilled import INFO, Distilled, read_info
from attar.stages.folder import MANIFEST, StageFolder, manifest_of
from attar.stages.protocols import Protocol
from attar.stages.rows import Row, SmallSet, images_of, labels_of, without_twins
from attar.stages.scores import Job, Score
from attar.stages.workspace import Workspace
from attar.store import atomic, mapped

PER_CLASS = "per-class.json"
_BATCH = 256
TEACHER = "the teacher"
"""Stands for the protocol where the teacher itself is shown."""


def shared_folder(config: Evaluate) -> Path | None:
    """Where runs share their baselines; None when this one has its own."""
    return Path(config.baselines).expanduser() if config.baselines else None


def run(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: Mapping[Row, SmallSet]) -> list[Score]:
    """Train what is not known yet; returns the scores of all rows, in the order of the table.

    ``sets`` says what each row but that of all real images is trained on; a row without a set is left out. Scores are
    kept one by one under what they depend on, so more seeds, students or another protocol only add to them.
    """
    out = space.out / "evaluate"
    check(space, config)
    if not any(_has(row, sets) for row in config.rows):
        raise AttarError(
            f"No row of {', '.join(config.rows)} can be made, for classes have too few real images; "
            f"add the row distilled or full, or use a smaller --recover.ipc."
        )
    log = space.log.beside(out)
    recognised = _agreements(space, sets, out, log)
    jobs = _jobs(space, config, squeezing, sets)
    unknown: dict[Path, Job] = {}
    for job in jobs:
        unknown.setdefault(job.path, job)
    todo = [job for job in ranks.mine(list(unknown.values())) if not job.path.exists()]
    num_steps = sum(_num_steps(space, config, squeezing, sets, job) for job in todo)
    with log.progress("evaluate", num_steps, unit="steps") as advance:
        for job in todo:
            if _shows_teacher(config, job.row):
                _rate_teacher(space, job)
            else:
                _train(space, config, squeezing, sets.get(job.row), job, log, advance)
    ranks.wait()
    shown: list[Row] = [row for row in _rows(config) if _has(row, sets)]
    facts = {row: scores.facts(space, config.protocol, row, sets.get(row), recognised) for row in shown}
    drawn = [read_info(small.folder) for row, small in sets.items() if labels_of(row) != "noaug"]
    title = scores.title(config.protocol, drawn)
    known = [_score(config, job, facts[job.row], title) for job in jobs]
    if ranks.is_first():
        trained = {job.path: score.seconds for job, score in zip(jobs, known, strict=True) if score.protocol != TEACHER}
        _finish(space, config, sets, known, facts, sum(trained.values()))
    ranks.wait()
    return known


def check(space: Workspace, config: Evaluate) -> None:
    """Raise AttarError, before hours are spent, when a student is unknown or cannot take images of this size."""
    shared = shared_folder(config)
    if shared is not None and shared.exists() and not shared.is_dir():
        raise AttarError(f"--evaluate.baselines {shared} is a file; name a folder, there need not be one yet.")
    for student in config.students:
        num_classes, size = len(space.real.classes), space.choice.size
        network = build.build(student, num_classes, size, stem=config.student_stem, seed=space.seed)
        build.check_forward(network, size, num_classes, name=student)


def _jobs(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: Mapping[Row, SmallSet]) -> list[Job]:
    own, shared = space.out / "evaluate" / "scores", shared_folder(config)
    jobs = []
    for row in _rows(config):
        if _shows_teacher(config, row):
            jobs.append(_teacher_job(space, row, own))
        elif _has(row, sets):
            small = None if row == "full" else sets[row]
            everyones = shared is not None and (small is None or small.folder.is_relative_to(shared))
            folder = shared / "scores" if shared is not None and everyones else own
            for student in config.students:
                how = _training(config, squeezing, row, student, small)
                stem = build.resolve_stem(student, space.choice.size, config.student_stem)
                for seed in range(config.num_seeds):
                    jobs.append(Job(row, student, seed, scores.identity(space, student, stem, seed, how), folder))
    return jobs


def _training(config: Evaluate, squeezing: Squeeze, row: Row, student: str, small: SmallSet | None) -> list[Any]:
    """What a score depends on beside the student and the real data."""
    if small is None:
        return scores.full_training(squeezing)
    info, made = read_info(small.folder), manifest_of(small.folder, "relabel")
    return scores.small_training(row, student, info, made, config.protocol)


def _rows(config: Evaluate) -> tuple[Row, ...]:
    return without_twins(config.rows, config.protocol.loss == "hard")


def _has(row: Row, sets: Mapping[Row, SmallSet]) -> bool:
    return row == "full" or row in sets


def _shows_teacher(config: Evaluate, row: Row) -> bool:
    return row == "full" and config.full_data == "teacher"


def _teacher_job(space: Workspace, row: Row, folder: Path) -> Job:
    path = space.out / "squeeze" / teachers.RECORD
    weights = manifest_of(space.out / "squeeze", "squeeze")["result"]["weights_sha256"]
    known_by = digest([space.request(), space.real.fingerprint, weights])
    return Job(row, record.parse(path.read_bytes(), path).architecture, 0, known_by, folder)


def _num_steps(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: Mapping[Row, SmallSet], job: Job) -> int:
    """Batches of a training; none where the teacher is shown."""
    if _shows_teacher(config, job.row):
        return 0
    small = sets.get(job.row)
    training = squeezing.training if small is None else config.protocol.training_of(job.student)
    count = len(space.real.train) if small is None else read_info(small.folder).num_images
    return training.epochs * -(-count // training.batch_size)


def _train(
    space: Workspace,
    config: Evaluate,
    squeezing: Squeeze,
    small: SmallSet | None,
    job: Job,
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
        advance(0, note=f"{job.row} {job.student} seed {job.seed}  loss {epoch.loss:.3f}")

    def after_batch(_: int) -> None:
        advance()

    if small is None:
        stream = f"evaluate-full-{job.seed}"
        squeeze.full_data(space, network, squeezing, stream, after, seed=seed, after_batch=after_batch)
        normalisation = space.normalisation
    else:
        opened = Distilled(small.folder, space.module)
        normalisation = opened.normalisation
        hard = scores.is_hard(job.row, config.protocol)
        _fit_small(space, config.protocol, opened, network, (job.student, seed, hard), after, after_batch)
    found = measure(_predictor(network, normalisation), space.val.plain(_BATCH, device.device))
    seconds = time.perf_counter() - started
    job.save(found, seconds, device.describe(), losses)
    log.event("score", row=job.row, student=job.student, seed=job.seed, top1=found.top1, seconds=round(seconds, 3))


def _fit_small(
    space: Workspace,
    protocol: Protocol,
    opened: Distilled,
    network: nn.Module,
    how: tuple[str, int, bool],
    after: Callable[[Epoch], None],
    after_batch: Callable[[int], None],
) -> None:
    """Train a student, known by its name, its seed and whether its labels are hard."""
    device, (student, seed, hard) = space.device, how
    training = protocol.training_of(student)
    with memory.kept():
        fit(
            network,
            opened.normalisation,
            lambda epoch: opened.views(epoch, training.batch_size, device.device, seed, soft=not hard),
            lambda logits, targets: protocol.value(logits, targets, hard),
            training,
            len(opened),
            device.autocast,
            after,
            seed=seed,
            after_batch=after_batch,
        )


def _predictor(network: nn.Module, normalisation: Normalisation) -> Callable[[Any], Any]:
    return lambda images: network(normalisation.apply(images)).float()


def _rate_teacher(space: Workspace, job: Job) -> None:
    made = manifest_of(space.out / "squeeze", "squeeze")
    teacher = teachers.load(space.out / "squeeze", space.module)
    teacher.module.to(space.device.device)
    found = measure(teacher.logits, space.val.plain(_BATCH, space.device.device))
    job.save(found, made["device_seconds"], made["device"], [])


def _agreements(space: Workspace, sets: Mapping[Row, SmallSet], out: Path, log: Log) -> dict[str, float]:
    """Part of each kind of images that the teacher recognises, measured once; warns about the distilled ones.

    Images that were brought from elsewhere may have no teacher here to ask.
    """
    found: dict[str, float] = {}
    if not ranks.is_first() or not sets or not (space.out / "squeeze" / MANIFEST).is_file():
        return found
    weights = manifest_of(space.out / "squeeze", "squeeze")["result"]["weights_sha256"]
    teacher = None
    for row, small in sets.items():
        if (name := images_of(row)) in found:
            continue
        images_sha256 = read_info(small.folder).images_sha256
        path = out / "agreement" / f"{digest([images_sha256, weights])[:16]}.json"
        if not path.exists():
            teacher = teacher or teachers.load(space.out / "squeeze", space.module)
            stored = mapped.read(small.folder / "data", images_sha256, INFO)
            known = agreement.teacher_agreement(stored.images, stored.labels, teacher, space.device.device)
            atomic.write_json(path, vars(known))
        known = agreement.Agreement(**json.loads(path.read_text()))
        found[name] = known.fraction
        if name == "distilled" and (text := agreement.warning(known, space.real.classes, space.real.titles)):
            log.warn(text)
    return found


def _score(config: Evaluate, job: Job, facts: Mapping[str, Any], title: str) -> Score:
    sizes = {key: facts[key] for key in ("num_images", "image_bytes", "label_bytes")}
    if job.row == "full":
        title = TEACHER if _shows_teacher(config, job.row) else "full data"
    return job.score(**sizes, protocol=title)


def _finish(
    space: Workspace,
    config: Evaluate,
    sets: Mapping[Row, SmallSet],
    known: list[Score],
    facts: Mapping[str, dict[str, Any]],
    seconds: float,
) -> None:
    """The manifest, and beside it what would make it long: every class's accuracy."""
    out = space.out / "evaluate"
    entries = [{key: value for key, value in vars(score).items() if key != "per_class"} for score in known]
    every = [
        {"row": score.row, "student": score.student, "seed": score.seed, "top1": score.per_class} for score in known
    ]
    content = {"classes": space.real.classes, "titles": space.real.titles, "scores": every}
    atomic.write_text(out / PER_CLASS, json.dumps(content, ensure_ascii=False) + "\n")
    parents = {row: digest(manifest_of(small.folder, "relabel")["request"]) for row, small in sets.items()}
    stage = StageFolder(out, "evaluate", space.request(evaluate=config.plain()), parents)
    stage.finish({"scores": entries, "rows": dict(facts)}, seconds, space.device.describe())
