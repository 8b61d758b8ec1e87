"""What the stages of one run share: where it lies, its seed, its data, its device, its log."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.core.device import Device, Execution, resolve
from attar.core.log import Log
from attar.core.randomness import generator
from attar.data.choice import DataChoice
from attar.data.feed import Feed, measure_normalisation, open_feed
from attar.data.load import load
from attar.data.source import RealData
from attar.ops.pixels import Normalisation

_NOT_IDENTITY = {"source", "root", "resident"}
"""Where data lie, on a disk or in memory, does not alter results; what they are is told by their fingerprint."""


class Workspace:
    """A run's folder and everything that its stages have in common; real data are opened when first asked for."""

    def __init__(
        self,
        out: Path,
        seed: int,
        choice: DataChoice,
        execution: Execution,
        log: Log | None = None,
        module: nn.Module | None = None,
        factories: Collection[str] = (),
    ) -> None:
        """``module`` is a trained network of the caller's that takes the place of a teacher.

        ``factories`` are the networks outside attar that the user typed (package.module:factory); no others are built.
        """
        self.factories = factories
        self.out = out
        self.module = module
        self.seed = seed
        self.choice = choice
        self.log = log or Log()
        self._execution = execution

    @cached_property
    def device(self) -> Device:
        """The resolved device."""
        return resolve(self._execution)

    @cached_property
    def real(self) -> RealData:
        """The real dataset."""
        return load(self.choice, self.seed, self.log)

    @cached_property
    def train(self) -> Feed:
        """The real training images."""
        return self._feed(self.real.train, "reading")

    @cached_property
    def val(self) -> Feed:
        """The real validation images."""
        return self._feed(self.real.val, "reading")

    @cached_property
    def normalisation(self) -> Normalisation:
        """The dataset's, as configured or measured on the training images."""
        if self.choice.mean is not None and self.choice.std is not None:
            return Normalisation(self.choice.mean, self.choice.std)
        return measure_normalisation(self.train, self.log)

    def stream(self, *names: str | int) -> torch.Generator:
        """A named random stream of this run."""
        return generator(self.seed, *names)

    def request(self, **parts: Any) -> dict[str, Any]:
        """What identifies a stage's work: the data as prepared, the seed, and the stage's own choices."""
        data = {key: value for key, value in self.choice.plain().items() if key not in _NOT_IDENTITY}
        return {"data": data, "seed": self.seed, **parts}

    def _feed(self, split: Any, what: str) -> Feed:
        return open_feed(split, self.choice, self.device.workers, self.device.device, self.log, what)
