"""Jobs of a run on a Ray cluster, and their progress on the process that the user started."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attar.core import work
from attar.core.errors import AttarError
from attar.core.log import Advance, Log, activity
from attar.core.peers import CONTINUE
from attar.launch import joint, slots
from attar.launch.inbox import Inbox, Message
from attar.launch.slots import Slots
from attar.recipes.recipe import Recipe

if TYPE_CHECKING:
    from attar.launch.worker import Order, Seen

POLL_SECONDS = 0.5
"""How often the reports of jobs are read."""
WAIT_SECONDS = 15.0
"""How long to wait for a free machine before saying so."""


def needs(ray: Any, recipe: Recipe[Any]) -> dict[str, float]:
    """Return the CPUs and GPUs of one job, as Ray's options; raises AttarError if the device needs a GPU."""
    execution = recipe.execution
    gpus = execution.job_gpus
    if gpus < 0:
        gpus = 1.0 if execution.device != "cpu" and ray.cluster_resources().get("GPU") else 0.0
    if execution.device.startswith("cuda") and not gpus:
        raise AttarError(
            f"--execution.device {execution.device} needs a GPU, and a job gets none: execution.job_gpus is 0, or the "
            f"cluster has no GPU at the start; give --execution.job-gpus 1, or --execution.device cpu."
        )
    return {"num_cpus": execution.job_cpus, "num_gpus": gpus}


def refuse_too_large(ray: Any, needs: dict[str, float], team: int) -> None:
    """Raise AttarError if a cluster that cannot grow has no room for a job, or for ``team`` processes."""
    if slots.room(ray, needs) >= team:
        return
    asked = f"a job needs {slots.wanted(needs)}"
    if team > 1:
        asked = f"--execution.train-workers {team} needs {team} times {slots.wanted(needs)}"
    raise AttarError(
        f"{asked[0].upper()}{asked[1:]}, and this machine has {has(ray)}; lower --execution.train-workers, job-cpus or "
        f"job-gpus, or name a larger cluster by --address."
    )


def has(ray: Any) -> str:
    """Return the CPUs and GPUs of the cluster, in words."""
    cluster = ray.cluster_resources()
    return f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs"


class Tasks:
    """Has each job done by a process of a Ray cluster."""

    together: bool | None = None

    def __init__(self, ray: Any, order: "Order", needs: dict[str, float], team: int, log: Log) -> None:
        """``needs`` are the CPUs and GPUs of a job; ``team`` processes train one network together."""
        from attar.launch import worker

        self._ray, self._order, self._needs, self._log = ray, order, needs, log
        self._team, self._slots = team, Slots(ray, worker.Worker, order, needs)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._inbox = ray.remote(Inbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._say = work.once(log.say)

    def team_size(self) -> int:
        """Return how many processes train one network together."""
        return self._team

    def look(self) -> "Seen":
        """Return the device of a worker; waits for one."""
        waits = self._waits()
        while True:
            self._slots.ask(1)
            if found := self._slots.wait(POLL_SECONDS)[0]:
                break
            waits()
        seen = found[0]
        self._order = replace(self._order, agreed=seen)
        self._slots.rest()
        machines = sum(1 for node in self._ray.nodes() if node["Alive"])
        asks = f"a job takes {slots.wanted(self._needs)}, on {seen.name}"
        self._log.say(f"ray       {machines} machine{'s' * (machines > 1)} with {has(self._ray)}; {asks}")
        return seen

    def close(self) -> None:
        """End all processes."""
        self._slots.close()

    def _waits(self) -> Callable[[], None]:
        """Return a function to call while nothing can be done; it says so after ``WAIT_SECONDS``."""
        until = time.monotonic() + WAIT_SECONDS

        def wait() -> None:
            if time.monotonic() >= until:
                self._say_waiting(f"waiting for a machine with {slots.wanted(self._needs)} free")

        return wait

    def _say_waiting(self, sentence: str) -> None:
        self._say(f"ray       {sentence}; the cluster has {has(self._ray)}")

    def do(self, call: work.Call) -> None:
        """Have every open job of the call done, the longest first; show progress and failures as they come in."""
        waiting = call.begin()
        if not waiting:
            return
        costs = {job.name: job.steps if job.cost is None else job.cost for job in waiting}
        queue = sorted(waiting, key=lambda job: -costs[job.name])
        with call.progress(waiting, waiting) as advance, contextlib.ExitStack() as starting:
            starting.enter_context(activity("processes start on the cluster"))
            shown = Shown(call.log, advance, starting.close)
            if call.together:
                self._slots.end_idle()  # their CPUs and GPUs are needed
                for job in queue:
                    self._train(call, job, shown)
            else:
                self._share(call, queue, shown)

    def _share(self, call: work.Call, queue: list[work.Job], shown: "Shown") -> None:
        """Have each job of the queue done by one process. A job whose process was lost is the next one."""
        losses, waits = Counter[str](), self._waits()
        while queue or self._slots.num_busy:
            self._slots.ask(len(queue))
            while queue and self._slots.num_free:
                self._slots.give(queue.pop(0), self._order, self._inbox, call.place)
            if self._slots.num_busy:
                waits = self._waits()
            else:
                waits()
            if not queue:
                self._slots.end_idle(slots.IDLE_SECONDS)
            _, ended = self._slots.wait(POLL_SECONDS)
            self._show(shown)
            for job, error in ended:
                if error is None:
                    shown.finish(job)
                    continue
                losses[job.name] += not getattr(error, "preempted", False)
                if losses[job.name] > slots.RETRIES:
                    raise slots.gave_up(job.name, type(error).__name__) from error
                queue.insert(0, job)
        self._slots.rest()

    def _train(self, call: work.Call, job: work.Job, shown: "Shown") -> None:
        """Have a job done by several processes together."""

        def show() -> None:
            self._show(shown, POLL_SECONDS)

        what, team = (call.place, job.name), (self._team, self._needs)
        joint.train(self._ray, self._order, self._inbox, what, team, show, self._say_waiting)
        shown.finish(job)

    def _show(self, shown: "Shown", seconds: float = 0.0) -> None:
        try:
            messages = self._ray.get(self._inbox.take.remote(seconds))
        except self._ray.exceptions.RayError as error:
            raise AttarError(
                f"Ray lost the process that collects the reports of jobs ({type(error).__name__}), perhaps for lack of "
                f"memory; {CONTINUE}."
            ) from error
        for message in messages:
            shown.add(message)


class Shown:
    """Shows the reports of jobs in this process's log and on its progress bar."""

    def __init__(self, log: Log, advance: Advance, begun: Callable[[], object]) -> None:
        """``begun`` is called when the first job moves."""
        self._advance, self._begun = advance, begun
        self._attempts: dict[str, str] = {}
        self._machines: dict[str, str] = {}
        self._steps: dict[str, tuple[float, float]] = {}
        """Steps of each job, and those of them that earlier processes did."""
        self._say, self._warn = work.once(log.say), work.once(log.warn)

    def add(self, message: Message) -> None:
        """Take in a report."""
        job = message.job
        if message.kind == "began":
            if job in self._attempts:
                self._warn(
                    f"{job} begins again on {message.text}, because its process on {self._machines[job]} was lost"
                )
            self._attempts[job], self._machines[job] = message.attempt, message.text
            self._move(job, 0.0)
        elif self._attempts.get(job) != message.attempt:
            return
        elif message.kind == "moved":
            self._move(job, message.steps, message.earlier, message.text, message.values)
        else:
            self._begun()
            (self._say if message.kind == "say" else self._warn)(message.text)

    def finish(self, job: work.Job) -> None:
        """Show that a job is done."""
        self._move(job.name, job.steps, self._steps.get(job.name, (0.0, 0.0))[1])

    def _move(self, job: str, steps: float, earlier: float = 0.0, note: str = "", values: Any = None) -> None:
        if steps:
            self._begun()
        before, taken_over = self._steps.get(job, (0.0, 0.0))
        self._steps[job] = steps, earlier
        if earlier != taken_over:
            self._advance(earlier - taken_over, earlier=True)
        self._advance(steps - before - (earlier - taken_over), note=note, values=values)
