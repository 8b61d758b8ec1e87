"""Tasks on real digits for the tests of methods that invert teachers, with all tables that they prepare."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attar.core.randomness import generator
from attar.stages import prepare
from attar.synthesis.task import Checkpoint, Context, Network, NoCheckpoint, Task
from formula import formula_network
from matched_digits import NORMALISATION, NUM_CLASSES, SIDE, Curves, Real


def teachers(number: int = 1) -> tuple[Network, ...]:
    """Networks whose weights are a formula; each is another one."""
    found = []
    for place in range(number):
        network = formula_network(NUM_CLASSES)
        with torch.no_grad():
            for tensor in network.parameters():
                tensor.mul_(1 + 0.1 * place)
        found.append(Network(network, NORMALISATION))
    return tuple(found)


def tables_of(module: ModuleType, config: Any, networks: Sequence[Network]) -> Mapping[tuple[str, int], Tensor]:
    """Make all rows of the method's tables, by name and teacher."""
    found: dict[tuple[str, int], Tensor] = {}

    def table(name: str, teacher: int = 0) -> Tensor:
        return found[name, teacher]

    for step in prepare.steps_of(module, config, networks):
        for number, network in enumerate(networks):
            rows = range(NUM_CLASSES if step.rows == "class" else config.ipc)
            context = Context(
                rows=rows,
                teacher=network if step.per_teacher else networks[0],
                number=number,
                real=Real(),
                size=(SIDE, SIDE),
                device=torch.device("cpu"),
                stream=lambda *names: generator(0, "prepare", *names),
                num_teachers=len(networks),
                table=table,
            )
            for key, value in step.make(context, prepare._settings(step, config)).items():
                found[f"{step.name}.{key}", number] = value
    return found


def task_of(
    module: ModuleType,
    config: Any,
    num_teachers: int = 1,
    num_slots: int = 1,
    slots: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[Task, Curves]:
    """A unit of three classes: slots 0 to ``num_slots`` - 1, or these ``slots``."""
    curves, networks = Curves(), teachers(num_teachers)
    tables = tables_of(module, config, networks)
    slots = slots or range(num_slots)
    task = Task(
        labels=torch.arange(NUM_CLASSES).repeat(len(slots)),
        slots=torch.tensor(slots).repeat_interleave(NUM_CLASSES),
        size=(SIDE, SIDE),
        teachers=networks,
        device=torch.device("cpu"),
        streams=lambda *names: (generator(0, "unit", *names),),
        shared_stream=lambda *names: generator(0, "recover", *names),
        monitor=curves,
        unit_sizes=(NUM_CLASSES * len(slots),),
        real=Real(),
        table=lambda name, teacher=0: tables[name, teacher],
        checkpoint=checkpoint or NoCheckpoint(),
    )
    return task, curves
