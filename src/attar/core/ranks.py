"""Processes started by torchrun: this process's rank, barriers, and choices that all processes share."""

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attar.core import interruption, peers
from attar.core.errors import AttarError

JOIN_SECONDS = 600.0
"""How long processes wait for one another at the start; on a cluster some start minutes later."""
_FOREVER = datetime.timedelta(days=14)
_group: Any = None
"""The group of all processes, for barriers and choices; None: PyTorch's default group."""


class PeerLostError(AttarError):
    """Another process of the launch has ended early."""


@dataclass(frozen=True)
class Part:
    """One process's part of every batch, when several processes train one network."""

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> slice:
        """Return the places of its images in a batch of ``count`` images.

        Parts differ by one image at most. A batch with fewer than two images for each process is not divided: every
        process then has all of it, because BatchNorm cannot train on a single image.
        """
        if count < 2 * self.size:
            return slice(0, count)
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)


WHOLE = Part()
"""All of every batch."""


_follower: int | None = None
"""The number of this process if it follows a run that another process directs; it begins with 1."""
_working = False
"""Whether a follower does its part of a job that several processes do together."""


def follow(number: int) -> None:
    """Let this process follow a run that another process directs, from now on.

    It writes no shared file and waits for nobody, because the other process is the first one, and is ahead of it.
    """
    global _follower
    _follower = number


@contextlib.contextmanager
def working_together() -> Iterator[None]:
    """During the block, let a follower be one of the processes of its ``torch.distributed`` group."""
    global _working
    _working = True
    try:
        yield
    finally:
        _working = False


def number() -> int:
    """Return the number of this process's log files; 0 for the first process of a run."""
    return rank() if _follower is None else _follower


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun started, for the duration of the block; does nothing without torchrun.

    Ranks exchange only barriers and choices, so the backend is gloo on every device. Once all have arrived, the timeout
    is long: rank 0 may squeeze for hours while the others wait. If the program handles signals
    (``interruption.handle_signals``), all processes stop at once when one of them dies. Raises AttarError when a
    process does not arrive within ``JOIN_SECONDS``.
    """
    global _group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _follower is not None or _joined() is not None:
        yield
        return
    import torch.distributed

    try:
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=JOIN_SECONDS))
        _group = torch.distributed.new_group(backend="gloo", timeout=_FOREVER)
    except (RuntimeError, ValueError) as error:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        size = os.environ["WORLD_SIZE"]
        raise AttarError(
            f"The {size} processes of this launch did not find one another within {JOIN_SECONDS / 60:.3g} minutes; see "
            f"whether one of them failed, and whether all reach {os.environ.get('MASTER_ADDR', 'the first one')}."
        ) from error
    connected = peers.connect(torch.distributed) if interruption.handles_signals() else None
    if connected is not None:
        interruption.set_reporter(connected.should_report)
    try:
        yield
    except SystemExit as error:
        if connected is not None and not error.code:
            connected.close()
        raise
    else:
        if connected is not None:
            connected.close()
            interruption.set_reporter(None)
    finally:
        _group = None
        torch.distributed.destroy_process_group()


def rank() -> int:
    """Return this process's number; 0 without torchrun."""
    joined = _joined()
    return joined.get_rank() if joined else 0


def world_size() -> int:
    """Return the number of processes that share the work."""
    joined = _joined()
    return joined.get_world_size() if joined else 1


def is_first() -> bool:
    """Return whether this is rank 0, which writes the shared files."""
    return rank() == 0 and (_follower is None or _working)


def wait() -> None:
    """Return when every process has arrived here."""
    joined = _joined()
    if joined:
        with _together():
            joined.barrier(_group)


def of_first(choice: bool) -> bool:
    """Return the choice of rank 0 in all processes; all must call it at the same point."""
    joined = _joined()
    if not joined:
        return choice
    import torch

    shared = torch.tensor([choice], dtype=torch.int8)
    with _together():
        joined.broadcast(shared, src=0, group=_group)
    return bool(shared)


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Return, for each place, whether any process has a true flag there.

    All processes must call it at the same point with equally many flags.
    """
    joined = _joined()
    if not joined:
        return list(flags)
    import torch

    shared = torch.tensor(flags, dtype=torch.int8)
    with _together():
        joined.all_reduce(shared, op=joined.ReduceOp.MAX, group=_group)
    return [bool(flag) for flag in shared.tolist()]


def device_group(device_type: str) -> Any:
    """Return the group of all processes for tensors on this type of device; all must call it at the same point.

    It is NCCL where every process of a machine has a GPU of its own, else gloo.
    """
    import torch
    import torch.distributed

    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nccl = device_type == "cuda" and torch.distributed.is_nccl_available() and torch.cuda.device_count() >= per_machine
    if any_of([not nccl])[0]:
        return _group
    return torch.distributed.new_group(backend="nccl", timeout=_FOREVER)


def counts(count: int) -> list[int]:
    """Return the counts that all processes passed, by rank; all must call it at the same point."""
    return [round(value) for value in _gathered(float(count))]


def mean(value: float) -> float:
    """Return the mean of the numbers that all processes passed; all must call it at the same point."""
    found = _gathered(value)
    return sum(found) / len(found)


def _gathered(value: float) -> list[float]:
    joined = _joined()
    if not joined:
        return [value]
    import torch

    found = torch.zeros(joined.get_world_size(), dtype=torch.float64)
    found[joined.get_rank()] = value
    with _together():
        joined.all_reduce(found, group=_group)
    return found.tolist()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Run a collective operation; raises AttarError when another process has ended."""
    try:
        yield
    except RuntimeError as error:  # gloo's connection is closed
        if interruption.handles_signals():
            time.sleep(peers.ANSWER_SECONDS)  # meanwhile the peers thread ends this process with a better message
        sentence = f"Another process of this launch ended early, so this one stops; {peers.CONTINUE}."
        raise PeerLostError(sentence) from error


def _joined() -> Any:
    """Return ``torch.distributed`` if this process is in a group; never imports PyTorch."""
    if _follower is not None and not _working:
        return None
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None
