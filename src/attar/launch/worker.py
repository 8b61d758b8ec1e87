"""What runs on the machines of a Ray cluster: a process does jobs of a run, and reports to the process that the user
started."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from attar import __version__, pipeline
from attar.core import device, log, ranks
from attar.core.errors import AttarError, disk_full
from attar.core.execution import Execution
from attar.core.precision import Precision
from attar.core.session import Session
from attar.launch.inbox import Message
from attar.recipes.recipe import Recipe, from_text

MARK = ".launch"
"""File in the run's folder, with the launch's name, by which workers see whether they share the folder."""
REPORT_SECONDS = 0.5
"""Least time between two reports of a job's progress."""
Place = tuple[str, str]


@dataclass(frozen=True)
class Order:
    """What a worker must know of a launch."""

    launch: str
    """A name that no other launch has."""
    recipe: str
    """As YAML."""
    out: str
    stage: str
    """One stage; '' for all."""
    folder: str
    """The folder that relative paths of the recipe start from."""
    version: str
    """The version of attar."""
    cpus: float
    """CPUs of a job."""
    gpus: float
    """GPUs of a job."""
    agreed: "Seen | None" = None
    """The device of the workers, as the first one found it."""


@dataclass(frozen=True)
class Seen:
    """The device of a worker."""

    precision: Precision
    why: str
    name: str
    """Name of the hardware."""


class Mail:
    """Sends the reports of one job."""

    def __init__(self, inbox: Any, job: str, attempt: str = "", speaks: bool = True) -> None:
        """``speaks``: whether it sends anything; one of several processes that do a job together does."""
        self._inbox, self._job, self._attempt, self._speaks = inbox, job, attempt or os.urandom(8).hex(), speaks
        self._steps, self._earlier, self._text, self._values, self._sent = 0.0, 0.0, "", None, time.monotonic()
        self.send("began", ray.util.get_node_ip_address())

    def send(self, kind: str, text: str) -> None:
        """Send a report, and wait until it has arrived."""
        if not self._speaks:
            return
        values, self._values = self._values, None
        message = Message(self._job, self._attempt, kind, text, self._steps, self._earlier, values)
        _answer(self._inbox.put.remote(message))

    def advance(self, steps: float = 1, note: str = "", values: Any = None, earlier: bool = False) -> None:
        """Report progress, not more often than every ``REPORT_SECONDS``."""
        self._steps += steps
        self._earlier += steps * earlier
        self._text, self._values = note or self._text, values or self._values
        if time.monotonic() >= self._sent + REPORT_SECONDS:
            self.send("moved", self._text)
            self._sent = time.monotonic()


def _answer(reference: Any) -> Any:
    """Return the value of a reference. Here ``ray.get`` would lend this job's CPUs to another job meanwhile."""
    return reference.future().result()


@dataclass
class _Here:
    """What this process keeps from one job to the next."""

    launch: str = ""
    session: Session | None = None
    mail: Mail | None = None


_here = _Here()


class Worker:
    """A process that does jobs one after another. It keeps the GPUs that it began with."""

    def look(self, order: Order) -> Seen:
        """Return the device of this machine; raises AttarError if it cannot take part."""
        with _errors_for_driver():
            found = device.resolve(_prepare(order).execution)
            return Seen(found.precision, found.why, found.describe())

    def run(self, order: Order, inbox: Any, place: Place, name: str) -> None:
        """Do one job; raises AttarError for an error that the user can fix."""
        with _errors_for_driver():
            _here.mail = Mail(inbox, name)
            for _ in range(3):  # a session may have ended for lack of work, or be past the job
                if _session(order, inbox).run(place, name, _here.mail.advance):
                    return
                _here.session = None
            raise _no_job(place, name)


def train_part(asked: Mapping[str, Any]) -> None:
    """Do one process's part of a job that several do together; Ray Train starts it in each process.

    Raises AttarError for an error that the user can fix.
    """
    import ray.train.torch

    order, inbox, place, name = asked["order"], asked["inbox"], asked["place"], asked["name"]
    context = ray.train.get_context()
    with _errors_for_driver():
        mail = _here.mail = Mail(inbox, name, asked["attempt"], speaks=context.get_world_rank() == 0)
        recipe = _prepare(order)
        own = str(ray.train.torch.get_device())
        recipe = recipe.changed(execution=in_training(recipe.execution, own))
        _follow(inbox)
        size = context.get_world_size()
        session = _here.session = Session(lambda: _walk(order, recipe), together=True, team=size)
        if not session.run(place, name, mail.advance):
            raise _no_job(place, name)
        session.close()


def _no_job(place: Place, name: str) -> RuntimeError:
    return RuntimeError(f"the run has no job '{name}' in {place}")


def _follow(inbox: Any) -> None:
    ranks.follow(_answer(inbox.number.remote(ray.get_runtime_context().get_worker_id())))
    log.relay(_relay)


def _session(order: Order, inbox: Any) -> Session:
    if _here.session is None or _here.launch != order.launch:
        if _here.session is not None:
            _here.session.close()
        recipe = _prepare(order)
        _follow(inbox)
        _here.launch = order.launch
        _here.session = Session(lambda: _walk(order, recipe))
    return _here.session


def _walk(order: Order, recipe: Recipe[Any]) -> None:
    seen = order.agreed
    with device.agreed(seen.precision, seen.why) if seen else contextlib.nullcontext():
        pipeline.run(recipe, order.out, stage=order.stage, quiet=True)


def _relay(kind: str, text: str) -> None:
    if _here.mail is not None and _here.session is not None and _here.session.running:
        _here.mail.send(kind, text)


def _prepare(order: Order) -> Recipe[Any]:
    """Return the recipe; raises AttarError if this machine has another attar or does not share the run's folder."""
    machine = ray.util.get_node_ip_address()
    if __version__ != order.version:
        raise AttarError(
            f"Machine {machine} has attar {__version__}, and the run was started with {order.version}; install the "
            f"same version everywhere."
        )
    with contextlib.suppress(OSError):
        os.chdir(order.folder)
    if not mark_of(order).is_file():
        raise AttarError(
            f"Machine {machine} does not see the run's files in {order.out}; give an --out folder on a file system "
            f"that all machines of the cluster share."
        )
    recipe = from_text(order.recipe, Path("the recipe of this run"))
    return recipe.changed(execution=execution_of(recipe.execution, order))


def mark_of(order: Order) -> Path:
    """Return the file by which the machines of a launch see whether they share its folder."""
    return Path(order.out) / f"{MARK}-{order.launch}"


def execution_of(execution: Execution, order: Order) -> Execution:
    """Return the settings for a job: as many threads as CPUs, and the CPU if it gets no GPU."""
    threads = execution.threads or max(1, int(order.cpus))
    # Ray hides no GPU from a process that asked for none.
    name = "cpu" if execution.device == "auto" and not order.gpus else execution.device
    return execution.changed(threads=threads, device=name)


def in_training(execution: Execution, own: str) -> Execution:
    """Return the settings for one of several processes that train together; ``own`` is the device that Ray names.

    Such a process sees the GPUs of all of them on its machine. Without PyTorch for GPUs it computes as any job does.
    """
    if not own.startswith("cuda") or execution.device == "cpu" or not torch.cuda.is_available():
        return execution
    return execution.changed(device=own)


@contextlib.contextmanager
def _errors_for_driver() -> Iterator[None]:
    """Raise errors that the user can fix as an AttarError that can be sent to another process; a full disk is one."""
    try:
        yield
    except ranks.PeerLostError:
        raise
    except AttarError as error:
        raise AttarError(str(error)) from None
    except OSError as error:
        if sentence := disk_full(error):
            raise AttarError(sentence) from None
        raise
