"""Jobs: pieces of work that write files. Finished jobs are skipped; the processes share the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attar.core import ranks
from attar.core.elapsed import Clock
from attar.core.log import Advance, Log


@dataclass(frozen=True)
class Job:
    """A piece of work whose result does not depend on the process that runs it or on the time."""

    name: str
    run: Callable[[Advance], Mapping[str, Any] | None]
    """Does the work. It advances the progress bar by ``steps`` in total, and may return values for the log."""
    done: Callable[[], bool] = lambda: False
    """Returns whether the result exists and is complete. It may be called several times."""
    steps: float = 1
    """How far the job advances the progress bar."""
    cost: float | None = None
    """Expected duration, in any unit that all jobs of one call share; None: equal to ``steps``."""
    num_results: int = 1
    """How many results it makes, for the message on how many exist already."""


class Launcher(Protocol):
    """Distributes jobs."""

    def map(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], None]) -> None:
        """Pass every job to exactly one call of ``work``, in any process; return when all calls have returned."""
        ...


class Processes:
    """Distributes jobs among the processes that torchrun started; without torchrun, runs all in this process."""

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
    together: bool = False,
) -> None:
    """Run all unfinished jobs; returns when every process has finished its share.

    With ``together`` all processes run every job at the same time, each doing its part of it; the first one logs it.

    ``stage`` is the name on the progress bar, ``unit`` the name of its steps and ``results`` the name of what jobs
    make. The log gets an event "jobs" with the number of results, and one ``event`` for each job that runs: its name,
    its results, its wall and CPU seconds, and the values it returned. All processes must call this at the same point
    with the same jobs. An error in a job ends the call.
    """
    waiting = _not_done(jobs)
    steps_done = sum(job.steps for job in jobs) - sum(job.steps for job in waiting)
    num_results, num_open = (sum(job.num_results for job in some) for some in (jobs, waiting))
    if waiting and num_open < num_results:
        log.say(f"{stage:<9} {num_results - num_open} of {num_results} {results} are there already")

    if waiting:
        log.release()
        log.event("jobs", what=stage, results=results, done=num_results - num_open, total=num_results, by=event)

    def work(share: Sequence[Job]) -> None:
        with log.progress(stage, round(steps_done + sum(job.steps for job in share)), round(steps_done), unit) as move:
            for job in share:
                # Another run in the same folder may have finished it meanwhile.
                if ranks.of_first(job.done()) if together else job.done():
                    move(job.steps)
                    continue
                clock = Clock()
                values = job.run(move) or {}
                known = {"name": job.name, "results": job.num_results} | clock.elapsed().plain()
                if ranks.is_first() or not together:
                    log.event(event, **(known | dict(values)))

    if together:
        work(waiting)
        ranks.wait()
    else:
        (launcher or Processes()).map(waiting, work)


def shares(costs: Sequence[float], num_shares: int) -> list[list[int]]:
    """Split the indices of ``costs`` into shares with similar sums.

    Takes the largest cost first and adds it to the share with the smallest sum. Equal costs go to the shares in turn.
    Indices within a share are sorted.
    """
    dealt: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [0.0] * num_shares
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        least = min(range(num_shares), key=lambda share: (loads[share], len(dealt[share])))
        dealt[least].append(place)
        loads[least] += costs[place]
    return [sorted(places) for places in dealt]


def once(say: Callable[[str], object]) -> Callable[[str], None]:
    """Return a function that calls ``say`` only once per text; for ``Job.done``, which is called several times."""
    said: set[str] = set()

    def say_new(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return say_new


def _not_done(jobs: Sequence[Job]) -> list[Job]:
    """Return the unfinished jobs, the same list in every process.

    Each process checks some of the jobs, and all wait for the checks before they start working. So all processes get
    the same list, even if results appear meanwhile.
    """
    size, rank = ranks.world_size(), ranks.rank()
    done = ranks.any_of([place % size == rank and job.done() for place, job in enumerate(jobs)])
    return [job for job, is_done in zip(jobs, done, strict=True) if not is_done]
