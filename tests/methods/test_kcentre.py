"""k-centre against its plain formula."""

import itertools

import pytest
import torch
from torch import Tensor

from attar.methods.kcentre import centres


def by_formula(features: Tensor, count: int) -> list[int]:
    """Every distance written out."""

    def away(one: int, other: int) -> float:
        return float((features[one] - features[other]).norm())

    from_mean = (features - features.mean(0)).norm(dim=1).tolist()
    chosen = [from_mean.index(min(from_mean))]
    while len(chosen) < count:
        left = [index for index in range(len(features)) if index not in chosen]
        nearest = [min(away(index, centre) for centre in chosen) for index in left]
        chosen.append(left[nearest.index(max(nearest))])
    return chosen


def radius(features: Tensor, chosen: list[int]) -> float:
    return float(torch.cdist(features, features[chosen]).min(1).values.max())


@pytest.mark.parametrize("seed", range(5))
def test_centres_follow_their_formula(seed: int):
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert centres(features, 12) == by_formula(features, 12)
    assert centres(features, 4) == centres(features, 12)[:4]
    assert sorted(centres(features, 30)) == list(range(30))


def test_the_radius_is_at_most_twice_the_best():
    """The bound of the greedy algorithm, whatever its first centre is."""
    features = torch.randn(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best = min(radius(features, list(chosen)) for chosen in itertools.combinations(range(12), 3))
    assert radius(features, centres(features, 3)) <= 2 * best


def test_equal_images_are_taken_in_order_and_each_once():
    assert centres(torch.ones(4, 3, dtype=torch.float64), 4) == [0, 1, 2, 3]
    twice = torch.tensor([[0.0], [4.0], [4.0], [0.0], [1.0]], dtype=torch.float64)
    assert sorted(centres(twice, 5)) == [0, 1, 2, 3, 4]
    assert centres(twice, 3) == [4, 1, 0]


def test_a_class_of_one_image():
    assert centres(torch.ones(1, 3, dtype=torch.float64), 1) == [0]
