"""stages/earlier.py: a unit repeats how the units of the classes before it began."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.store import units
from attar.store.units import Unit
from attar.synthesis import adjustment
from attar.synthesis.task import Task
from conftest import interrupt, mini_recipe


def test_a_unit_repeats_the_adjustments_of_its_slot_and_no_others(squeezed: Path, monkeypatch: pytest.MonkeyPatch):
    """A unit made alone, after a kill, is bit by bit what it is in a run of all."""
    recipe = mini_recipe().with_method("dwa")
    values = {"ipc": 2, "iterations": 2, "unit_classes": 4, "unit_slots": 1, "adjust_onwards": True}
    recipe = recipe.changed(recover=recipe.recover.changed(**values))
    adjusted, met = adjustment.adjusted, dict[str, list[list[int]]]()

    def spied(task: Task, config: Any) -> Task:
        name = f"{int(task.slots[0])}-{int(task.labels[0])}"
        met[name] = [each.labels.tolist() for each in task.earlier()]
        assert {int(slot) for each in task.earlier() for slot in each.slots} <= {int(task.slots[0])}
        return adjusted(task, config)

    monkeypatch.setattr(adjustment, "adjusted", spied)
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    first, second = [0, 1, 2, 3], [4, 5, 6, 7]
    assert met == {f"{slot}-{label}": [first, second][: label // 4] for slot in (0, 1) for label in (0, 4, 8)}
    last = Unit(1, 2, (8, 9))
    folder = squeezed / "recover" / "units"
    before = units.load(folder, last)
    last.path(folder).unlink()
    interrupt(squeezed / "recover")
    met.clear()
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    assert list(met) == ["1-8"]
    assert torch.equal(units.load(folder, last).images, before.images)
