"""Learning rates over time."""

import math


def cosine(base: float, step: int, steps: int, warmup_steps: int = 0, warmup_start: float = 0.01) -> float:
    """Linear rise from ``warmup_start * base`` over ``warmup_steps``, then half a cosine from ``base`` towards 0."""
    if step < warmup_steps:
        return base * (warmup_start + (1 - warmup_start) * step / warmup_steps)
    return base * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps))) / 2
