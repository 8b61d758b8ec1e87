"""Named random streams: every draw has an address, so no draw depends on what was drawn before it."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def seed_of(seed: int, *names: str | int) -> int:
    """The 63-bit seed of the stream ``names`` under the run's ``seed``; equal on every platform and version."""
    address = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one named stream, as in ``generator(seed, "recover", unit, "views")``.

    Draws are made on the CPU and moved, so that a GPU and a CPU see the same numbers.
    """
    return torch.Generator().manual_seed(seed_of(seed, *names))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, PyTorch draws on the CPU from this seed; afterwards the global random state is as it was before."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
