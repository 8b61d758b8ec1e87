"""synthesis/networks.py against networks that keep their weights."""

import pytest
import torch
from torch import nn

from attar.models.small import ConvNet
from attar.synthesis.networks import Bare


def convnet() -> nn.Module:
    return ConvNet(3, 5, 16, width=6, norm="instance")


def test_weights_as_an_argument_are_the_networks_own():
    with torch.random.fork_rng(devices=[]):
        network = convnet()
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().view(2, 3, 16, 16).requires_grad_()
    bare = Bare(convnet)
    answer = bare(bare.flat(network), images)
    torch.testing.assert_close(answer, network(images))
    assert bare.num_weights == sum(weight.numel() for weight in network.parameters())
    assert bare.num_features((16, 16)) == 5
    slopes = [torch.autograd.grad(out.square().sum(), images)[0] for out in (answer, network(images))]
    torch.testing.assert_close(*slopes)


def test_random_weights_are_spread_as_pytorchs_own():
    bare = Bare(lambda: ConvNet(2, 10, 16, width=64, norm="instance"))
    weights = bare.random(torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = ConvNet(2, 10, 16, width=64, norm="instance")
    parts = weights.split([weight.numel() for weight in network.parameters()])
    for (name, weight), part in zip(network.named_parameters(), parts, strict=True):
        if weight.std() == 0:
            assert torch.equal(part, weight.flatten()), name
        else:
            assert part.abs().max() == pytest.approx(weight.detach().abs().max().item(), rel=0.2), name
            assert part.std() == pytest.approx(weight.std().item(), rel=0.35), name


def test_amount_counts_layers_and_their_outputs():
    amount = Bare(convnet).amount((16, 16), 10, 4)
    outputs = [6 * 16**2, 6 * 8**2, 6 * 4**2, 5]
    assert (amount.values, amount.num_layers, amount.num_calls) == (10 * sum(outputs), 4, 4)
    fan_in = [27, 54, 54, 6 * 2**2]
    assert amount.operations == 20 * sum(out * each for out, each in zip(outputs, fan_in, strict=True))


def test_networks_with_running_statistics_are_refused():
    with pytest.raises(ValueError, match="ConvNet has buffers"):
        Bare(lambda: ConvNet(1, 2, 8))
