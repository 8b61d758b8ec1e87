"""Learning-rate schedules."""

import math
from typing import Literal

Schedule = Literal[
    "cosine",
    "cosine-linear",
    "multistep",
    "multistep-halves",
    "fifths-halves",
    "step-tenth",
    "thirds-tenth",
    "one-cycle",
    "constant",
]


def cosine(
    base: float, step: int, steps: int, warmup_steps: int = 0, warmup_start: float = 0.01, stretch: float = 1.0
) -> float:
    """Return a linear warm-up from ``warmup_start * base`` over ``warmup_steps``, then half a cosine to 0.

    ``stretch`` extends the cosine beyond the end of training, so that training ends above 0: at half of ``base`` with a
    stretch of 2 (RDED, arXiv 2312.03526; EDC's zeta, arXiv 2404.13733).
    """
    if step < warmup_steps:
        return base * (warmup_start + (1 - warmup_start) * step / warmup_steps)
    done, whole = step - warmup_steps, max(1, steps - warmup_steps)
    return base * (1 + math.cos(math.pi * done / (stretch * whole))) / 2


def cosine_linear(base: float, step: int, steps: int, warmup_steps: int = 0, stretch: float = 1.0) -> float:
    """Return ``cosine`` until 5/6 of training, then a line to 0 that starts at a sixth of the cosine's last value.

    The drop to a sixth is in EDC's published code, where this schedule is called 'cos2'.
    """
    done, whole = step - warmup_steps, max(1, steps - warmup_steps)
    if 6 * done <= 5 * whole:
        return cosine(base, step, steps, warmup_steps, stretch=stretch)
    return base * (1 + math.cos(math.pi * 5 / (6 * stretch))) / 2 * max(0.0, 1 - done / whole)


def multistep(base: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return ``base``, a fifth of it from 2/3 of training and 1/25 from 5/6; warm-up as in ``cosine``.

    Students in CIM (arXiv 2607.00916) use it.
    """
    if step < warmup_steps:
        return cosine(base, step, steps, warmup_steps)
    done, whole = step - warmup_steps, max(1, steps - warmup_steps)
    return base * 0.2 ** ((3 * done >= 2 * whole) + (6 * done >= 5 * whole))


def multistep_halves(base: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return ``base``, halved at 4/5, at 9/10 and at 19/20 of training; warm-up as in ``cosine``.

    Students on CIFAR-10 in EDC (arXiv 2404.13733) use it.
    """
    if step < warmup_steps:
        return cosine(base, step, steps, warmup_steps)
    done, whole = step - warmup_steps, max(1, steps - warmup_steps)
    return base * 0.5 ** ((5 * done >= 4 * whole) + (10 * done >= 9 * whole) + (20 * done >= 19 * whole))


def fifths_halves(base: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return ``base``, halved after each fifth of training; warm-up as in ``cosine``.

    Students in NCFM (arXiv 2502.20653) use it.
    """
    if step < warmup_steps:
        return cosine(base, step, steps, warmup_steps)
    return base * 0.5 ** min(4, 5 * (step - warmup_steps) // max(1, steps - warmup_steps))


def step_tenth(base: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return ``base``, and a tenth of it from the middle of training; warm-up as in ``cosine``.

    Students in dataset condensation (DC, arXiv 2006.05929; DM, arXiv 2110.04181; MTT, arXiv 2203.11932) use it; their
    code lowers the rate one epoch later.
    """
    if step < warmup_steps:
        return cosine(base, step, steps, warmup_steps)
    return base * (0.1 if 2 * (step - warmup_steps) >= max(1, steps - warmup_steps) else 1.0)


def thirds_tenth(base: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return ``base``, a tenth of it from 1/3 of training and a hundredth from 2/3; warm-up as in ``cosine``.

    torchvision's published ResNets were trained with it (90 epochs, references/classification).
    """
    if step < warmup_steps:
        return cosine(base, step, steps, warmup_steps)
    return base * 0.1 ** min(2, 3 * (step - warmup_steps) // max(1, steps - warmup_steps))


def one_cycle(base: float, step: int, steps: int) -> float:
    """Return half a cosine from a twentieth of ``base`` up to it in a tenth of training, then one down to nearly 0.

    PyTorch's OneCycleLR with the settings of ImageNet-21K-P's published training (Ridnik et al., 2021, arXiv
    2104.10972): pct_start 0.1, div_factor 20. It has its own warm-up.
    """
    start, end, peak = base / 20, base / 20 / 1e4, max(0.1 * steps - 1, 0.0)
    if step <= peak and peak:
        low, high, done = start, base, step / peak
    else:
        low, high, done = base, end, min(1.0, (step - peak) / max(steps - 1 - peak, 1e-9))
    return high + (low - high) / 2 * (1 + math.cos(math.pi * done))


def constant(base: float, step: int, warmup_steps: int = 0) -> float:
    """Return ``base`` after a warm-up as in ``cosine``."""
    return cosine(base, min(step, warmup_steps), warmup_steps + 1, warmup_steps)


def learning_rate(
    schedule: Schedule, base: float, step: int, steps: int, warmup_steps: int = 0, stretch: float = 1.0
) -> float:
    """Return the learning rate of ``step`` (0-based) in a training of ``steps``."""
    if schedule == "constant":
        return constant(base, step, warmup_steps)
    if schedule == "multistep":
        return multistep(base, step, steps, warmup_steps)
    if schedule == "multistep-halves":
        return multistep_halves(base, step, steps, warmup_steps)
    if schedule == "fifths-halves":
        return fifths_halves(base, step, steps, warmup_steps)
    if schedule == "step-tenth":
        return step_tenth(base, step, steps, warmup_steps)
    if schedule == "thirds-tenth":
        return thirds_tenth(base, step, steps, warmup_steps)
    if schedule == "one-cycle":
        return one_cycle(base, step, steps)
    if schedule == "cosine-linear":
        return cosine_linear(base, step, steps, warmup_steps, stretch)
    return cosine(base, step, steps, warmup_steps, stretch=stretch)
