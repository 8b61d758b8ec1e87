"""Tasks of the units before one, for methods that repeat how those began."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from attar.core.randomness import generator
from attar.store.units import Unit
from attar.synthesis.task import NoCheckpoint, Task


def tasks(task: Task, group: tuple[Unit, ...], todo: Sequence[tuple[Unit, ...]], seed: int) -> list[Task]:
    """Return the tasks of the units that have this unit's slots and the classes before it, in order.

    They draw what those units draw, so a unit can repeat how they began without waiting for their images. Empty for
    several units in one batch: methods that need earlier units take one unit at a time.
    """
    if len(group) != 1:
        return []
    unit, found = group[0], list[Task]()
    for other in (each for part in todo for each in part):
        if other.slot == unit.slot and other.block < unit.block:
            found.append(
                replace(
                    task,
                    labels=torch.tensor(other.labels, device=task.device),
                    slots=torch.tensor(other.slots),
                    streams=lambda *names, name=other.name: (generator(seed, "recover", name, *names),),
                    unit_sizes=(len(other.labels),),
                    checkpoint=NoCheckpoint(),
                    earlier=tuple,
                )
            )
    return found
