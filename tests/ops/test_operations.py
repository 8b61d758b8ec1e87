"""ops/operations.py: floating-point operations of a forward pass."""

import torch
from torch import nn

from attar.ops.operations import forward_operations


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))


def test_convolutions_and_products_are_counted_per_image():
    assert forward_operations(network(), 8) == 2 * (3 * 4 * 9 * 3 * 3) + 2 * 36 * 5


def test_the_network_is_left_as_it_was():
    module = network().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    forward_operations(module, 8)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
