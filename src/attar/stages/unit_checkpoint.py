"""Checkpoints inside long units: the method's state, the recorded metrics, and the time so far."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from attar.core.config import digest
from attar.core.elapsed import Clock, Elapsed
from attar.stages.recorder import Recorder
from attar.store.checkpoint import Checkpoint
from attar.store.units import Unit

FOLDER = "checkpoints"


class UnitCheckpoint:
    """The checkpoint of one group of units; it is not used for other units or other groups."""

    def __init__(self, out: Path, identity: str, group: Sequence[Unit], recorder: Recorder) -> None:
        """``out`` is the stage's folder and ``identity`` its identity. Restores the record of an earlier process."""
        self._recorder = recorder
        self._file = Checkpoint(
            out / FOLDER / f"{group[0].name}.safetensors", digest([identity, *(unit.name for unit in group)])
        )
        self._found = self._file.load()
        if self._found is None:
            self.clock = Clock()
            return
        recorder.restore(self._found["recorder"])
        self.clock = Clock(Elapsed(self._found["seconds"], self._found["processor_seconds"]))

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return the number of finished iterations and the method's state; None without a checkpoint."""
        return None if self._found is None else (self._found["iterations"], self._found["method"])

    def offer(self, iterations: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Save the method's ``state`` if the last checkpoint is old enough."""
        self._file.offer(
            lambda: {
                "iterations": iterations,
                "method": state(),
                "recorder": self._recorder.state(),
                **self.clock.elapsed().plain(),
            }
        )

    def remove(self) -> None:
        """Remove the file, when the units are saved."""
        self._file.remove()
