"""Starts: what the pixels are before the first iteration."""

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.synthesis.choices import Starts
from attar.synthesis.coreset import gather
from attar.synthesis.task import Task

Start = Float[Tensor, "image 3 height width"]


def start_of(task: Task, config: Starts) -> Start:
    """The start that a configuration asks for, in the first teacher's normalised units."""
    if config.start == "noise":
        return noise(task)
    if config.start == "real":
        return real(task)
    raise AttarError(f"--recover.start {config.start} cannot be used yet; use noise or real.")


def real(task: Task) -> Start:
    """A random real image of the class for each slot, none twice while there are others."""
    assert task.real is not None  # needs
    places = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        count = task.real.count(label)
        order = torch.randperm(count, generator=task.shared_stream("start", task.real.class_name(label)))
        places.append(int(order[slot % count]))
    return task.teachers[0].normalisation.apply(gather(task, places))


def noise(task: Task) -> Start:
    """Standard normal noise in normalised units, the start of SRe2L and CDA."""
    streams = zip(task.unit_sizes, task.streams("noise"), strict=True)
    return torch.cat([torch.randn((count, 3, *task.size), generator=stream) for count, stream in streams])
