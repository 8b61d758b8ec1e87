"""Units go on inside their iterations from a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.stages import recover
from attar.stages.recorder import Recorder
from attar.stages.unit_checkpoint import UnitCheckpoint
from attar.store import checkpoint
from conftest import mini_recipe

ITERATIONS = 12


class Killed(BaseException):
    """Ends a unit in its middle, as a signal does."""


def make(out: Path, **changes: Any) -> None:
    recipe = mini_recipe()
    pipeline.run(recipe.changed(recover=recipe.recover.changed(**changes)), out, stage="recover", quiet=True)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "recover" / "units").iterdir()}


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Checkpoints are saved after every iteration; the work ends after so many of them."""
    real = UnitCheckpoint.offer

    def start(number: int) -> None:
        left = [number]

        def offer(self: UnitCheckpoint, iterations: int, state: Callable[[], Any]) -> None:
            real(self, iterations, state)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
        monkeypatch.setattr(checkpoint, "MAX_TIME_SHARE", float("inf"))
        monkeypatch.setattr(UnitCheckpoint, "offer", offer)

    return start


def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The iterations that are done from here on, 0-based."""
    done: list[int] = []
    real = Recorder.step

    def step(self: Recorder, iteration: int, *values: Any, **metrics: Any) -> Any:
        done.append(iteration)
        return real(self, iteration, *values, **metrics)

    monkeypatch.setattr(Recorder, "step", step)
    return done


def test_a_killed_unit_goes_on_and_equals_one_that_was_not(
    mini_run: Path, squeezed: Path, kill_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    """Killed after snapshots and in the middle of the second of two units."""
    kill_after(ITERATIONS + 6)
    with pytest.raises(Killed):
        make(squeezed)
    monkeypatch.undo()
    assert len(files(squeezed)) == 1
    (saved,) = (squeezed / "recover" / "checkpoints").iterdir()
    assert saved.name == "slot00001-block0000.safetensors"
    done = made(monkeypatch)
    make(squeezed)
    assert done == list(range(6, ITERATIONS))
    assert files(squeezed) == files(mini_run)
    assert not (squeezed / "recover" / "checkpoints").exists()


def test_units_of_another_group_do_not_use_it(
    squeezed: Path, kill_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    """Two units side by side were killed; there is memory for one at a time only when they go on."""
    kill_after(6)
    with pytest.raises(Killed):
        make(squeezed, parallel_units=2)
    monkeypatch.undo()
    assert len(list((squeezed / "recover" / "checkpoints").iterdir())) == 1
    done = made(monkeypatch)
    monkeypatch.setattr(recover, "_parts", lambda group, most: [(unit,) for unit in group])
    make(squeezed, parallel_units=2)
    assert done == 2 * list(range(ITERATIONS))


def test_a_group_that_goes_on_and_runs_out_of_memory_moves_the_bar_back(
    squeezed: Path, kill_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    import contextlib

    from attar.core.log import Log
    from attar.methods import cda

    kill_after(6)
    with pytest.raises(Killed):
        make(squeezed, parallel_units=2)
    monkeypatch.undo()
    moved: list[float] = []
    real = cda.recover

    @contextlib.contextmanager
    def progress(self: Log, what: str, total: int, done: int = 0, unit: str = ""):
        moved.append(done - total)
        yield lambda steps=1, note="": moved.append(steps)

    def recover_one(task: Any, config: Any) -> Any:
        if len(task.unit_sizes) > 1:
            raise MemoryError
        return real(task, config)

    monkeypatch.setattr(Log, "progress", progress)
    monkeypatch.setattr(cda, "recover", recover_one)
    make(squeezed, parallel_units=2)
    assert moved[0] == -2 * ITERATIONS
    assert sum(moved) == 0
