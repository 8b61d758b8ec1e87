"""What the stages of one run share: folder, seed, data, device, log."""

import contextlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from attar.core import ranks
from attar.core.compiling import Compiler
from attar.core.device import Device, Execution, resolve
from attar.core.log import Log
from attar.core.precision import Precision
from attar.core.randomness import generator
from attar.data.choice import DataChoice
from attar.data.feed import Feed, is_resident, measure_normalisation, open_feed
from attar.data.load import load
from attar.data.source import RealData
from attar.models.teacher import Teacher
from attar.ops.operations import forward_operations
from attar.ops.pixels import Normalisation
from attar.stages.folder import FEED, MANIFEST, PLAN, precision_of
from attar.training.parallel import Together

_FIRST = ("squeeze", "squeeze/0", "squeeze/1", "recover")
"""Folders that a run may start with; with several processes the second teacher may start first."""


class Workspace:
    """A run's folder and everything that its stages share; opens the real data at first use."""

    def __init__(
        self,
        out: Path,
        seed: int,
        choice: DataChoice,
        execution: Execution,
        log: Log | None = None,
        modules: Sequence[nn.Module] = (),
        factories: Collection[str] = (),
        num_teachers: int = 1,
    ) -> None:
        """``modules`` are the caller's trained networks, used instead of the run's teachers.

        ``num_teachers`` is 0 for a run that asks no teacher.
        ``factories`` are the networks outside attar that the user typed (package.module:factory); no others are built.
        """
        self.factories = factories
        self.out = out
        self.modules = tuple(modules)
        self.num_teachers = len(self.modules) or num_teachers
        self.loaded: dict[int, Teacher] = {}
        """Teachers loaded so far, by number."""
        self.seed = seed
        self.choice = choice
        self.log = log or Log()
        self.execution = execution

    @cached_property
    def device(self) -> Device:
        """The resolved device; all processes of a run must access it at the same point.

        If the recipe leaves the precision open, it is the one recorded in the run's folder, or else the first process's
        choice. So all processes, and a run that is continued or repeated, use the same precision.
        """
        found = resolve(self.execution)
        if self.execution.precision != "auto":
            return found
        begun = next(filter(None, (precision_of(self.out / stage) for stage in _FIRST)), None)
        precision = "bf16" if ranks.of_first((begun or found.precision) == "bf16") else "fp32"
        return self._in(found, precision, self.out)

    def device_of(self, folder: Path) -> Device:
        """Return the device for a stage's folder, whose recorded precision may differ from the run's."""
        begun = None if self.execution.precision != "auto" else precision_of(folder)
        return self._in(self.device, begun or self.device.precision, folder)

    def _in(self, device: Device, precision: Precision, folder: Path) -> Device:
        """Return the device with the recorded precision; prints a line when auto would now choose another."""
        if precision == device.precision:
            return device
        begun = f"{folder} was begun in {precision}, which stays"
        self.log.say(f"attar     {begun}; here auto would choose {device.precision}, {device.why}")
        return replace(device, precision=precision, why="in which the run was begun")

    @cached_property
    def real(self) -> RealData:
        """The real dataset; a run that recorded an older fingerprint of it keeps that one."""
        real = load(self.choice, self.seed, self.log)
        for name in (PLAN, MANIFEST):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # read with care where it is used
                if json.loads((self.out / "squeeze" / name).read_text())["parents"]["data"] == real.former_fingerprint:
                    return replace(real, fingerprint=real.former_fingerprint)
        return real

    @cached_property
    def train(self) -> Feed:
        """Real training images."""
        return self._feed(self.real.train, all_classes=True)

    @cached_property
    def val(self) -> Feed:
        """Real validation images; a class whose images cannot be read is not measured."""
        return self._feed(self.real.val, all_classes=False)

    @property
    def train_labels(self) -> Int[np.ndarray, " image"]:
        """Labels of the training images that can be used; images are decoded only if unreadable ones are skipped."""
        return np.asarray(self.train.labels if self.choice.on_corrupt == "skip" else self.real.train.labels)

    @property
    def val_labels(self) -> Int[np.ndarray, " image"]:
        """Labels of the validation images that can be used, as ``train_labels``."""
        return np.asarray(self.val.labels if self.choice.on_corrupt == "skip" else self.real.val.labels)

    @property
    def feed(self) -> str:
        """How training images are read: 'resident' or 'streaming', whose random crops differ, and in which windows."""
        if is_resident(len(self.real.train), self.choice):
            return "resident"
        return f"streaming in windows of {self.choice.window} images" if self.choice.window else "streaming"

    @cached_property
    def normalisation(self) -> Normalisation:
        """The dataset's normalisation, as configured or measured on the training images."""
        if self.choice.mean is not None and self.choice.std is not None:
            return Normalisation(self.choice.mean, self.choice.std)
        return measure_normalisation(self.train, self.log)

    def stream(self, *names: str | int) -> torch.Generator:
        """Return a named random stream of this run."""
        return generator(self.seed, *names)

    def training_forward(
        self, network: nn.Module, num_images: int, together: Together | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Return the network's forward pass, compiled if that pays for ``num_images`` images over all epochs.

        On a CPU it is compiled only when the recipe says so (execution.compile 'on'). ``together`` holds the network
        when several processes train it.
        """
        device = self.device
        choice = "off" if device.compile == "auto" and device.device.type == "cpu" else device.compile
        compiler = Compiler(choice, device.device.type, warn=self.log.warn)
        operations = 0.0
        if choice == "auto":  # back to weights and to features takes twice as much as forth
            operations = 3 * forward_operations(network, self.choice.size) * num_images
        return compiler(_answer, network if together is None else together.network, operations)

    def request(self, **parts: Any) -> dict[str, Any]:
        """Return what identifies a stage's work: the prepared data, the seed, and the stage's settings.

        When unreadable images are skipped, it includes how images are read, because that decides which image replaces
        a skipped one.
        """
        read = {FEED: self.feed} if self.choice.on_corrupt == "skip" else {}
        return {"data": self.choice, "seed": self.seed, **read, **parts}

    def _feed(self, split: Any, *, all_classes: bool) -> Feed:
        workers, device = self.device.workers, self.device.device
        return open_feed(split, self.choice, workers, device, self.log, all_classes=all_classes)


def _answer(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return network(images)
