"""Processes started by torchrun: who am I, what is mine, wait for the others."""

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch.distributed

Item = TypeVar("Item")


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun started, for the duration of the block; nothing to do without torchrun.

    Ranks exchange barriers and choices only, so the backend is gloo on every device, and the timeout is long: rank 0
    may squeeze for hours while the others wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=14))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def wait() -> None:
    """Return when every process has arrived here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def of_first(choice: bool) -> bool:
    """The first process's choice, for all; every process must call it at the same point."""
    if not torch.distributed.is_initialized():
        return choice
    told = torch.tensor([choice], dtype=torch.int8)
    torch.distributed.broadcast(told, src=0)
    return bool(told)


def mine(items: Sequence[Item]) -> list[Item]:
    """The items that fall to this process: each item to exactly one, whatever their number."""
    return list(items[rank() :: world_size()])
