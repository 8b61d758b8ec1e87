"""Say plainly where distilled images are no better than random real ones."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.stages.rows import DISTILLED, DISTILLED_HARD, RANDOM, RANDOM_HARD
from attar.stages.teacher_check import SURE

if TYPE_CHECKING:
    from attar.report.table import Line

_PAIRS = {str(DISTILLED): str(RANDOM), str(DISTILLED_HARD): str(RANDOM_HARD)}
"""Rows of distilled images, and the rows of as many random real images with the same labels."""


def notes(lines: Sequence["Line"]) -> list[str]:
    """Return a sentence for each run and student whose distilled images do not clearly beat random real ones.

    There is no sentence where the gain is larger than the spread.
    """
    by_key = {(line.run, line.student, line.row): line for line in lines}
    several, students = len({line.run for line in lines}) > 1, {line.student for line in lines if line.row in _PAIRS}
    found, told = list[str](), set[tuple[str, str]]()
    for line in lines:
        real = by_key.get((line.run, line.student, _PAIRS.get(line.row, "")))
        if real is None or (line.run, line.student) in told:
            continue
        told.add((line.run, line.student))
        names = ", ".join(filter(None, (line.run * several, line.student * (len(students) > 1))))
        if said := _compared(line, real):
            found.append(f"{names}: {said}" if names else said)
    return found


def spread(line: "Line", real: "Line") -> float:
    """Return the standard deviation of the difference of two accuracies, in points, at least of one validation image.

    It is that over students; of single students, which have none, that of the validation images.
    """
    least = 100 / line.num_val if line.num_val else 0.0
    if line.top1_std is not None and real.top1_std is not None:
        return max(least, math.hypot(line.top1_std, real.top1_std))
    shares = [(one.top1_mean or 0.0) / 100 for one in (line, real)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / line.num_val) if line.num_val else 0.0


def _compared(line: "Line", real: "Line") -> str:
    if line.top1_mean is None or real.top1_mean is None:
        return ""
    gain, allowed = line.top1_mean - real.top1_mean, spread(line, real)
    if gain > allowed:
        return ""
    pair = f"({line.top1_mean:.1f} against {real.top1_mean:.1f} %)"
    if max(line.top1_mean, real.top1_mean) <= _guessed(line):
        return (
            f"Neither the distilled images nor random real ones {pair} are clearly better than guessing "
            f"({100 / line.num_classes:.1f} %): train students longer (--evaluate.protocol.training.epochs), or use "
            f"more images."
        )
    if gain >= -allowed:
        return (
            f"The distilled images are about as good as random real ones {pair}: the difference is within the spread."
        )
    return (
        f"The distilled images are worse than random real ones {pair}: keep real images (--method random), or use more "
        f"--recover.iterations."
    )


def _guessed(line: "Line") -> float:
    """Return the accuracy in percent that guessing stays under in 95 % of draws of so many validation images."""
    chance = 1 / line.num_classes
    return 100 * (chance + SURE * math.sqrt(chance * (1 - chance) / line.num_val)) if line.num_val else 0.0
