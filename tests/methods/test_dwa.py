"""methods/dwa.py: golden losses, and a run whose units repeat the adjustments of the classes before."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.methods import dwa
from attar.stages.recover import planned
from attar.store import units
from attar.store.units import Unit
from attar.synthesis import adjustment
from attar.synthesis.task import Network, Task
from conftest import interrupt, mini_recipe
from formula import formula_network
from matched_digits import NORMALISATION, NUM_CLASSES, task_of


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [73.84103, 73.83591, 71.65192, 73.33064]),
        (
            {"adjust_length": 0.1, "grey": True, "crop": "none", "flip": False, "variance_weight": 1.0},
            [14.32162, 13.98749, 13.73178, 13.65969],
        ),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    fixed: dict[str, Any] = {"ipc": 2, "iterations": 4, "learning_rate": 0.1, "jitter": 2, "bn_weight": 0.1}
    task, curves = task_of([(range(NUM_CLASSES), 1)])
    task = dataclasses.replace(task, teachers=(Network(formula_network(NUM_CLASSES), NORMALISATION),))
    dwa.recover(task, dwa.Config.of(fixed | choices, "the test"))
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)


def test_units_share_no_batch():
    config = dwa.Config(ipc=2, unit_classes=5, parallel_units=4)
    assert [len(group) for group in planned(10, config)] == [1, 1, 1, 1]
    assert not config.needs().side_by_side
    assert dwa.Config(adjust_steps=0).idle() >= {"adjust_length", "adjust_onwards"}


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
