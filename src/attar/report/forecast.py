"""What a run will take on this device, in words, before it is started."""

from collections.abc import Callable

import torch

from attar.core.compiling import out_of_memory
from attar.core.errors import AttarError
from attar.core.log import readable_bytes
from attar.stages import calibrate
from attar.stages.calibrate import Recovering, Work

_UNITS = ((120, 1, "s"), (120 * 60, 60, "min"), (48 * 3600, 3600, "h"), (float("inf"), 86400, "days"))
Estimate = tuple[float | None, str]
"""Seconds in one process, None where they are not known; and the words that follow the stage's name."""


def lines(work: Work) -> list[str]:
    """A line or two on each of the four stages, and their sum; measures steps for some seconds, longer if it compiles.

    A stage that cannot be measured, as when its network cannot be built, says why.
    """
    stages = {"Squeeze": _squeeze, "Recover": _recover, "Relabel": _relabel, "Evaluate": _evaluate}
    order = ("Recover", "Squeeze", "Relabel", "Evaluate")  # so that recover's memory is not what another has left
    found = {stage: _attempt(stages[stage], work) for stage in order}
    known = [seconds for seconds, _ in found.values() if seconds is not None]
    least = "" if len(known) == len(found) else "more than "
    total = f"Altogether: {least}about {readable_seconds(sum(known))}, in one process"
    return [*(f"{stage}: {found[stage][1]}" for stage in stages), total]


def unit_file_bytes(work: Work) -> int:
    """Bytes of recover's unit files, without their headers: images, snapshots, and the curves of four metrics."""
    iterations, num_units = getattr(work.recover, "iterations", 0), sum(map(len, work.groups))
    image_bytes, label_bytes, metric_bytes = 3 * work.size**2, 8, 4 * 4
    kept = 1 + num_snapshots(work) + (1 if iterations else 0)  # the finished image is a snapshot, too
    return work.num_images * (kept * image_bytes + label_bytes) + num_units * iterations * metric_bytes


def num_snapshots(work: Work) -> int:
    """How often the images of a unit are kept before they are finished."""
    iterations = getattr(work.recover, "iterations", 0)
    return len({done for done in work.recover.snapshots if 0 < done < iterations})


def compares(work: Work) -> bool:
    """Whether random real images are labelled beside the method's, to be compared with."""
    asked = {"random-soft", "random-hard"} & set(work.evaluate.rows)
    return bool(asked) and work.method != "random" and min(work.counts) >= work.recover.ipc


def readable_seconds(seconds: float) -> str:
    """A duration in two or three digits, in a unit that suits it."""
    value, name = next((seconds / unit, name) for most, unit, name in _UNITS if seconds < most)
    return f"{value:.2g} {name}" if value < 10 else f"{value:,.0f} {name}"


def _attempt(estimate: Callable[[Work], Estimate], work: Work) -> Estimate:
    try:
        with torch.random.fork_rng(devices=[]):  # networks with dropout draw from the global stream
            return estimate(work)
    except AttarError as error:
        return None, f"not known ({str(error).rstrip('.')})"
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None, "not known (there is not memory enough)"


def _about(seconds: float, of: str) -> Estimate:
    return seconds, f"about {readable_seconds(seconds)} ({of})"


def _squeeze(work: Work) -> Estimate:
    config, num_images = work.squeeze, sum(work.counts)
    if config.weights:
        return 0.0, f"no training, for weights are brought along ({config.weights})"
    seconds = config.training.epochs * calibrate.full_epoch_seconds(work, config.architecture, config.stem)
    return _about(seconds, f"{config.training.epochs} epochs of {num_images:,} images, reading them not counted")


def _recover(work: Work) -> Estimate:
    iterations = getattr(work.recover, "iterations", None)
    if iterations is None and work.method == "random":
        return 0.0, "negligible, for real images are taken as they are"
    if iterations is None:
        return None, f"not known (the method '{work.method}' has no setting 'iterations')"
    found = calibrate.recovering(work)
    each = 1000 * found.step_seconds / found.num_images
    of = f"{each:.3g} ms per image and iteration, {found.num_images} images side by side"
    seconds, words = _about(found.seconds(work.groups, iterations), of)
    room = "memory not known" if found.memory_bytes is None else f"{readable_bytes(found.memory_bytes)} of memory"
    return seconds, f"{words}, {room}, on {work.device.describe()}\nArithmetic: {_arithmetic(work, found)}"


def _arithmetic(work: Work, found: Recovering) -> str:
    precision = work.device.precision
    why = "which this device computes in" if precision == "bf16" else "for this device has no arithmetic in bf16"
    why = "as asked" if work.execution.precision != "auto" else why
    compilation = found.compilation or "nothing is compiled"
    if found.compiled:
        num_shapes = len(set(map(calibrate.shape_of, work.groups)))
        compilation += f", which takes {readable_seconds(found.preparation_seconds)}"
        compilation += f" for each of {num_shapes} sizes of groups" if num_shapes > 1 else ""
    return f"{precision}, {why}; {compilation}"


def _relabel(work: Work) -> Estimate:
    config = work.relabel
    if config.mode == "online":
        return 0.0, "nothing, for the teacher is asked while students train"
    sets = 2 if compares(work) else 1
    of = f"{config.stored_epochs} epochs of {work.num_images:,} images"
    of += ", and of random real ones" if sets == 2 else ""
    return _about(sets * config.stored_epochs * calibrate.labels_epoch_seconds(work), of)


def _evaluate(work: Work) -> Estimate:
    config = work.evaluate
    random_rows = compares(work) or work.method == "random"
    small = [row for row in config.rows if row == "distilled" or (row != "full" and random_rows)]
    full = "full" in config.rows and config.full_data == "train"
    epochs, full_epochs = config.protocol.training.epochs, work.squeeze.training.epochs
    taught = [row for row in small if row != "random-hard" and config.protocol.loss != "hard"]
    seconds = 0.0
    if taught and work.relabel.mode == "online":
        seconds += len(config.students) * len(taught) * epochs * calibrate.labels_epoch_seconds(work)
    for student in config.students:
        if small:
            seconds += len(small) * epochs * calibrate.distilled_epoch_seconds(work, student)
        if full:
            seconds += full_epochs * calibrate.full_epoch_seconds(work, student, config.student_stem)
    parts = [f"{len(small)} x {epochs} epochs of {work.num_images:,} images"] if small else []
    parts += [f"{full_epochs} epochs of {sum(work.counts):,} images"] if full else []
    if not parts:
        return 0.0, "nothing to train"
    who = f"{', '.join(config.students)}, {config.num_seeds} seed{'s' if config.num_seeds > 1 else ''}"
    return _about(config.num_seeds * seconds, f"{who}: {' and '.join(parts)}")
