"""Processes started by torchrun: which one this is, and waiting for the others."""

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from attar.core import interruption, peers
from attar.core.errors import AttarError


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun started, for the duration of the block; nothing to do without torchrun.

    Ranks exchange barriers and choices only, so the backend is gloo on every device, and the timeout is long: rank 0
    may squeeze for hours while the others wait. In a program that answers signals (``interruption.watch``) the death of
    one process ends the others at once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined() is not None:
        yield
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=14))
    connected = peers.connect(torch.distributed) if interruption.is_watching() else None
    if connected is not None:
        interruption.ask(connected.may_speak)
    try:
        yield
    except SystemExit as error:
        if connected is not None and not error.code:
            connected.close()
        raise
    else:
        if connected is not None:
            connected.close()
            interruption.ask(None)
    finally:
        torch.distributed.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    joined = _joined()
    return joined.get_rank() if joined else 0


def world_size() -> int:
    """How many processes share the work."""
    joined = _joined()
    return joined.get_world_size() if joined else 1


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def wait() -> None:
    """Return when every process has arrived here."""
    joined = _joined()
    if joined:
        with _together():
            joined.barrier()


def of_first(choice: bool) -> bool:
    """The first process's choice, for all; every process must call it at the same point."""
    joined = _joined()
    if not joined:
        return choice
    import torch

    shared = torch.tensor([choice], dtype=torch.int8)
    with _together():
        joined.broadcast(shared, src=0)
    return bool(shared)


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each place whether any process has a true flag there; all must call it at the same point with as many."""
    joined = _joined()
    if not joined:
        return list(flags)
    import torch

    shared = torch.tensor(flags, dtype=torch.int8)
    with _together():
        joined.all_reduce(shared, op=joined.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What all processes do together: raises AttarError when one of them has ended meanwhile."""
    try:
        yield
    except RuntimeError as error:  # gloo's connection is closed
        if interruption.is_watching():
            time.sleep(peers.ANSWER_SECONDS)  # meanwhile the thread that knows more ends this process
        raise AttarError(f"Another process of this launch ended early, so this one stops; {peers.CONTINUE}.") from error


def _joined() -> Any:
    """``torch.distributed`` where this process is in a group; PyTorch is not imported only to ask."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None
