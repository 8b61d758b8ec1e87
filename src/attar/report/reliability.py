"""How far accuracies can be trusted: the validation images behind them, the spread over students, and chance."""

import math
from collections.abc import Sequence
from typing import Protocol

FEW = 2000
"""With fewer validation images the notes say how much their choice matters."""
_UNEVEN = 1.5
"""How many times chance the largest class must have, to be named."""


class Scored(Protocol):
    """What is needed of a line of the table."""

    @property
    def run(self) -> str: ...
    @property
    def row(self) -> str: ...
    @property
    def top1_mean(self) -> float | None: ...
    @property
    def top1_std(self) -> float | None: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def num_val(self) -> int | None: ...
    @property
    def largest_class(self) -> float | None: ...


def measured_on(lines: Sequence[Scored]) -> str:
    """Return in words how many validation images the students were measured on."""
    counts = sorted({line.num_val for line in lines if line.num_val})
    known = all(line.num_val for line in lines)
    shown = " or ".join(f"{count:,}" for count in counts[:3]) + " or more" * (len(counts) > 3)
    return f"{shown} real validation images" if counts and known else "real validation images"


def of_students(lines: Sequence[Scored]) -> str:
    """Return in words what the numbers are: means with their spread, or those of single students."""
    if any(line.top1_std is not None for line in lines):
        return "mean ± standard deviation over n students"
    return "of one student each"


def chance(lines: Sequence[Scored]) -> float | None:
    """Return the accuracy of guessing, in percent; None if the lines have different numbers of classes."""
    counts = {line.num_classes for line in lines}
    return 100 / counts.pop() if len(counts) == 1 else None


def guessing(lines: Sequence[Scored]) -> str:
    """Return a sentence on what guessing brings; '' if that depends on the line."""
    guess = chance(lines)
    if guess is None:
        return ""
    shares = {line.largest_class for line in lines}
    largest = shares.pop() if len(shares) == 1 else None
    more = f", and naming the largest class always {largest:.1f} %" if largest and largest > _UNEVEN * guess else ""
    return f"Guessing brings {guess:.3g} %{more}."


def notes(lines: Sequence[Scored]) -> list[str]:
    """Return a note where the validation images are few: what one of them counts, and the interval of an accuracy."""
    own = [line for line in lines if line.row.startswith("distilled") and line.top1_mean is not None]
    found = {line.num_val: line for line in reversed([*own, *(line for line in lines if line.top1_mean is not None)])}
    few = sorted(count for count in found if count is not None and count < FEW)
    if not few:
        return []
    least = few[0]
    mean = found[least].top1_mean or 0.0
    low, high = (100 * bound for bound in interval(mean / 100, least))
    who = f" ({found[least].run})" if len({line.run for line in lines}) > 1 else ""
    share = f"{100 / least:.2g}"
    each = f"{share} point{'s' * (share != '1')}"
    spread = "; the ± beside an accuracy does not include this" if found[least].top1_std is not None else ""
    return [
        f"{least:,} validation images: one of them is {each}. On other images of the same kind, "
        f"{mean:.1f} %{who} may be {low:.0f} to {high:.0f} % (95 %){spread}."
    ]


def interval(share: float, count: int, deviations: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share that was measured on ``count`` images; by default that of 95 %."""
    square = deviations**2 / count
    middle = (share + square / 2) / (1 + square)
    half = deviations / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
