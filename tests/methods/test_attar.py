"""methods/attar.py: the pixels of a plain loop over one teacher or several in turn, and losses that are frozen."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.methods import attar
from attar.synthesis.starts import real
from inverted_digits import task_of
from matched_digits import NORMALISATION

FEW = {"ipc": 2, "iterations": 6, "flip": False, "unit_slots": 2}


def plainly_moved(start: Tensor, labels: Tensor, networks: list[torch.nn.Module], config: attar.Config) -> Tensor:
    """Whole images in [0, 1], moved by PyTorch's Adam along the cross-entropy of one network after the other."""
    pixels = NORMALISATION.apply(start).requires_grad_()
    low, high = NORMALISATION.apply(torch.zeros_like(start)), NORMALISATION.apply(torch.ones_like(start))
    adam = torch.optim.Adam([pixels], lr=config.learning_rate, betas=config.betas)
    for iteration in range(config.iterations):
        adam.param_groups[0]["lr"] = config.learning_rate * (1 + math.cos(math.pi * iteration / config.iterations)) / 2
        adam.zero_grad()
        F.cross_entropy(networks[iteration % len(networks)](pixels), labels).backward()
        adam.step()
        with torch.no_grad():
            pixels.copy_(torch.minimum(torch.maximum(pixels, low), high))
    return NORMALISATION.undo(pixels.detach())


@pytest.mark.parametrize(("choices", "num_teachers"), [({}, 1), ({"committee": "round-robin"}, 3)])
def test_images_are_those_of_a_plain_loop(choices: dict[str, Any], num_teachers: int):
    config = attar.Config(**FEW, **choices, crop="none")
    task, curves = task_of(attar, config, num_teachers=3, num_slots=2)
    start = real(task)
    networks = [teacher.module for teacher in task.teachers][:num_teachers]
    images = attar.recover(task, config).images
    assert torch.allclose(images, plainly_moved(start, task.labels, networks, config), atol=1e-5)
    assert (images - start).abs().max() > 0.05, "they were to move"
    assert len(curves.losses) == config.iterations


def test_the_loss_is_cross_entropy_alone():
    config = attar.Config(**FEW)
    task, curves = task_of(attar, config, num_teachers=2, num_slots=2)
    attar.recover(task, config)
    assert all(metrics["loss"] == metrics["cross_entropy"] for metrics in curves.metrics)
    assert set(curves.metrics[0]) == set(config.metrics())


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [1.3458, 1.2321, 1.5155, 1.3198, 1.3433, 1.2798]),
        ({"committee": "round-robin"}, [1.3458, 1.6505, 1.5135, 1.8588, 1.3458, 1.7522]),
        ({"committee": "mean", "grey": True, "start": "hardest"}, [1.7214, 1.4912, 1.8804, 1.6489, 1.6013, 1.5228]),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    config = attar.Config(**FEW | choices)
    task, curves = task_of(attar, config, num_teachers=2, num_slots=2)
    attar.recover(task, config)
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)


def test_images_that_teachers_in_turn_made_by_default_are_not_taken_for_those_of_one():
    made = {"ipc": 10}
    assert attar.Config(ipc=10).unlike(made) == ["the defaults of these settings changed"]
