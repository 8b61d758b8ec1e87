"""Units side by side: the same images up to rounding, groups made whole again, shared out, and halved for memory."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar import pipeline
from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.methods import cda
from attar.recipes.recipe import Recipe
from attar.store import units
from attar.store.units import Unit, UnitResult
from attar.store.weights import load_weights, tensors_sha256
from attar.synthesis.task import Task
from conftest import MINI, interrupt, mini_recipe

ITERATIONS = 6
CHOICES = {"ipc": 3, "unit_classes": 4, "iterations": ITERATIONS, "snapshots": (3,)}
PLAN = units.plan(10, 0, 3, 4)
"""Nine units, of 4, 4 and 2 images in turn: groups of four are unequal, and the last is a single unit."""
NO_MEMORY = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you ..."),
}


def recipe_of(parallel_units: int, **changes: Any) -> Recipe[Any]:
    recipe = mini_recipe()
    return recipe.changed(
        execution=recipe.execution.changed(precision="fp32", compile="off"),
        recover=recipe.recover.changed(parallel_units=parallel_units, **(CHOICES | changes)),
    )


def recover(out: Path, parallel_units: int, **changes: Any) -> dict[str, Any]:
    """The manifest of the stage."""
    pipeline.run(recipe_of(parallel_units, **changes), out, stage="recover", quiet=True)
    return json.loads((out / "recover" / "manifest.json").read_text())


def made(out: Path, unit: Unit) -> UnitResult:
    return units.load(out / "recover" / "units", unit)


def files(out: Path) -> dict[str, list[str]]:
    return {path.name: content(path) for path in sorted((out / "recover" / "units").iterdir())}


def content(path: Path) -> list[str]:
    """What is in a unit's file, but for whom it was made."""
    tensors, said = load_weights(path)
    return [tensors_sha256(tensors), said["unit"], said["verifier"], said["num_parallel"]]


def names(some: list[Unit]) -> set[str]:
    return {unit.path(Path()).name for unit in some}


def logged(out: Path, event: str, log: str = "log.jsonl") -> list[dict[str, Any]]:
    lines = (out / "recover" / log).read_text().splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["event"] == event]
    return [entry for entry in found if "check" not in entry]  # the images of these few iterations are not sound


Start = Callable[[str], Path]


@pytest.fixture(scope="module")
def start(mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Makes folders of this name in which only squeeze is done."""

    def make(name: str) -> Path:
        out = tmp_path_factory.mktemp(name) / "run"
        shutil.copytree(mini_run / "squeeze", out / "squeeze")
        return out

    return make


@pytest.fixture(scope="module")
def alone(start: Start) -> Path:
    """A run in which every unit was made alone; tests read it only."""
    out = start("alone")
    recover(out, 1)
    return out


@pytest.fixture(scope="module")
def together(start: Start) -> Path:
    """A run in which four units at a time were made side by side; tests read it only."""
    out = start("together")
    recover(out, 4)
    return out


def test_units_side_by_side_are_those_made_alone_up_to_rounding(alone: Path, together: Path):
    assert files(alone).keys() == files(together).keys() == names(PLAN)
    for place, unit in enumerate(PLAN):
        one, other = made(alone, unit), made(together, unit)
        assert (one.num_parallel, other.num_parallel) == (1, 4 if place < 8 else 1)
        assert torch.equal(one.labels, other.labels)
        assert one.snapshots.keys() == other.snapshots.keys() == {3, ITERATIONS}
        for done, pixels in one.snapshots.items():
            away = (pixels.int() - other.snapshots[done].int()).abs()
            assert (away <= 1).float().mean() > 0.99
        assert one.curves.keys() == other.curves.keys()
        for name, values in one.curves.items():
            assert values.shape == other.curves[name].shape == (ITERATIONS,)
            torch.testing.assert_close(values, other.curves[name], rtol=1e-3, atol=1e-6)
    result = json.loads((together / "recover" / "manifest.json").read_text())["result"]
    assert "fewer_parallel_units" not in result, "the last group is planned to be smaller"
    assert result["num_images"] == 30


def test_units_of_a_group_are_not_alike(together: Path):
    first, second = (made(together, unit) for unit in PLAN[:2])
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.curves["loss"], second.curves["loss"])


def test_how_many_units_go_side_by_side_identifies_the_images(together: Path):
    with pytest.raises(AttarError, match="made with other settings .*parallel_units"):
        recover(together, 2)


def test_a_group_with_a_missing_unit_is_made_again_whole_and_no_other_is(start: Start, together: Path):
    out = start("missing")
    shutil.copytree(together / "recover", out / "recover")
    interrupt(out / "recover")
    PLAN[5].path(out / "recover" / "units").unlink()
    stamps = {path.name: path.stat().st_mtime_ns for path in (out / "recover" / "units").iterdir()}
    before = len(logged(out, "unit"))
    recover(out, 4)
    assert files(out) == files(together)
    assert [entry["name"] for entry in logged(out, "unit")[before:]] == [unit.name for unit in PLAN[4:8]]
    for unit in (*PLAN[:4], PLAN[8]):
        assert unit.path(out / "recover" / "units").stat().st_mtime_ns == stamps[unit.path(Path()).name]


def test_processes_are_dealt_groups_not_units(start: Start, together: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the three groups the second process makes the middle one."""
    out = start("dealt")
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(AttarError, match="There is no file"):  # for nobody has done the second process's share
        recover(out, 4)
    assert files(out) == {name: bits for name, bits in files(together).items() if name not in names(PLAN[4:8])}
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    with pytest.raises(AttarError, match="recover is not finished"):
        recover(out, 4)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    recover(out, 4)
    assert files(out) == files(together)
    assert [entry["name"] for entry in logged(out, "unit")] == [unit.name for unit in (*PLAN[:4], PLAN[8])]


@pytest.mark.slow
def test_two_processes_write_the_unit_files_of_one(start: Start, together: Path):
    out = start("two")
    settings = [f"--recover.{name.replace('_', '-')}" for name in ("ipc", "unit_classes", "iterations", "snapshots")]
    values = [str(value) for value in (3, 4, ITERATIONS, 3)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "attar"]
    place = MINI.index("--recover.snapshots")  # which a command may name once
    mini = MINI[:place] + MINI[place + 3 :]
    command += ["recover", "digits", "--out", str(out), *mini, "--recover.parallel-units", "4", "--quiet"]
    command += ["--execution.precision", "fp32", "--execution.compile", "off"]
    command += [word for pair in zip(settings, values, strict=True) for word in pair]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(out) == files(together)
    assert [entry["name"] for entry in logged(out, "unit", "log.rank1.jsonl")] == [unit.name for unit in PLAN[4:8]]


TooLarge = Callable[[Task], bool]


def more_than(most: int) -> TooLarge:
    return lambda task: len(task.unit_sizes) > most


class Memory:
    """Takes the place of a method's recover, for which some tasks are too large: they fail after some iterations."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, too_large: TooLarge, error: Exception = NO_MEMORY["CPU"]
    ) -> None:
        self.asked: list[int] = []
        self._too_large, self._error, self._recover = too_large, error, cda.recover
        monkeypatch.setattr(cda, "recover", self)

    def __call__(self, task: Task, config: cda.Config) -> Tensor:
        self.asked.append(len(task.unit_sizes))
        if self._too_large(task):
            self._recover(task, config.changed(iterations=2, snapshots=()))
            raise self._error
        return self._recover(task, config)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of the progress bar: what it begins with, each move, and at the end its total with a minus: sum zero."""
    steps: list[int] = []

    @contextlib.contextmanager
    def progress(self: Log, what: str, total: int, done: int = 0, unit: str = "") -> Iterator[Callable[..., None]]:
        steps.append(done)
        yield lambda count=1, note="": steps.append(count)
        steps.append(-total)

    monkeypatch.setattr(Log, "progress", progress)
    return steps


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_without_memory_for_a_group_its_units_are_made_alone(
    kind: str, start: Start, alone: Path, monkeypatch: pytest.MonkeyPatch, moved: list[int]
):
    """One warning for each halving: what did not fit once is not tried again."""
    out, memory = start("halved"), Memory(monkeypatch, more_than(1), NO_MEMORY[kind])
    manifest = recover(out, 4)
    assert memory.asked == [4, 2, *[1] * 9]
    warnings = [entry["text"] for entry in logged(out, "warning")]
    assert warnings == [
        "out of memory with 4 units in one batch; continuing with 2",
        "out of memory with 2 units in one batch; continuing with 1",
    ]
    assert manifest["result"]["fewer_parallel_units"] == {unit.name: 1 for unit in PLAN[:8]}
    assert files(out) == files(alone)
    assert [entry["name"] for entry in logged(out, "unit")] == [unit.name for unit in PLAN]
    assert sum(moved) == 0
    assert -moved[-1] == len(PLAN) * ITERATIONS


def test_memory_of_a_failed_group_is_free_before_its_halves_begin(start: Start, monkeypatch: pytest.MonkeyPatch):
    """What the failed group held lives as long as the frames of its exception: these must be gone."""
    real, held, alive = cda.recover, list[weakref.ref[Tensor]](), list[int]()

    def recover_in_little_memory(task: Task, config: cda.Config) -> Tensor:
        if len(task.unit_sizes) > 1:
            large = torch.zeros(1000)
            held.extend([weakref.ref(large), weakref.ref(task.labels)])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(task, config)

    def warn(self: Log, text: str, **values: str) -> None:
        if "out of memory" in text:  # said when the halves are about to begin
            alive.append(sum(reference() is not None for reference in held))

    monkeypatch.setattr(cda, "recover", recover_in_little_memory)
    monkeypatch.setattr(Log, "warn", warn)
    recover(start("freed"), 9, iterations=1, snapshots=())
    assert alive == [0, 0, 0], "groups of 9, 4 and 2 failed"


def test_halves_of_an_odd_group_are_no_larger_than_half(start: Start, monkeypatch: pytest.MonkeyPatch):
    """Groups of five and four: both go on in twos, as a run of twos would have made them, but for the odd one."""
    out, memory = start("odd"), Memory(monkeypatch, more_than(2))
    manifest = recover(out, 5)
    assert memory.asked == [5, 2, 2, 1, 2, 2]
    expected = {unit.name: 1 if place == 4 else 2 for place, unit in enumerate(PLAN)}
    assert manifest["result"]["fewer_parallel_units"] == expected
    assert len(logged(out, "warning")) == 1
    monkeypatch.undo()
    twos = start("twos")
    recover(twos, 2)
    for unit in PLAN[:4]:
        assert content(unit.path(out / "recover/units")) == content(unit.path(twos / "recover/units"))


def test_a_unit_too_large_by_itself_is_one_sentence_and_what_is_made_stays(
    start: Start, together: Path, monkeypatch: pytest.MonkeyPatch
):
    out, memory = start("large"), Memory(monkeypatch, lambda task: int(task.slots.max()) > 0)
    with pytest.raises(AttarError) as caught:
        recover(out, 4)
    assert str(caught.value) == (
        "Not enough memory for slot00001-block0000 with 4 images at a time; lower --recover.unit-classes or "
        "--recover.unit-slots, or use a device with more memory."
    )
    assert memory.asked == [4, 2, 2, 1, 1]
    assert files(out).keys() == names(PLAN[:3])
    monkeypatch.undo()
    recover(out, 4)
    assert files(out) == files(together), "units made in smaller groups are left beside the others"


def test_other_errors_are_not_taken_for_a_lack_of_memory(start: Start, monkeypatch: pytest.MonkeyPatch):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    out, memory = start("error"), Memory(monkeypatch, more_than(1), error)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        recover(out, 4)
    assert memory.asked == [4]


@pytest.mark.parametrize("missing", [0, 1, 9])
def test_progress_counts_every_iteration_of_every_unit(missing: int, start: Start, together: Path, moved: list[int]):
    """Whole groups are behind it or ahead of it: a unit that is made again is not counted as there."""
    out = start("counted")
    shutil.copytree(together / "recover", out / "recover")
    interrupt(out / "recover")
    for unit in PLAN[:missing]:
        unit.path(out / "recover" / "units").unlink()
    recover(out, 4)
    groups = {0: 0, 1: 4, 9: 9}
    assert moved[0] == (9 - groups[missing]) * ITERATIONS
    assert sum(moved) == 0
