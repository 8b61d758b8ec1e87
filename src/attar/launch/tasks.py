"""Jobs of a run as tasks of a Ray cluster, and their progress on the process that the user started."""

import contextlib
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core import work
from attar.core.errors import AttarError, first_line
from attar.core.log import Advance, Log, activity
from attar.core.peers import CONTINUE
from attar.launch.inbox import Inbox, Message
from attar.recipes.recipe import Recipe

if TYPE_CHECKING:
    from attar.launch.worker import Order

RETRIES = 10
"""How often Ray does a job again whose process died. It does not count machines that announce their end."""
MOST_TASKS = 4000
"""How many tasks wait in Ray at a time."""
POLL_SECONDS = 0.5
"""How often the reports of jobs are read."""
PATIENCE_SECONDS = 14 * 24 * 3600
"""How long processes that train together wait for one another; Ray sees it when one is lost."""
RAY_TRAIN = ".ray-train"
"""Folder in the run's folder for what Ray Train writes; removed at the end."""
WAIT_SECONDS = 15.0
"""How long to wait for a free machine before saying so."""


def needs(ray: Any, recipe: Recipe[Any]) -> dict[str, float]:
    """Return the CPUs and GPUs of one job, as Ray's options."""
    asked = recipe.execution.job_gpus
    gpus = (1.0 if ray.cluster_resources().get("GPU") else 0.0) if asked < 0 else asked
    return {"num_cpus": recipe.execution.job_cpus, "num_gpus": gpus}


class Tasks:
    """Has each job done by a Ray task."""

    together: bool | None = None

    def __init__(self, ray: Any, order: "Order", needs: dict[str, float], team: int, log: Log) -> None:
        """``needs`` are the CPUs and GPUs of a job; ``team`` processes train one network together."""
        from attar.launch import worker

        self._ray, self._order, self._needs, self._log = ray, order, needs, log
        self._worker, self._team = worker, team
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._inbox = ray.remote(Inbox).options(num_cpus=0, scheduling_strategy=here).remote()

    def team_size(self) -> int:
        """Return how many processes train one network together."""
        return self._team

    def look(self) -> Any:
        """Return the device of a worker; waits for one."""
        task = self._remote(self._worker.look, "look").remote(self._order)
        if not self._ray.wait([task], timeout=WAIT_SECONDS)[0]:
            self._log.say(f"ray       waiting for a machine with {self._wanted()} free; the cluster has {self._has()}")
        try:
            seen = self._get(task, "the first look at a machine")
        except self._ray.exceptions.RayTaskError as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            raise AttarError(
                f"A machine of the cluster lacks a package ({first_line(error.cause)}); install the same version of "
                f"attar on every machine, by: pip install 'attar[ray]'"
            ) from None
        if isinstance(seen, str):
            raise AttarError(seen)
        self._order = replace(self._order, agreed=seen)
        machines = sum(1 for node in self._ray.nodes() if node["Alive"])
        asks = f"a job takes {self._wanted()}, on {seen.name}"
        self._log.say(f"ray       {machines} machine{'s' * (machines > 1)} with {self._has()}; {asks}")
        return seen

    def _has(self) -> str:
        cluster = self._ray.cluster_resources()
        return f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs"

    def do(self, call: work.Call) -> None:
        """Have every open job of the call done, the longest first; show progress and failures as they come in."""
        waiting = call.begin()
        if not waiting:
            return
        costs = {job.name: job.steps if job.cost is None else job.cost for job in waiting}
        queue = sorted(waiting, key=lambda job: -costs[job.name])
        running: dict[Any, work.Job] = {}
        with call.progress(waiting, waiting) as advance, contextlib.ExitStack() as starting:
            starting.enter_context(activity("processes start on the cluster"))
            shown = Shown(call.log, advance, starting.close)
            if call.together:
                for job in queue:
                    self._train(call, job, shown)
                return
            while queue or running:
                while queue and len(running) < MOST_TASKS:
                    job = queue.pop(0)
                    remote = self._remote(self._worker.do_job, job.name)
                    running[remote.remote(self._order, self._inbox, call.place, job.name)] = job
                self._show(shown, POLL_SECONDS)
                ended, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
                for task in ended:
                    job = running.pop(task)
                    if sentence := self._get(task, job.name):
                        self._show(shown, 0)
                        raise AttarError(sentence)
                    self._show(shown, 0)
                    shown.finish(job)

    def _train(self, call: work.Call, job: work.Job, shown: "Shown") -> None:
        """Have a job done by several processes together; if one is lost, all begin again at the last checkpoint."""
        for _ in range(RETRIES + 1):
            error = self._fit(call, job, shown)
            if error is None:
                shown.finish(job)
                return
            if shown.refused:
                raise AttarError(shown.refused)
            from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

            failures = getattr(error, "worker_failures", {}).values()
            if failures and not shown.lost and all(isinstance(each, UserExceptionWithTraceback) for each in failures):
                raise error
            shown.lost = False
        raise self._gave_up(job.name, "the training")

    def _fit(self, call: work.Call, job: work.Job, shown: "Shown") -> Exception | None:
        """Run Ray Train once, and return its error."""
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._needs["num_gpus"]
        asked = {"order": self._order, "inbox": self._inbox, "place": call.place, "name": job.name}
        trainer = TorchTrainer(
            self._worker.train_part,
            train_loop_config=asked | {"attempt": secrets.token_hex(8)},
            # Ranks exchange choices by gloo; gradients go through NCCL where it fits (ranks.device_group).
            torch_config=TorchConfig(backend="gloo", timeout_s=PATIENCE_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=self._team,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": self._needs["num_cpus"]} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(name=job.name, storage_path=str(Path(self._order.out) / RAY_TRAIN)),
        )
        ended: Future[None] = Future()

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:
                ended.set_exception(error)
            else:
                ended.set_result(None)

        # In the main thread, Ray Train would take over Ctrl-C.
        threading.Thread(target=fit, name="attar-train", daemon=True).start()
        while not ended.done():
            self._show(shown, POLL_SECONDS)
        self._show(shown, 0)
        error = ended.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return error

    def _show(self, shown: "Shown", seconds: float) -> None:
        try:
            messages = self._ray.get(self._inbox.take.remote(seconds))
        except self._ray.exceptions.RayError as error:
            raise AttarError(
                f"Ray lost the process that collects the reports of jobs ({type(error).__name__}), perhaps for lack of "
                f"memory; {CONTINUE}."
            ) from error
        for message in messages:
            shown.add(message)

    def _remote(self, function: Any, name: str) -> Any:
        # Without max_calls=0 Ray starts a new process for every task that uses a GPU.
        return self._ray.remote(max_calls=0)(function).options(
            name=f"attar {name}", max_retries=RETRIES, retry_exceptions=False, **self._needs
        )

    def _get(self, task: Any, name: str) -> Any:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            raise self._gave_up(name, type(error).__name__) from error

    def _gave_up(self, name: str, why: str) -> AttarError:
        return AttarError(
            f"Ray gave up on {name}: its process was lost {RETRIES + 1} times ({why}), which happens for lack of "
            f"memory, for example; the same command continues where it stopped."
        )

    def _wanted(self) -> str:
        gpus, cpus = self._needs["num_gpus"], self._needs["num_cpus"]
        return f"{cpus:g} CPU{'s' * (cpus != 1)}" + f" and {gpus:g} GPU{'s' * (gpus != 1)}" * bool(gpus)


class Shown:
    """Shows the reports of jobs in this process's log and on its progress bar."""

    def __init__(self, log: Log, advance: Advance, begun: Callable[[], object]) -> None:
        """``begun`` is called when the first job moves."""
        self._advance, self._begun = advance, begun
        self._attempts: dict[str, str] = {}
        self._machines: dict[str, str] = {}
        self._steps: dict[str, float] = {}
        self._say, self._warn = work.once(log.say), work.once(log.warn)
        self.refused = ""
        """The sentence of an error that the user can fix."""
        self.lost = False
        """Whether a process reported that another one was lost."""

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
        elif message.kind == "refused":
            self.refused = message.text
        elif message.kind == "lost":
            self.lost = True
        elif message.kind == "moved":
            self._move(job, message.steps, message.text, message.values)
        else:
            self._begun()
            (self._say if message.kind == "say" else self._warn)(message.text)

    def finish(self, job: work.Job) -> None:
        """Show that a job is done."""
        self._move(job.name, job.steps)

    def _move(self, job: str, steps: float, note: str = "", values: Any = None) -> None:
        if steps:
            self._begun()
        before = self._steps.get(job, 0.0)
        self._steps[job] = steps
        self._advance(steps - before, note=note, values=values)
