"""Jobs: pieces of work that leave files. What is done is left out first; the rest is shared among processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attar.core import ranks
from attar.core.log import Advance, Log
from attar.core.spent import Clock


@dataclass(frozen=True)
class Job:
    """A piece of work whose result is the same in whichever process and at whatever time it is done."""

    name: str
    run: Callable[[Advance], Mapping[str, Any] | None]
    """Does the work. It moves the progress bar by ``steps`` in all, and may return values for the log."""
    done: Callable[[], bool] = lambda: False
    """Whether the result is there and whole. It may be asked more than once."""
    steps: float = 1
    """How far the whole job moves the progress bar."""
    cost: float | None = None
    """How long it takes, in any unit that the jobs of one call have in common; None: as its ``steps``."""
    num_results: int = 1
    """How many results it makes, for the message on how much is there already."""


class Launcher(Protocol):
    """Where jobs are run."""

    def map(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], None]) -> None:
        """Pass every job to exactly one call of ``work``, in any process; return when all these calls have returned."""
        ...


class Processes:
    """Runs jobs in the processes that torchrun started; without torchrun in this process."""

    def map(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], None]) -> None:
        """Run this process's share, then wait for the others."""
        costs = [job.steps if job.cost is None else job.cost for job in jobs]
        work([jobs[place] for place in shares(costs, ranks.world_size())[ranks.rank()]])
        ranks.wait()


def do(
    jobs: Sequence[Job],
    log: Log,
    stage: str,
    *,
    unit: str = "",
    results: str = "jobs",
    event: str = "job",
    launcher: Launcher | None = None,
) -> None:
    """Run all jobs that are not done, and return when every process has finished its share.

    ``stage`` names the progress bar, ``unit`` its steps and ``results`` what jobs make. Each job that is run appends
    one ``event`` to the log: its name, its wall and processor seconds, and what it returned. All processes must call
    this at the same point with the same jobs. An error of a job ends the call.
    """
    waiting = _not_done(jobs)
    steps_done = sum(job.steps for job in jobs) - sum(job.steps for job in waiting)
    num_results, num_open = (sum(job.num_results for job in some) for some in (jobs, waiting))
    if waiting and num_open < num_results:
        log.say(f"{stage:<9} {num_results - num_open} of {num_results} {results} are there already")

    def work(share: Sequence[Job]) -> None:
        with log.progress(stage, round(steps_done + sum(job.steps for job in share)), round(steps_done), unit) as move:
            for job in share:
                if job.done():  # another run may share the folder, and may have been faster
                    move(job.steps)
                    continue
                clock = Clock()
                values = job.run(move) or {}
                log.event(event, **({"name": job.name} | clock.spent().plain() | dict(values)))

    (launcher or Processes()).map(waiting, work)


def shares(costs: Sequence[float], num_shares: int) -> list[list[int]]:
    """Places of ``costs``, dealt out so that sums are close: the largest first, each to the share with the least.

    Equal costs are dealt in turn. Within a share places are in order.
    """
    dealt: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [0.0] * num_shares
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        least = min(range(num_shares), key=lambda share: (loads[share], len(dealt[share])))
        dealt[least].append(place)
        loads[least] += costs[place]
    return [sorted(places) for places in dealt]


def once(say: Callable[[str], object]) -> Callable[[str], None]:
    """``say`` for texts that were not said before, for ``Job.done``, which is asked more than once."""
    said: set[str] = set()

    def say_new(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return say_new


def _not_done(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not done, the same for every process.

    Each job is looked at by one process, and nobody begins before all have looked: so it does not matter that results
    appear meanwhile, made by these processes or by another run.
    """
    size, rank = ranks.world_size(), ranks.rank()
    done = ranks.any_of([place % size == rank and job.done() for place, job in enumerate(jobs)])
    return [job for job, is_done in zip(jobs, done, strict=True) if not is_done]
