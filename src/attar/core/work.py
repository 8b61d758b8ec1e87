"""Jobs: pieces of work that write files. Finished jobs are skipped; the processes share the others."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Call:
    """The jobs of one call of ``do``, and how they are shown and logged."""

    jobs: Sequence[Job]
    log: Log
    stage: str
    """Name on the progress bar."""
    unit: str = ""
    """Name of the steps."""
    results: str = "jobs"
    """Name of what the jobs make."""
    event: str = "job"
    """Event in the log for each job that ran."""
    together: bool = False
    """Whether all processes do every job at the same time, each its part of it."""

    @property
    def place(self) -> tuple[str, str]:
        """The stage and the folder of its log, which tell calls of a run apart."""
        return self.stage, "" if self.log.path is None else str(self.log.path.parent.absolute())

    def begin(self) -> list[Job]:
        """Return the open jobs; says and logs how many results exist. All processes must call it at the same point."""
        waiting = _not_done(self.jobs)
        num_results, num_open = (sum(job.num_results for job in some) for some in (self.jobs, waiting))
        if waiting and num_open < num_results:
            there = f"{num_results - num_open} of {num_results} {self.results} are there already"
            self.log.say(f"{self.stage:<9} {there}")
        if waiting:
            self.log.release()
            done = num_results - num_open
            self.log.event("jobs", what=self.stage, results=self.results, done=done, total=num_results, by=self.event)
        return waiting

    def progress(self, share: Sequence[Job], waiting: Sequence[Job]) -> contextlib.AbstractContextManager[Advance]:
        """Show progress over this process's share of the open jobs."""
        done = sum(job.steps for job in self.jobs) - sum(job.steps for job in waiting)
        return self.log.progress(self.stage, round(done + sum(job.steps for job in share)), round(done), self.unit)

    def run(self, share: Sequence[Job], waiting: Sequence[Job]) -> None:
        """Run a share of the open jobs in this process, one after another."""
        with self.progress(share, waiting) as move:
            for job in share:
                # Another run in the same folder may have finished it meanwhile.
                if ranks.of_first(job.done()) if self.together else job.done():
                    move(job.steps)
                else:
                    self.run_one(job, move)

    def run_one(self, job: Job, move: Advance) -> None:
        """Run a job and log it: its name, its results, its wall and CPU seconds, and the values that it returned."""
        clock = Clock()
        values = job.run(move) or {}
        known = {"name": job.name, "results": job.num_results} | clock.elapsed().plain()
        if ranks.is_first() or not self.together:
            self.log.event(self.event, **(known | dict(values)))


class Launcher(Protocol):
    """Has jobs done, by this process or by others."""

    together: bool | None
    """Whether all processes train every network together; None: as the recipe says."""

    def team_size(self) -> int:
        """Return how many processes would train one network together."""
        ...

    def do(self, call: Call) -> None:
        """Have every open job of the call done exactly once; return when all are done."""
        ...


class Processes:
    """Shares jobs among the processes that torchrun started; without torchrun, runs all in this process."""

    together: bool | None = None

    def team_size(self) -> int:
        """Return the number of processes."""
        return ranks.world_size()

    def do(self, call: Call) -> None:
        """Run this process's share, then wait for the others."""
        waiting = call.begin()
        share = waiting
        if not call.together:
            costs = [job.steps if job.cost is None else job.cost for job in waiting]
            share = [waiting[place] for place in shares(costs, ranks.world_size())[ranks.rank()]]
        call.run(share, waiting)
        ranks.wait()


_launcher: Launcher = Processes()


def launcher() -> Launcher:
    """Return the launcher of this process."""
    return _launcher


@contextlib.contextmanager
def launched_by(other: Launcher) -> Iterator[None]:
    """Have all jobs done by another launcher during the block."""
    global _launcher
    before, _launcher = _launcher, other
    try:
        yield
    finally:
        _launcher = before


def do(
    jobs: Sequence[Job],
    log: Log,
    stage: str,
    *,
    unit: str = "",
    results: str = "jobs",
    event: str = "job",
    together: bool = False,
) -> None:
    """Have all unfinished jobs done; returns when every process has finished its share.

    With ``together`` all processes run every job at the same time, each doing its part of it; the first one logs it.

    ``stage`` is the name on the progress bar, ``unit`` the name of its steps and ``results`` the name of what jobs
    make. The log gets an event "jobs" with the number of results, and one ``event`` for each job that runs: its name,
    its results, its wall and CPU seconds, and the values it returned. All processes must call this at the same point
    with the same jobs. An error in a job ends the call.
    """
    _launcher.do(Call(jobs, log, stage, unit, results, event, together))


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
