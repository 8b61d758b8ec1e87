"""Herding against its plain formula."""

import pytest
import torch
from torch import Tensor

from attar.methods.herding import herd


def by_formula(features: Tensor, count: int) -> list[int]:
    """Every mean written out."""
    mean, chosen = features.mean(0), []
    for _ in range(count):
        left = [index for index in range(len(features)) if index not in chosen]
        distances = [float((features[[*chosen, index]].mean(0) - mean).norm()) for index in left]
        chosen.append(left[distances.index(min(distances))])
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_herding_follows_its_formula(seed: int):
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert herd(features, 12) == by_formula(features, 12)
    assert herd(features, 4) == herd(features, 12)[:4]
    assert sorted(herd(features, 30)) == list(range(30))


def test_the_mean_of_a_herd_is_nearer_than_that_of_the_first():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    away = [float((features[index].mean(0) - features.mean(0)).norm()) for index in (herd(features, 10), range(10))]
    assert away[0] < away[1] / 4


def test_equal_images_are_taken_in_order_and_each_once():
    assert herd(torch.ones(4, 3, dtype=torch.float64), 4) == [0, 1, 2, 3]
    twice = torch.tensor([[0.0], [4.0], [4.0], [0.0]], dtype=torch.float64)
    assert herd(twice, 4) == [0, 1, 2, 3]


def test_a_class_of_one_image():
    assert herd(torch.ones(1, 3, dtype=torch.float64), 1) == [0]
