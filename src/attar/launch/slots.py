"""The processes of a Ray cluster that do jobs: one for each free place, with CPUs and GPUs of its own."""

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from attar.core import work
from attar.core.errors import AttarError
from attar.core.peers import CONTINUE

if TYPE_CHECKING:
    from attar.launch.worker import Order, Place, Seen

RETRIES = 10
"""How often a job is done again whose process was lost. Machines that announced their end do not count."""
SPARE = 16
"""At least so many processes more than the cluster has room for are asked for, so that it may grow."""
IDLE_SECONDS = 30.0
"""How long a process without a job keeps its CPUs and GPUs."""
COUNT_SECONDS = 5.0
"""How often the cluster's CPUs and GPUs are counted."""


class Slots:
    """Processes that begin as the cluster has room for them. Each keeps its CPUs and GPUs until it ends.

    So a process never meets another GPU than the one that its CUDA began with. A job is given to a process that is
    ready, never to one that still waits for a machine. A process that is lost is replaced; its job is the caller's.
    """

    def __init__(self, ray: Any, actor: Any, order: "Order", needs: dict[str, float]) -> None:
        """``actor`` is the class of a process; ``needs`` are the CPUs and GPUs of one."""
        self._ray, self._order, self._needs = ray, order, needs
        self._actor = ray.remote(actor).options(max_restarts=0, max_task_retries=0, **needs)
        self._starting: dict[Any, tuple[Any, float]] = {}
        self._free: list[tuple[Any, float]] = []
        """Both with the time since when."""
        self._busy: dict[Any, tuple[Any, work.Job]] = {}
        self._failed, self._room, self._counted = 0, 0, -COUNT_SECONDS
        self._timer = threading.Timer(0, lambda: None)

    @property
    def num_busy(self) -> int:
        """How many jobs are being done."""
        return len(self._busy)

    @property
    def num_free(self) -> int:
        """How many processes could begin a job at once."""
        return len(self._free)

    def ask(self, num_jobs: int) -> None:
        """Ask for processes, so that this many jobs more could be done at a time.

        0: for no more. Those for which the cluster has room go on starting, for the next jobs.
        """
        self._stop_timer()
        alive = len(self._free) + len(self._busy)
        fitting = max(0, self._count() - alive)
        if not num_jobs:
            for reference in list(self._starting)[fitting:]:
                self._end(self._starting.pop(reference)[0])
        for _ in range(min(num_jobs - len(self._free), fitting + max(SPARE, alive)) - len(self._starting)):
            actor = self._actor.remote()
            self._starting[actor.look.remote(self._order)] = actor, time.monotonic()

    def give(self, job: work.Job, order: "Order", inbox: Any, place: "Place") -> None:
        """Have a free process do a job."""
        actor, _ = self._free.pop()
        self._busy[actor.run.remote(order, inbox, place, job.name)] = actor, job

    def wait(self, seconds: float) -> tuple[list["Seen"], list[tuple[work.Job, Exception | None]]]:
        """Wait until a process is ready or a job ends, but not longer than ``seconds``.

        Returns the devices of the processes that have become ready, and the jobs that have ended, each with the error
        by which its process was lost, or None. Raises the errors of jobs; AttarError if it is one that the user can
        fix, or if processes cannot start.
        """
        references = [*self._starting, *self._busy]
        self._ray.wait(references, num_returns=1, timeout=seconds)
        ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        seen, done = list["Seen"](), list[tuple[work.Job, Exception | None]]()
        for reference in ended:
            starts = reference in self._starting
            actor, job = (self._starting.pop(reference)[0], None) if starts else self._busy.pop(reference)
            found, error = self._answer(reference)
            if error is None:
                self._free.append((actor, time.monotonic()))
            else:
                self._end(actor)
            if job is not None:
                done.append((job, error))
            elif error is None:
                seen.append(found)
                self._failed = 0
            else:
                self._failed += not getattr(error, "preempted", False)
                if self._failed > RETRIES and not self._free and not self._busy:
                    raise AttarError(
                        f"Processes on the cluster were lost {self._failed} times before their first job "
                        f"({type(error).__name__}), which happens for lack of memory, for example; {CONTINUE}."
                    ) from error
        return seen, done

    def rest(self) -> None:
        """Keep the free processes for the next call of ``ask``, but not longer than ``IDLE_SECONDS``."""
        self._stop_timer()
        self._timer = threading.Timer(IDLE_SECONDS, self.end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()

    def close(self) -> None:
        """End all processes."""
        self._stop_timer()
        self.end_idle()
        for actor, _ in self._busy.values():
            self._end(actor)
        self._busy.clear()

    def end_idle(self, seconds: float = 0.0) -> None:
        """End the processes that have had no job for so long, whether they are ready or still start."""
        until = time.monotonic() - seconds
        ending = [actor for actor, since in [*self._free, *self._starting.values()] if since <= until]
        self._free = [one for one in self._free if one[1] > until]
        self._starting = {reference: one for reference, one in self._starting.items() if one[1] > until}
        for actor in ending:
            self._end(actor)

    def _answer(self, reference: Any) -> tuple[Any, Exception | None]:
        """Return what a process answers, and the error by which it was lost."""
        try:
            return self._ray.get(reference), None
        except self._ray.exceptions.RayTaskError as error:
            if sentence := fixable(error):
                raise AttarError(sentence) from None
            raise
        except self._ray.exceptions.RayError as error:
            if sentence := fixable(error):
                raise AttarError(sentence) from None
            return None, error

    def _end(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # the cluster may be lost
            self._ray.kill(actor, no_restart=True)

    def _count(self) -> int:
        """Return how many processes the cluster has room for."""
        if time.monotonic() >= self._counted + COUNT_SECONDS:
            self._room, self._counted = room(self._ray, self._needs), time.monotonic()
        return self._room


def room(ray: Any, needs: dict[str, float]) -> int:
    """Return how many processes with these CPUs and GPUs the whole cluster has room for."""
    has = ray.cluster_resources()
    asked = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    return min(int(has.get(what, 0) / count + 1e-9) for what, count in asked.items() if count)


def fixable(error: BaseException) -> str:
    """Return the sentence of an error on the cluster that the user can fix; '' for other errors."""
    cause = getattr(error, "cause", None) or getattr(error, "_base_exc", None) or error
    if isinstance(cause, AttarError):
        return str(cause)
    told = f"{type(cause).__name__}: {cause}\n{error}"
    if lacking := re.search(r"(?:ModuleNotFoundError|ImportError): (.+)", told):
        return (
            f"A machine of the cluster lacks a package ({lacking[1].rstrip('.')}); install the same version of attar "
            f"on every machine, by: pip install 'attar[ray]'"
        )
    return ""


def gave_up(name: str, why: str) -> AttarError:
    """Return the error for a job whose process was lost too often."""
    return AttarError(
        f"Ray gave up on {name}: its process was lost {RETRIES + 1} times ({why}), which happens for lack of memory, "
        f"for example; the same command continues where it stopped."
    )


def wanted(needs: dict[str, float]) -> str:
    """Return the CPUs and GPUs of a job, in words."""
    gpus, cpus = needs["num_gpus"], needs["num_cpus"]
    return f"{cpus:g} CPU{'s' * (cpus != 1)}" + f" and {gpus:g} GPU{'s' * (gpus != 1)}" * bool(gpus)
