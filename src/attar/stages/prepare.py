"""Prepare: run the steps that a method needs before its first unit, once per run and teacher.

The tables of a step are in ``<out>/prepared/<step>-<identity>``. The identity covers only what the step reads (some of
the method's settings, the data, the seed, the teacher's weights, earlier steps), so a run with another learning rate
uses the same tables.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from attar.core import ranks, work
from attar.core.config import digest
from attar.core.errors import AttarError
from attar.core.log import Advance, Log
from attar.core.randomness import generator
from attar.stages import method_code
from attar.stages.workspace import Workspace
from attar.store import tables
from attar.synthesis.method import Preparation
from attar.synthesis.task import Context, MethodConfig, Network, RealImages

ROWS = 50
"""Rows per job and file, independent of the number of processes, unless the step has a number of its own."""


@dataclass(frozen=True)
class _Table:
    """The tables of one step, for one teacher if the step is made per teacher."""

    folder: Path
    identity: str
    num_rows: int
    rows_per_job: int = 0

    @property
    def rows(self) -> range:
        """All rows of the tables."""
        return range(self.num_rows)

    @property
    def blocks(self) -> list[range]:
        """Blocks of rows, one per job."""
        each = self.rows_per_job or ROWS
        return [range(start, min(start + each, self.num_rows)) for start in range(0, self.num_rows, each)]

    def is_whole(self, rows: range, warn: Callable[[str], None], finished: bool = False) -> bool:
        """Return whether these rows, or the finished tables, are complete; warns about a file to be made again."""
        if not tables.path_of(self.folder, None if finished else rows).exists():
            return False
        fault = tables.fault(self.folder, rows, self.identity, finished)
        if fault:
            warn(f"{fault.partition('; ')[0]}; it is made again")
        return not fault

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return the finished tables by key; reads them at first use."""
        return tables.load(self.folder, self.rows, self.identity)


class Tables:
    """The prepared tables of a run, as ``Task.table`` gives them to methods."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int | None], _Table] = {}

    def __call__(self, name: str, teacher: int = 0) -> Tensor:
        """Return the table STEP.KEY, on the CPU; raises KeyError, which lists the tables, when it does not exist."""
        step, _, key = name.partition(".")
        made = self._made.get((step, None)) or self._made.get((step, teacher))
        if made is None or key not in made.tensors:
            own = {step: table for (step, number), table in self._made.items() if number in (None, teacher)}
            raise _absent(name, teacher, [f"{step}.{key}" for step, table in own.items() for key in table.tensors])
        return made.tensors[key]

    def of_steps(self, names: Sequence[str]) -> Callable[..., Tensor]:
        """Return a lookup that is limited to some steps."""

        def table(name: str, teacher: int = 0) -> Tensor:
            if name.partition(".")[0] not in names:
                raise KeyError(f"the table '{name}' cannot be read here; add its step to 'reads'")
            return self(name, teacher)

        return table

    def add(self, step: str, teacher: int | None, table: _Table) -> None:
        """Register the tables of a step, by the teacher's place."""
        self._made[step, teacher] = table


def run(
    space: Workspace,
    steps: Sequence[Preparation],
    config: MethodConfig,
    networks: Sequence[Network],
    weights: Sequence[str],
    real: RealImages,
    log: Log,
) -> Tables:
    """Make the missing tables of all steps; returns all tables.

    ``weights`` are the SHA-256 of the networks' weights. Every process must call this at the same point. Raises
    AttarError when a step fails, ValueError when it returns tables of a wrong shape.
    """
    found, identities = Tables(), dict[str, str]()
    for step in steps:
        read = _read_by(step, config, identities)
        identities[step.name] = digest([read, list(weights)])
        warn, todo = work.once(log.warn), list[tuple[_Table, str, Context]]()
        for number, network in enumerate(networks if step.per_teacher else networks[:1]):
            if not step.applies(config, network.module):
                continue
            data = [space.choice.identity(), space.real.fingerprint]
            identity = digest([step.name, read, data, space.seed, network.precision, weights[number]])
            num_rows = real.num_classes if step.rows == "class" else config.ipc
            table = _Table(
                space.out / "prepared" / f"{step.name}-{identity[:16]}", identity, num_rows, step.rows_per_job
            )
            context = Context(
                rows=table.rows,
                teacher=network,
                number=number,
                real=_real_for(step, config, real),
                size=(space.choice.size, space.choice.size),
                device=space.device.device,
                stream=lambda *names, step=step: generator(space.seed, "prepare", step.name, *names),
                num_teachers=len(networks),
                table=found.of_steps(step.reads),
            )
            title = f"{step.name} of teacher {number}" if step.per_teacher else step.name
            todo.append((table, title, context))
            found.add(step.name, number if step.per_teacher else None, table)
        is_open = ranks.any_of([not table.is_whole(table.rows, warn, finished=True) for table, _, _ in todo])
        todo = [each for each, open_ in zip(todo, is_open, strict=True) if open_]
        jobs = [job for each in todo for job in _jobs(step, config, *each, warn)]
        work.do(jobs, log, "prepare", unit=f"{step.rows} rows", results="parts", event="prepare")
        if ranks.is_first():
            for table, _, _ in todo:
                tables.join(table.folder, table.blocks, table.identity)
        ranks.wait()
    return found


def steps_of(module: Any, config: MethodConfig, networks: Sequence[Network]) -> list[Preparation]:
    """Return the steps of a method's module that at least one of these networks needs."""
    steps = module.prepare(config) if hasattr(module, "prepare") else ()
    return [step for step in steps if any(step.applies(config, network.module) for network in networks)]


def rehearsed(
    steps: Sequence[Preparation],
    config: MethodConfig,
    networks: Sequence[Network],
    real: RealImages,
    size: tuple[int, int],
    device: torch.device,
) -> Callable[..., Tensor]:
    """Return tables for a forecast: makes the first row and repeats it for all others."""
    made: dict[tuple[str, int], Tensor] = {}

    def table(name: str, teacher: int = 0) -> Tensor:
        if (name, teacher) not in made:
            raise _absent(name, teacher, [known for known, number in made if number == teacher])
        return made[name, teacher]

    for step in steps:
        num_rows = real.num_classes if step.rows == "class" else config.ipc
        for number, network in enumerate(networks if step.per_teacher else networks[:1]):
            if step.applies(config, network.module):
                stream = functools.partial(generator, 0, "prepare", step.name)
                shown = _real_for(step, config, real)
                context = Context(range(1), network, number, shown, size, device, stream, len(networks), table)
                for key, row in step.make(context, _settings(step, config)).items():
                    for asked in [number] if step.per_teacher else range(len(networks)):
                        made[f"{step.name}.{key}", asked] = row.expand(num_rows, *row.shape[1:])
    return table


def _jobs(
    step: Preparation, config: MethodConfig, table: _Table, title: str, context: Context, warn: Callable[[str], None]
) -> list[work.Job]:
    """Return one job per block of rows."""

    def job(rows: range) -> work.Job:
        def make(advance: Advance) -> None:
            shown = 0.0

            def show(share: float) -> None:
                nonlocal shown
                moved = min(share, len(rows) - shown)
                shown += moved
                advance(moved)

            made = step.make(replace(context, rows=rows, advance=show), _settings(step, config))
            tables.save(table.folder, made, rows, table.identity)
            advance(len(rows) - shown)

        name = f"{title}, {step.rows} {rows.start} to {rows.stop - 1}"
        return work.Job(name, make, lambda: table.is_whole(rows, warn), steps=len(rows))

    return [job(rows) for rows in table.blocks]


def _real_for(step: Preparation, config: MethodConfig, real: RealImages) -> RealImages:
    """Return the real images for a step; they raise AttarError if its code does not declare that it reads them."""
    return method_code.real_for(getattr(step.make, "__module__", ""), config, real) or real


def _absent(name: str, teacher: int, known: Sequence[str]) -> KeyError:
    return KeyError(f"there is no table '{name}' of teacher {teacher}; there are {', '.join(known) or 'none'}")


def _settings(step: Preparation, config: MethodConfig) -> SimpleNamespace:
    """Return the configuration fields that the step reads, and no others."""
    fields = type(config).model_fields
    return SimpleNamespace(**{name: getattr(config, name) for name in step.reads if name in fields})


def _read_by(step: Preparation, config: MethodConfig, earlier: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings and the identities of earlier steps that a step reads."""
    known = {name: value for name, value in config.plain().items() if name in step.reads} | {
        name: identity for name, identity in earlier.items() if name in step.reads
    }
    unknown = [name for name in step.reads if name not in known]
    if unknown:
        raise AttarError(
            f"The preparation '{step.name}' reads '{unknown[0]}', which is neither a setting of the method nor an "
            f"earlier preparation; correct 'reads' in the method's file."
        )
    return known
