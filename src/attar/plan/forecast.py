"""Forecast in words what a run will take on this device."""

from collections.abc import Callable
from dataclasses import replace

import torch

from attar.core.compiling import out_of_memory
from attar.core.errors import AttarError
from attar.core.log import readable_bytes
from attar.ops.choices import PLAIN, Storage
from attar.plan import calibrate, recover_cost
from attar.plan.calibrate import Work
from attar.plan.recover_cost import RecoverCost
from attar.stages import label_choice
from attar.stages.rows import DISTILLED, EQUAL_BYTES, FULL, REAL_SETS, Labels, real_sets
from attar.stages.run import IMPORTED

_UNITS = ((120, 1, "s"), (120 * 60, 60, "min"), (48 * 3600, 3600, "h"), (float("inf"), 86400, "days"))
Estimate = tuple[float | None, str]
"""Seconds in one process, None if unknown; and the words after the stage's name."""


def lines(work: Work) -> list[str]:
    """Return one or two lines per stage and their sum; measures steps for some seconds, longer with compilation.

    For a stage that cannot be measured, for example because its network cannot be built, the line gives the reason.
    """
    stages = {"Squeeze": _squeeze, "Recover": _recover, "Relabel": _relabel, "Evaluate": _evaluate}
    order = ("Recover", "Squeeze", "Relabel", "Evaluate")  # recover first, while memory is clean
    found = {stage: _attempt(stages[stage], work) for stage in order}
    known = [seconds for seconds, _ in found.values() if seconds is not None]
    least = "" if len(known) == len(found) else "more than "
    total = f"Altogether: {least}about {readable_seconds(sum(known))}, in one process"
    return [*(f"{stage}: {found[stage][1]}" for stage in stages), total]


def parts(work: Work) -> tuple[float | None, float]:
    """Return the seconds of what the run does for itself, and of what runs on the same data can share; measures steps.

    They can share teachers, experts and the students of all real images. The first are None if they cannot be measured.
    """
    shared = replace(work, evaluate=work.evaluate.changed(rows=(FULL,)))
    rows = tuple(row for row in work.evaluate.rows if row != FULL)
    own = replace(work, evaluate=work.evaluate.changed(rows=rows)) if rows else work
    stages = [(_recover, own), (_relabel, own), (_evaluate, own)]
    seconds = [_attempt(estimate, asked)[0] for estimate, asked in stages]
    others = [_attempt(_squeeze, shared)[0], _attempt(_evaluate, shared)[0] if FULL in work.evaluate.rows else 0.0]
    known = [one for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None, sum(one or 0.0 for one in others)


def made(work: Work) -> list[str]:
    """Return one line each on the units, unit files, images and labels that will be made."""
    raw = readable_bytes(work.num_images * 3 * work.size**2)
    images = f"Images: {work.num_images}, {work.size} pixels square, {raw} as raw bytes"
    if work.method == IMPORTED:
        return [f"{images}, made elsewhere", _labels(work)]
    todo = [unit for group in work.groups for unit in group]
    largest, steps = max(len(unit.labels) for unit in todo), work.iterations
    unit_files = readable_bytes(unit_file_bytes(work))
    return [
        f"Units: {len(todo)} of up to {largest} images, {steps} iterations each",
        images,
        f"Unit files: {unit_files} on disk, with {num_snapshots(work)} snapshots of every image",
        _labels(work),
    ]


def _labels(work: Work) -> str:
    config = work.relabel
    if config.mode == "none" or _only_hard(work):
        return "Labels: hard, the class of each image"
    if config.mode == "online":
        return "Soft labels: online, by the teacher, which is stored with the images"
    if config.mode == "given":
        return "Soft labels: learned by the method with the images, one for all views of an image"
    label_bytes = label_choice.planned_bytes(work.num_images, len(work.counts), config, work.size, _storage(work))
    needed = readable_bytes(label_bytes)
    num_sets = len(baselines(work))
    again = f", as much again for each of {num_sets} baselines" if num_sets else ""
    return f"Soft labels: stored, {label_choice.described(config)}, at most {needed} on disk{again}"


def unit_file_bytes(work: Work) -> int:
    """Return the bytes of recover's unit files without their headers: images, snapshots, and metric curves."""
    iterations, num_units = work.iterations, sum(map(len, work.groups))
    image_bytes, label_bytes, metric_bytes = 3 * work.size**2, 8, 4 * len(work.recover.metrics())
    kept = 1 + num_snapshots(work) + (1 if iterations else 0)  # the finished image is a snapshot, too
    return work.num_images * (kept * image_bytes + label_bytes) + num_units * iterations * metric_bytes


def num_snapshots(work: Work) -> int:
    """Return the number of snapshots of a unit before its last iteration."""
    return len(work.recover.snapshots_within(work.iterations))


def baselines(work: Work) -> list[str]:
    """Return the names of the baselines that will be made and labelled."""
    if min(work.counts) < work.recover.ipc:
        return []
    return [name for name in real_sets(work.evaluate.rows) if name != work.method]


def readable_seconds(seconds: float) -> str:
    """Return a duration with two or three digits, in a suitable unit."""
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
        return None, "not known (there is not enough memory)"


def _about(seconds: float, of: str) -> Estimate:
    return seconds, f"about {readable_seconds(seconds)} ({of})"


def _squeeze(work: Work) -> Estimate:
    num_images = sum(work.counts)
    trained = [config for config in work.squeeze.each if not config.weights] if work.asks_teachers else []
    experts, with_experts = _experts(work)
    if not work.asks_teachers and not experts:
        return 0.0, "nothing, because neither images nor labels nor rows of the table ask a teacher"
    if not trained and not experts:
        named = ", ".join(config.weights for config in work.squeeze.each)
        return 0.0, f"no training, because weights are imported ({named})"
    seconds = sum(
        config.training.epochs * calibrate.full_epoch_seconds(work, config.architecture, config.stem, config)
        for config in trained
    )
    epochs = " + ".join(str(config.training.epochs) for config in trained)
    who = f"{len(trained)} teachers, " if len(trained) > 1 else ""
    own = f"{who}{epochs} epochs of {num_images:,} images" if trained else "no teacher"
    of = f"{own}{with_experts}, reading them not counted"
    return _about(seconds + experts, of)


def _experts(work: Work) -> tuple[float, str]:
    """Return the seconds of training experts, and words for them; 0 and none if the method needs no experts."""
    if work.method == IMPORTED or work.recover.needs().snapshots == "none":
        return 0.0, ""
    choice = work.squeeze.experts
    config = work.squeeze.changed(training=choice.training, members=(), weights="")
    each = calibrate.full_epoch_seconds(work, choice.architecture, "auto", config)
    words = f", and {choice.number} experts of {choice.training.epochs} epochs each"
    return choice.number * choice.training.epochs * each, words


def _recover(work: Work) -> Estimate:
    iterations = work.iterations
    if work.method == IMPORTED:
        return 0.0, "nothing, because the images are made elsewhere"
    if not iterations and work.method == "random":
        return 0.0, "negligible, because real images are only copied"
    if not iterations and work.method in REAL_SETS:
        return _about(_looking_seconds(work), f"the teacher looks at {sum(work.counts):,} images")
    if not iterations:
        return None, f"not known (the method '{work.method}' has no iterations that could be measured)"
    found = recover_cost.measure(work)
    each = 1000 * found.step_seconds / found.num_images
    of = f"{each:.3g} ms per image and iteration, {found.num_images} images side by side"
    seconds, words = _about(found.seconds(work.groups, iterations), of)
    room = "memory not known" if found.memory_bytes is None else f"{readable_bytes(found.memory_bytes)} of memory"
    return seconds, f"{words}, {room}, on {work.device.describe()}\nArithmetic: {_arithmetic(work, found)}"


def _arithmetic(work: Work, found: RecoverCost) -> str:
    compilation = found.compilation or "nothing is compiled"
    if found.compiled and not found.measured_compiled:
        compilation += "; measured uncompiled, so recover takes less (--execution.compile on measures it compiled)"
    elif found.compiled:
        num_shapes = len(set(map(calibrate.shape_of, work.groups)))
        compilation += f", which takes {readable_seconds(found.preparation_seconds)}"
        compilation += f" for each of {num_shapes} sizes of groups" if num_shapes > 1 else ""
    return f"{work.device.precision}, {work.device.why}; {compilation}"


def _relabel(work: Work) -> Estimate:
    config, each = work.relabel, None
    sets, plain = 1 + len(baselines(work)), _unaugmented(work)
    of = []
    seconds = 0.0
    if config.mode == "stored":
        each = calibrate.labels_epoch_seconds(work)
        seconds += sets * config.stored_epochs * each
        of.append(f"{config.stored_epochs} epochs of {work.num_images:,} images")
        if sets > 1:
            of.append(f"and of {sets - 1} baseline{'s' if sets > 2 else ''}")
    if plain:
        seconds += sum(plain.values()) * (each or calibrate.labels_epoch_seconds(work))
        names = (f"{num_epochs} of {name}" for name, num_epochs in plain.items())
        of.append(f"{'and ' if of else ''}epochs without augmentation: {', '.join(names)}")
    if not of:
        if config.mode == "given":
            return 0.0, "nothing, because the method makes the labels"
        if config.mode == "none" or _only_hard(work):
            return 0.0, "nothing, because students use hard labels"
        return 0.0, "nothing, because the teacher labels while students train"
    return _about(seconds, ", ".join(of))


def _evaluate(work: Work) -> Estimate:
    config = work.evaluate
    trainings = _trainings(work)
    full = FULL in config.rows and config.full_data == "train"
    epochs, full_epochs = config.protocol.training.epochs, work.squeeze.training.epochs
    asked = {"online": {DISTILLED.images, *REAL_SETS}, "given": set(REAL_SETS)}.get(work.relabel.mode, set[str]())
    taught = [name for name, labels in trainings if labels == "soft" and name in asked]
    seconds, seen = 0.0, [name for name in baselines(work) if name != "random"]
    if taught:
        seconds += len(config.students) * len(taught) * epochs * calibrate.labels_epoch_seconds(work)
    for student in config.students:
        if trainings:
            seconds += len(trainings) * epochs * calibrate.distilled_epoch_seconds(work, student)
        if full:
            seconds += full_epochs * calibrate.full_epoch_seconds(work, student, config.student_stem)
    parts = [f"{len(trainings)} x {epochs} epochs of {work.num_images:,} images"] if trainings else []
    parts += [f"{full_epochs} epochs of {sum(work.counts):,} images"] if full else []
    if not parts:
        return 0.0, "nothing to train"
    looking = len(seen) * _looking_seconds(work) if seen else 0.0
    who = f"{', '.join(config.students)}, {config.num_seeds} seed{'s' if config.num_seeds > 1 else ''}"
    of = f"{who}: {' and '.join(parts)}"
    of += f"; the teacher looks at {sum(work.counts):,} images for {' and for '.join(seen)}" if seen else ""
    return _about(config.num_seeds * seconds + looking, of)


def _trainings(work: Work) -> set[tuple[str, Labels]]:
    """Return images and labels of the small sets that students train on, without repeats."""
    found = set[tuple[str, Labels]]()
    for row in work.evaluate.rows:
        name = DISTILLED.images if row.images == work.method else row.images
        if name in (DISTILLED.images, EQUAL_BYTES.images, *baselines(work)):
            # A protocol with hard labels trains the same students in rows of soft and hard labels.
            hard = row.labels == "soft" and work.evaluate.protocol.loss == "hard"
            found.add((name, "hard" if hard else row.labels))
    return found


def _only_hard(work: Work) -> bool:
    """Return whether no student learns from soft labels."""
    trainings = _trainings(work)
    return bool(trainings) and all(labels == "hard" for _, labels in trainings)


def _unaugmented(work: Work) -> dict[str, int]:
    """Return the epochs of labels of each set that is labelled without augmentation; none if there are no labels."""
    if work.relabel.mode == "none":
        return {}
    names = sorted(name for name, labels in _trainings(work) if labels == "noaug")
    return {name: _storage(work).num_parts if name == DISTILLED.images else 1 for name in names}


def _storage(work: Work) -> Storage:
    """Return how the distilled images are decoded."""
    return PLAIN if work.method == IMPORTED else work.recover.storage()


def _looking_seconds(work: Work) -> float:
    """Return the seconds that the teacher needs for one pass over every real image, without reading them."""
    return calibrate.labels_epoch_seconds(work) / work.num_images * sum(work.counts)
