"""What runs on the machines of a Ray cluster: a task does one job of a run, and reports to the process that the user
started."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
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
"""File in the run's folder with the launch's name, by which workers see whether they share the folder."""
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
    agreed: "Seen | None" = None
    """The device of the workers, as the first one found it."""


@dataclass(frozen=True)
class Seen:
    """The device of a worker."""

    precision: Precision
    why: str
    name: str
    """Name of the hardware."""
    kind: str
    """'cpu' or 'cuda'."""


class Mail:
    """Sends the reports of one job."""

    def __init__(self, inbox: Any, job: str, attempt: str = "", speaks: bool = True) -> None:
        """``speaks``: whether it sends more than errors, as one of several processes that do a job together."""
        self._inbox, self._job, self._attempt, self._speaks = inbox, job, attempt or os.urandom(8).hex(), speaks
        self._steps, self._text, self._values, self._sent = 0.0, "", None, time.monotonic()
        self.send("began", ray.util.get_node_ip_address())

    def send(self, kind: str, text: str) -> None:
        """Send a report, and wait until it has arrived."""
        if not self._speaks and kind not in ("refused", "lost"):
            return
        values, self._values = self._values, None
        _answer(self._inbox.put.remote(Message(self._job, self._attempt, kind, text, self._steps, values)))

    def advance(self, steps: float = 1, note: str = "", values: Any = None, earlier: bool = False) -> None:
        """Report progress, not more often than every ``REPORT_SECONDS``."""
        self._steps += steps
        self._text, self._values = note or self._text, values or self._values
        if time.monotonic() >= self._sent + REPORT_SECONDS:
            self.send("moved", self._text)
            self._sent = time.monotonic()


def _answer(reference: Any) -> Any:
    """Return the value of a reference. In a task ``ray.get`` would lend this job's CPUs to another job meanwhile."""
    return reference.future().result()


@dataclass
class _Here:
    """What this process keeps from one task to the next."""

    launch: str = ""
    session: Session | None = None
    mail: Mail | None = None
    gpus: tuple[Any, ...] = ()


_here = _Here()


def look(order: Order) -> Seen | str:
    """Return the device of this machine, or a sentence that says why it cannot take part."""
    return _sentence_of(lambda: _look(order))


def _look(order: Order) -> Seen:
    execution = _prepare(order).execution
    found = device.resolve(execution)
    return Seen(found.precision, found.why, found.describe(), found.device.type)


def do_job(order: Order, inbox: Any, place: Place, name: str) -> str:
    """Do one job; returns '' or, for an error that the user can fix, its sentence.

    Ray runs it again elsewhere if this process or machine is lost.
    """
    return _sentence_of(lambda: _do(order, inbox, place, name)) or ""


def _do(order: Order, inbox: Any, place: Place, name: str) -> None:
    gpus = tuple(ray.get_gpu_ids())
    if _here.session is not None and _here.gpus != gpus:
        # CUDA stays with the GPUs that it began with. Ray repeats the task in a new process.
        os._exit(0)
    _here.gpus, _here.mail = gpus, Mail(inbox, name)
    for _ in range(3):  # a session may have ended for lack of work, or be past the job
        if _session(order, inbox).run(place, name, _here.mail.advance):
            return
        _here.session = None
    raise RuntimeError(f"the run has no job '{name}' in {place}")


def train_part(asked: Mapping[str, Any]) -> None:
    """Do one process's part of a job that several do together; Ray Train starts it in each process."""
    order, inbox, name = asked["order"], asked["inbox"], asked["name"]
    context = ray.train.get_context()
    mail = _here.mail = Mail(inbox, name, asked["attempt"], speaks=context.get_world_rank() == 0)
    try:
        recipe = _prepare(order)
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            recipe = recipe.changed(execution=recipe.execution.changed(device=str(device)))
        _follow(inbox)
        size = context.get_world_size()
        _here.session = Session(lambda: _walk(order, recipe), together=True, team=size)
        _here.session.run(asked["place"], name, mail.advance)
        _here.session.close()
    except ranks.PeerLostError as error:
        mail.send("lost", str(error))
        raise
    except AttarError as error:
        mail.send("refused", str(error))
        raise
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            mail.send("lost", str(error))
        raise


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
    mark = Path(order.out) / MARK
    if not mark.is_file() or mark.read_text() != order.launch:
        raise AttarError(
            f"Machine {machine} does not see the run's files in {order.out}; give an --out folder on a file system "
            f"that all machines of the cluster share."
        )
    recipe = from_text(order.recipe, Path("the recipe of this run"))
    return recipe.changed(execution=_threads(recipe.execution, order.cpus))


def _threads(execution: Execution, cpus: float) -> Execution:
    return execution if execution.threads else execution.changed(threads=max(1, int(cpus)))


def _sentence_of(do: Callable[[], Any]) -> Any:
    """Return what ``do`` returns; of an error that the user can fix, the sentence, so that Ray does not repeat it."""
    try:
        return do()
    except AttarError as error:
        return str(error)
    except OSError as error:
        if sentence := disk_full(error):
            return sentence
        raise
