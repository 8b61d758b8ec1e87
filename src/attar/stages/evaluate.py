"""Evaluate: train students from scratch on the distilled set and on the baselines, and measure them."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attar.core import ranks, work
from attar.core.config import Config, digest
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.legacy import legacy_identity
from attar.core.log import Advance, Log
from attar.models import build
from attar.models.choices import CommitteeChoice
from attar.ops.metrics import measure
from attar.stages import agreement, equal_bytes, members, scores, students, together
from attar.stages.choices import Evaluate, Squeeze
from attar.stages.dataset_info import INFO, read_info
from attar.stages.distilled import Distilled
from attar.stages.evaluation import PER_CLASS
from attar.stages.folder import StageFolder, total
from attar.stages.health import Health
from attar.stages.rows import DISTILLED, EQUAL_BYTES, FULL, Row, SmallSet, without_twins
from attar.stages.run import Run, labels_in
from attar.stages.scores import Score, ScoreFile
from attar.stages.workspace import Workspace
from attar.store import mapped

_BATCH = 256
TEACHER = "the teacher"
"""Protocol name of scores of the teacher itself, or of the committee that labels."""


def shared_folder(config: Evaluate) -> Path | None:
    """Return the folder of shared baselines; None when the run keeps its own."""
    return Path(config.baselines).expanduser() if config.baselines else None


def run(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: Mapping[Row, SmallSet]) -> list[Score]:
    """Train the students that have no score yet; returns the scores of all rows, in the order of the table.

    ``sets`` holds the training set of each row except ``full``; a row without a set is left out. Each score is stored
    under a hash of everything it depends on, so more seeds, students or another protocol only add scores.
    """
    out = space.out / "evaluate"
    check(space, config)
    if not any(_has(row, sets) for row in config.rows):
        raise AttarError(
            f"No row of {', '.join(map(str, config.rows))} can be made, because classes have too few real images; "
            f"add the row distilled or full, or use a smaller --recover.ipc."
        )
    log, num_classes = space.log.beside(out), len(space.real.classes)
    jobs = _jobs(space, config, squeezing, sets)
    unknown: dict[Path, ScoreFile] = {}
    for job in jobs:
        if job.path.exists():
            job.read(num_classes)  # refuses a damaged score before hours are spent
        unknown.setdefault(job.path, job)
    recognised = _agreements(space, sets, out, log)
    warned, health = set[Path](), Health(log)

    @functools.lru_cache(maxsize=1)  # rows of one set follow one another, and a large set fills the device
    def opened(folder: Path) -> Distilled:
        return Distilled(folder, space.modules, space.factories)

    def train(job: ScoreFile, advance: Advance) -> dict[str, Any]:
        if _shows_teacher(config, job.row):
            return _rate_teacher(space, job) if ranks.is_first() or not shared else {}
        values, reason = students.train(*about(job), opened, health, shared, advance)
        if reason:
            log.warn(students.divergence(config, job, reason))
            warned.add(job.path)
        return values

    def about(job: ScoreFile) -> tuple[Workspace, Evaluate, Squeeze, SmallSet | None, ScoreFile]:
        return space, _of_row(space, config, job.row, sets), squeezing, sets.get(job.row), job

    missing = [job for job in unknown.values() if not _shows_teacher(config, job.row) and not job.path.exists()]
    shared = together.shares(space, (students.training(*about(job)) for job in missing), len(missing))
    if shared and missing:
        log.say(f"evaluate  {work.launcher().team_size()} processes train each student together")
    todo = [
        work.Job(
            name=job.path.stem,
            run=functools.partial(train, job),
            done=job.path.exists,
            steps=0 if _shows_teacher(config, job.row) else students.num_steps(*about(job)),
            num_results=0 if _shows_teacher(config, job.row) else 1,  # the teacher is no student
        )
        for job in unknown.values()
    ]
    work.do(todo, log, "evaluate", unit="steps", results="students", event="score", together=shared)
    shown: list[Row] = [row for row in _rows(config) if _has(row, sets)]
    facts = {row: scores.facts(space, config.protocol, row, sets.get(row), recognised) for row in shown}
    drawn = [read_info(small.folder) for row, small in sets.items() if row.labels != "noaug"]
    title = scores.title(config.protocol, drawn)
    known = [_score(config, job, num_classes, facts[job.row], title) for job in jobs]
    if ranks.is_first():
        for job in jobs:
            job.checkpoint.remove()  # of those that were killed between the score and this
        for job, score in zip(jobs, known, strict=True):
            if score.diverged and job.path not in warned:
                log.warn(students.divergence(config, job, "diverged"))
                warned.add(job.path)
        trained = {
            job.path: Elapsed(score.seconds, score.processor_seconds)
            for job, score in zip(jobs, known, strict=True)
            if score.protocol != TEACHER
        }
        _finish(space, config, sets, known, facts, total(trained.values()))
    ranks.wait()
    return known


def check(space: Workspace, config: Evaluate) -> None:
    """Raise AttarError, before the run starts, when a student is unknown or cannot take images of this size."""
    shared = shared_folder(config)
    if shared is not None and shared.exists() and not shared.is_dir():
        raise AttarError(f"--evaluate.baselines {shared} is a file; give a folder, which may not exist yet.")
    for student in config.students:
        num_classes, size = len(space.real.classes), space.choice.size
        network = build.build(student, num_classes, size, stem=config.student_stem, seed=space.seed)
        build.check_forward(network, size, num_classes, name=student)


def _jobs(space: Workspace, config: Evaluate, squeezing: Squeeze, sets: Mapping[Row, SmallSet]) -> list[ScoreFile]:
    own, shared = space.out / "evaluate" / "scores", shared_folder(config)
    jobs = []
    for row in _rows(config):
        if _shows_teacher(config, row):
            jobs.append(_teacher_job(space, row, own))
        elif _has(row, sets):
            small = None if row == FULL else sets[row]
            everyones = shared is not None and (small is None or small.folder.is_relative_to(shared))
            folder = shared / "scores" if shared is not None and everyones else own
            for student in config.students:
                how = _training(space, _of_row(space, config, row, sets), squeezing, row, student, small)
                stem = build.resolve_stem(student, space.choice.size, config.student_stem)
                for seed in range(config.num_seeds):
                    now, before = scores.identities(space, student, stem, seed, how)
                    jobs.append(ScoreFile(row, student, seed, now, folder, before))
    return jobs


def _training(
    space: Workspace, config: Evaluate, squeezing: Squeeze, row: Row, student: str, small: SmallSet | None
) -> Callable[[scores.Say], list[Any]]:
    """Return a function that lists what a score depends on, apart from the student and the real data."""
    if small is None:
        return lambda say: scores.full_training(space, squeezing, say)
    info, made = read_info(small.folder), labels_in(small.folder)
    return lambda say: scores.small_training(row, student, info, made, config.protocol, say)


def _of_row(space: Workspace, config: Evaluate, row: Row, sets: Mapping[Row, SmallSet]) -> Evaluate:
    """Return the settings of a row's students: with as many bytes of real images, as many steps as with distilled."""
    if row != EQUAL_BYTES:
        return config
    return config.changed(protocol=equal_bytes.protocol_of(config, sets[row].folder, space.out / "distilled"))


def _rows(config: Evaluate) -> tuple[Row, ...]:
    return without_twins(config.rows, config.protocol.loss == "hard")


def _has(row: Row, sets: Mapping[Row, SmallSet]) -> bool:
    return row == FULL or row in sets


def _shows_teacher(config: Evaluate, row: Row) -> bool:
    return row == FULL and config.full_data == "teacher"


def _teacher_job(space: Workspace, row: Row, folder: Path) -> ScoreFile:
    committee = _committee_of_labels(space)
    answers_sha256 = members.answers_sha256(space, committee)
    now, before = (
        digest([scores.data_of(space, say), space.real.fingerprint, answers_sha256])
        for say in (Config.identity, legacy_identity)
    )
    return ScoreFile(row, members.architecture(space, committee), 0, now, folder, before)


def _committee_of_labels(space: Workspace) -> CommitteeChoice:
    """Return the committee that labelled the set, with running BatchNorm statistics; all teachers if there is none."""
    path = space.out / "distilled"
    choice = read_info(path).labels.committee if (path / INFO).is_file() else CommitteeChoice()
    return choice.changed(batchnorm="eval")


def _rate_teacher(space: Workspace, job: ScoreFile) -> dict[str, Any]:
    choice = _committee_of_labels(space)
    found = measure(members.committee(space, choice).logits, space.val.plain(_BATCH, space.device.device))
    if found.num_broken:
        raise AttarError(
            f"The teacher's logits of {found.num_broken} of {space.val.num_images} validation images are not numbers "
            f"(NaN); delete the folder {space.out / 'squeeze'} to train another."
        )
    made = [members.made(space, index) for index in members.of_labels(space, choice)]
    job.save(found, total(one.elapsed for one in made), ", ".join(dict.fromkeys(one.device for one in made)), [])
    return {"row": str(job.row), "student": job.student, "seed": 0, "top1": found.top1, "diverged": False}


def _agreements(space: Workspace, sets: Mapping[Row, SmallSet], out: Path, log: Log) -> dict[str, float]:
    """Measure once what fraction of each image set the labelling committee recognises; warns about the distilled set.

    Without a teacher, as may be with imported images, nothing is measured.
    """
    found: dict[str, float] = {}
    if not ranks.is_first() or not sets or not Run(space.out).is_done("squeeze"):
        return found
    choice = _committee_of_labels(space)
    answers_sha256 = members.answers_sha256(space, choice)
    for row, small in sets.items():
        if row.images in found:
            continue
        info = read_info(small.folder)
        images_sha256, storage = info.images_sha256, info.storage
        identity = digest([images_sha256, answers_sha256])
        path = out / "agreement" / f"{identity[:16]}.json"
        known = agreement.read(path, identity, len(space.real.classes), log)
        if known is None:
            stored = mapped.read(small.folder / "data", images_sha256, INFO)
            committee = members.committee(space, choice)
            known = agreement.teacher_agreement(
                stored.images, stored.labels, committee, space.device.device, storage=storage
            )
            agreement.write(path, identity, known)
        found[row.images] = known.fraction
        labelled = any(each.images == DISTILLED.images and each.labels != "hard" for each in sets)
        if row.images != DISTILLED.images or not labelled:
            continue
        if text := agreement.warning(known, space.real.classes, space.real.titles):
            log.warn(text)
    return found


def _score(config: Evaluate, job: ScoreFile, num_classes: int, facts: Mapping[str, Any], title: str) -> Score:
    sizes = {key: facts[key] for key in ("num_images", "image_bytes", "label_bytes")}
    if job.row == FULL:
        title = TEACHER if _shows_teacher(config, job.row) else "full data"
    return job.score(num_classes, **sizes, protocol=title)


def _val_images(space: Workspace) -> list[int]:
    """Return the number of readable validation images of each class; decodes them only if damaged ones are skipped."""
    return np.bincount(space.val_labels, minlength=len(space.real.classes)).tolist()


def _finish(
    space: Workspace,
    config: Evaluate,
    sets: Mapping[Row, SmallSet],
    known: list[Score],
    facts: Mapping[Row, dict[str, Any]],
    elapsed: Elapsed,
) -> None:
    """Write the manifest, and every class's accuracy to a second file."""
    out = space.out / "evaluate"
    entries = [
        {key: value for key, value in vars(score).items() if key != "per_class"}
        | {"row": str(score.row), "class_top1": score.class_top1}
        for score in known
    ]
    result = {
        "scores": entries,
        "rows": {str(row): fact for row, fact in facts.items()},
        "num_classes": len(space.real.classes),
        "num_unmeasured": known[0].per_class.count(None),
        "val_images": _val_images(space),
        "per_class_sha256": scores.write_per_class(out, space.real.classes, space.real.titles, known),
    }
    parents = {str(row): digest(labels_in(small.folder).identity) for row, small in sets.items()}
    stage = StageFolder(out, "evaluate", space.request(evaluate=config), parents)
    stage.finish(result, elapsed, space.device.describe(), [out / PER_CLASS])
