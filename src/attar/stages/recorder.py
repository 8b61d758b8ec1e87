"""Record losses and snapshots of units while a method makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from attar.core.log import Advance
from attar.models.teacher import Teacher
from attar.ops import mosaic
from attar.ops.pixels import to_bytes
from attar.stages import method_code
from attar.store.units import Unit, UnitResult
from attar.synthesis.method import MethodConfig
from attar.synthesis.task import Recovered

NOTE_ITERATIONS = 50
"""Iterations between the metrics that are printed and logged; each waits for the device."""


class Recorder:
    """Records units in one batch: metrics of every iteration, image snapshots, and a verifier's accuracy."""

    def __init__(self, config: MethodConfig, labels: Tensor, advance: Advance, units: Sequence[Unit]) -> None:
        self.verifier: Teacher | None = None
        self.preview: Callable[[int, Tensor], None] | None = None
        self.snapshots: tuple[int, ...] = config.snapshots
        """Iterations after which the images are kept."""
        self.examine: Callable[[str, int, Mapping[str, float]], None] | None = None
        """Called every NOTE_ITERATIONS with the first unit's name, the iteration and the metrics' means."""
        self._config, self._labels, self._advance, self._units = config, labels, advance, units
        self._curves: dict[str, list[Float[Tensor, " unit"]]] = {}
        self._declared = set(config.metrics())
        self._snapshots: dict[int, UInt8[Tensor, "image 3 height width"]] = {}
        self._right: dict[int, Float[Tensor, " image"]] = {}
        self.num_iterations = 0

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Float[Tensor, " unit"]) -> None:
        """Record the metrics without waiting for the device; keep a snapshot when one is due.

        Raises AttarError for other metrics than the method declares.
        """
        if metrics.keys() != self._declared:
            method_code.check_metrics(self._config, metrics)
        for name, value in metrics.items():
            self._curves.setdefault(name, []).append(value)
        self.num_iterations = iteration + 1
        if self.num_iterations % NOTE_ITERATIONS:
            self._advance(len(self._units))
        else:
            means = {name: float(value.mean()) for name, value in metrics.items()}
            self._advance(len(self._units), note=self._note(means), values=means)
            if self.examine is not None:
                self.examine(self._units[0].name, self.num_iterations, means)
        if self.num_iterations in self.snapshots:
            self.keep(images())

    def keep(self, images: Tensor) -> None:
        """Keep the images as they are now."""
        done = self.num_iterations
        self._snapshots[done] = to_bytes(images, self._config.rounding).cpu()
        if self.verifier is not None:
            storage = self._config.storage()
            shown = mosaic.unpack(images.clamp(0, 1), storage).flatten(0, 1)
            labels = self._labels.repeat_interleave(storage.num_parts)
            right = self.verifier.logits(shown).argmax(1) == labels
            self._right[done] = right.unflatten(0, (-1, storage.num_parts)).float().mean(1)
        if self.preview is not None:
            self.preview(done, self._snapshots[done][: len(self._units[0].labels)])

    def results(self, recovered: Recovered) -> list[UnitResult]:
        """Return the result of each unit, from the method's output for all of them.

        Raises AttarError if the method never reported the metrics that it declares.
        """
        method_code.check_metrics(self._config, self._curves)
        images, soft_labels = recovered.images, recovered.soft_labels
        if self.num_iterations:
            self.keep(images)
        finished = to_bytes(images, self._config.rounding).cpu()
        curves = {name: torch.stack(values).float().cpu() for name, values in self._curves.items()}
        found, start = [], 0
        for place, unit in enumerate(self._units):
            own = slice(start, start + len(unit.labels))
            start = own.stop
            found.append(
                UnitResult(
                    images=finished[own].clone(),
                    labels=torch.tensor(unit.labels),
                    snapshots={done: kept[own].clone() for done, kept in self._snapshots.items()},
                    curves={name: values[:, place].clone() for name, values in curves.items()},
                    verifier={done: float(right[own].float().mean()) for done, right in self._right.items()},
                    num_parallel=len(self._units),
                    soft_labels=None if soft_labels is None else soft_labels[own].float().cpu().clone(),
                    learned=dict(recovered.learned or {}),
                )
            )
        return found

    def state(self) -> dict[str, Any]:
        """Return the records so far, for a checkpoint."""
        return {
            "iterations": self.num_iterations,
            "curves": {name: torch.stack(values) for name, values in self._curves.items()},
            "snapshots": dict(self._snapshots),
            "right": dict(self._right),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; moves the progress bar accordingly."""
        device = self._labels.device
        self.num_iterations = state["iterations"]
        self._curves = {name: list(values.to(device).unbind()) for name, values in state["curves"].items()}
        self._snapshots = dict(state["snapshots"])
        self._right = {done: right.to(device) for done, right in state["right"].items()}
        self._advance(self.num_iterations * len(self._units))

    def _note(self, means: Mapping[str, float]) -> str:
        shown = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        return f"{self._units[0].name} iteration {self.num_iterations}  {shown}"
