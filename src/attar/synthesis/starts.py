"""Starts: what the pixels are before the first iteration."""

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.synthesis.choices import Starts
from attar.synthesis.task import Task

Start = Float[Tensor, "image 3 height width"]


def start_of(task: Task, config: Starts) -> Start:
    """The start that a configuration asks for, in the first teacher's normalised units."""
    if config.start == "noise":
        return noise(task)
    raise AttarError(f"--recover.start {config.start} cannot be used yet; use noise.")


def noise(task: Task) -> Start:
    """Standard normal noise in normalised units, the start of SRe2L and CDA."""
    streams = zip(task.unit_sizes, task.streams("noise"), strict=True)
    return torch.cat([torch.randn((count, 3, *task.size), generator=stream) for count, stream in streams])
