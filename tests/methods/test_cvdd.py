"""methods/cvdd.py: golden losses, labels by the same votes, and a run of two teachers on digits."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.methods import cvdd
from attar.models.small import ConvNet
from attar.stages import prepare
from attar.stages.dataset_info import read_info
from attar.synthesis.task import Network, Task
from conftest import mini_recipe
from formula import by_formula, formula_network
from matched_digits import NORMALISATION, NUM_CLASSES, SIDE, Real, task_of


class Ten(Real):
    """As many digits of each class, because a rehearsal ranks those of one class."""

    def count(self, label: int) -> int:
        return 10


def committee() -> tuple[Network, ...]:
    """Three networks with weights by formula."""
    with torch.random.fork_rng(devices=[]):
        convnets = [by_formula(ConvNet(blocks, NUM_CLASSES, SIDE, width=8)) for blocks in (1, 2)]
    modules = (formula_network(NUM_CLASSES), *convnets)
    accuracies = (0.9, 0.8, 0.85)
    return tuple(Network(one, NORMALISATION, accuracy=rated) for one, rated in zip(modules, accuracies, strict=True))


def digits_task(config: cvdd.Config) -> tuple[Task, Any]:
    """Two units of three digits each in one batch, one for each slot."""
    task, curves = task_of([(range(NUM_CLASSES), 1)] * 2)
    task = dataclasses.replace(
        task, teachers=committee(), real=Ten(), slots=torch.arange(2).repeat_interleave(NUM_CLASSES)
    )
    steps = cvdd.prepare(config)
    table = prepare.rehearsed(steps, config, task.teachers, Ten(), task.size, task.device)
    return dataclasses.replace(task, table=table), curves


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [[13.76957, 10.99394], [11.94585, 11.26755], [11.77937, 10.7381], [12.04894, 10.72363]]),
        (
            {"voters": 3, "priors": (60.0, 50.0, 55.0), "grey": True, "start": "noise"},
            [[10.3136, 9.95626], [10.51862, 10.25409], [10.04297, 10.21507], [10.48713, 10.13292]],
        ),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[list[float]]):
    """Frozen: a change here changes every image that a recipe makes."""
    fixed: dict[str, Any] = {"ipc": 2, "iterations": 4, "learning_rate": 0.1, "jitter": 2, "bn_weight": 0.1}
    config = cvdd.Config.of(fixed | choices, "the test")
    task, curves = digits_task(config)
    cvdd.recover(task, config)
    assert curves.losses == [pytest.approx(losses, rel=1e-3) for losses in golden]


def test_a_run_votes_on_images_and_labels(tmp_path: Path):
    """Both teachers optimise every unit, and label with weights that follow from their accuracy."""
    recipe = mini_recipe().with_method("cvdd")
    few = recipe.squeeze.training.changed(epochs=1)
    members = [{"architecture": name} for name in ("convnet2", "convnet1")]
    recipe = recipe.changed(
        squeeze=recipe.squeeze.changed(training=few, members=members),
        recover=recipe.recover.changed(iterations=2, accept_weak_teacher=True),
        relabel=recipe.relabel.changed(epochs=1, committee={"policy": "weighted"}),
    )
    pipeline.run(recipe, tmp_path, stage="squeeze", quiet=True)
    pipeline.run(recipe, tmp_path, stage="recover", quiet=True)
    pipeline.run(recipe, tmp_path, stage="relabel", quiet=True)
    choice = read_info(tmp_path / "distilled").labels.committee
    assert (choice.policy, choice.members, choice.weights, choice.prior_temperature) == ("weighted", (0, 1), (), 10.0)
