"""Named random streams. Each stream has its own seed, so a draw does not depend on draws from other streams."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def seed_of(seed: int, *names: str | int) -> int:
    """Return the 63-bit seed of the stream ``names`` for the run's ``seed``; the same on all platforms and versions."""
    address = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one named stream, for example ``generator(seed, "recover", unit, "views")``.

    Draw on the CPU and move the result, so that GPU and CPU runs use the same numbers.
    """
    return torch.Generator().manual_seed(seed_of(seed, *names))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's CPU generator during the block; restore the global random state afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
