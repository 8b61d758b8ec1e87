"""Train a student from scratch, on a small set or on all real images, and measure it on real validation images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import memory, ranks
from attar.core.elapsed import Clock, Elapsed
from attar.core.log import Advance
from attar.models import build
from attar.ops.metrics import measure
from attar.ops.pixels import Normalisation
from attar.stages import scores, squeeze, together
from attar.stages.checkup import examine_student
from attar.stages.choices import Evaluate, Squeeze
from attar.stages.dataset_info import read_info
from attar.stages.distilled import Distilled
from attar.stages.health import Health, examined_epoch
from attar.stages.protocol import Protocol
from attar.stages.rows import DISTILLED, FULL, SmallSet
from attar.stages.scores import ScoreFile
from attar.stages.workspace import Workspace
from attar.training.loop import FinishedEpoch, all_finite, fit
from attar.training.memory import explained
from attar.training.parallel import Together

_BATCH = 256


def num_steps(space: Workspace, config: Evaluate, squeezing: Squeeze, small: SmallSet | None, job: ScoreFile) -> int:
    """Return the number of batches of a training."""
    training = squeezing.training if small is None else config.protocol.training_of(job.student)
    return training.epochs * -(-_num_images(space, small) // training.batch_size)


def training(
    space: Workspace, config: Evaluate, squeezing: Squeeze, small: SmallSet | None, job: ScoreFile
) -> together.Training:
    """Return the untrained network and the number of images that it will see."""
    epochs = (squeezing.training if small is None else config.protocol.training_of(job.student)).epochs
    return _network(space, config, job), epochs * _num_images(space, small)


def _num_images(space: Workspace, small: SmallSet | None) -> int:
    return len(space.real.train) if small is None else read_info(small.folder).num_images


def _network(space: Workspace, config: Evaluate, job: ScoreFile) -> nn.Module:
    """Return the untrained network, on the device.

    Its weights depend on the seed and not on the row, so that rows differ in their data alone.
    """
    num_classes, size = len(space.real.classes), space.choice.size
    network = build.build(job.student, num_classes, size, stem=config.student_stem, seed=_seed(space, job))
    return network.to(space.device.device)


def _seed(space: Workspace, job: ScoreFile) -> int:
    return space.seed * 1000 + job.seed


def train(
    space: Workspace,
    config: Evaluate,
    squeezing: Squeeze,
    small: SmallSet | None,
    job: ScoreFile,
    opened: Callable[[Path], Distilled],
    health: Health,
    shared: bool,
    advance: Advance,
) -> tuple[dict[str, Any], str]:
    """Train a student and store its score; returns values for the log, and a warning if training diverged.

    If the work is ``shared``, all processes train the student, and the first one measures it and stores the score; the
    others return nothing.
    """
    device, checkpoint, writes = space.device, job.checkpoint, ranks.is_first() or not shared
    earlier = checkpoint.load() or {"fit": None, "losses": [], "seconds": 0.0, "processor_seconds": 0.0}
    network = _network(space, config, job)
    joined = together.join(space, network) if shared else None
    before = Elapsed(earlier["seconds"], earlier["processor_seconds"])
    clock, losses = Clock(before, joined.part.size if joined else 1), list(earlier["losses"])
    num_epochs = (config.protocol.training if small else squeezing.training).epochs
    count = num_steps(space, config, squeezing, small, job)
    num_done = count * len(losses) // num_epochs
    early = 0
    if small is not None and job.row.images == DISTILLED.images:
        early = examined_epoch(num_epochs, count // num_epochs, config.protocol.training.warmup_epochs)
    advance(num_done, earlier=True)
    seed = _seed(space, job)

    def after(epoch: FinishedEpoch) -> None:
        losses.append(epoch.loss)
        advance(0, note=f"{job.row} {job.student} seed {job.seed}  loss {epoch.loss:.3f}", values={"loss": epoch.loss})
        if not all_finite(network):
            raise _Diverged
        if not writes:
            return
        if epoch.number == early:
            examine_student(space, health, job, _predictor(network.eval(), normalisation), early, num_epochs)
        if epoch.number < num_epochs:
            checkpoint.offer(lambda: {"fit": epoch.state(), "losses": losses, **clock.elapsed().plain()})

    def after_batch(_: int) -> None:
        nonlocal num_done
        num_done += 1
        advance()

    normalisation, reason = space.normalisation, ""
    try:
        if small is None:
            stream = f"evaluate-full-{job.seed}"
            more = {"seed": seed, "after_batch": after_batch, "resume": earlier["fit"]}
            squeeze.full_data(space, network, squeezing, stream, after, joined, **more)
        else:
            distilled = opened(small.folder)
            normalisation = distilled.normalisation
            who = job.student, seed, scores.is_hard(job.row, config.protocol)
            _fit_small(space, config.protocol, distilled, network, who, after, after_batch, earlier["fit"], joined)
    except _Diverged:
        network.eval()
        advance(count - num_done, earlier=True)
        reason = f"diverged in epoch {len(losses)} of {num_epochs} and was stopped (its weights are no longer finite)"
    if not writes:
        return {}, ""
    found = measure(_predictor(network, normalisation), space.val.plain(_BATCH, device.device))
    if found.num_broken and not reason:
        reason = f"diverged (its logits of {found.num_broken} of {space.val.num_images} images are not numbers)"
    elapsed = clock.elapsed()
    job.save(found, elapsed, device.describe(), losses, diverged=bool(reason))
    checkpoint.remove()
    values = {
        "row": str(job.row),
        "student": job.student,
        "seed": job.seed,
        "top1": found.top1,
        "diverged": bool(reason),
    }
    return values | elapsed.plain(), reason


class _Diverged(Exception):  # noqa: N818
    """Raised to stop a training whose weights are not finite."""


def divergence(config: Evaluate, job: ScoreFile, reason: str) -> str:
    """Return the warning for a student that diverged: where, what the table shows, and what to change."""
    fix = "lower --evaluate.protocol.training.learning-rate"
    if job.row == FULL:
        fix = "lower --squeeze.training.learning-rate in a run of its own, or use --evaluate.full-data teacher"
    elif config.protocol.learned_rate and job.row.images == DISTILLED.images:
        fix = "train with the protocol's own rate, --evaluate.protocol.no-learned-rate"
    elif config.protocol.training_of(job.student) != config.protocol.training:
        fix = f"lower the rate of {job.student} in --evaluate.protocol.learning-rates"
    who = f"the student {job.student} of the row {job.row} with seed {job.seed}"
    return f"{who} {reason}; the table marks it and leaves it out of the mean; {fix}"


def _fit_small(
    space: Workspace,
    protocol: Protocol,
    opened: Distilled,
    network: nn.Module,
    how: tuple[str, int, bool],
    after: Callable[[FinishedEpoch], None],
    after_batch: Callable[[int], None],
    resume: dict[str, Any] | None,
    joined: Together | None,
) -> None:
    """Train a student, known by its name, its seed and whether its labels are hard."""
    device, (student, seed, hard) = space.device, how
    choice = protocol.training_of(student, opened.info.learned)
    part = joined.part if joined else ranks.WHOLE
    with memory.kept(), explained(choice, "evaluate.protocol.training"):
        fit(
            network,
            opened.normalisation,
            lambda epoch: opened.views(epoch, choice.batch_size, device.device, seed, not hard, part),
            lambda logits, targets: protocol.value(logits, targets, hard),
            choice,
            len(opened),
            device.autocast,
            after,
            resume=resume,
            seed=seed,
            forward=space.training_forward(network, choice.epochs * len(opened), joined),
            after_batch=after_batch,
            together=joined,
        )


def _predictor(network: nn.Module, normalisation: Normalisation) -> Callable[[Any], Any]:
    return lambda images: network(normalisation.apply(images)).float()
