"""methods/dwa.py: golden losses, and units that share no batch."""

import dataclasses
from typing import Any

import pytest

from attar.methods import dwa
from attar.stages.unit_groups import planned
from attar.synthesis.task import Network
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
    assert dwa.Config(adjust_steps=0).idle().keys() >= {"adjust_length", "adjust_onwards"}
