"""training/averaging.py against a loop written out."""

import torch
from torch import nn

from attar.training.averaging import Average


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def moved(module: nn.Module, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream))


def test_the_average_is_that_of_a_plain_loop():
    module = network()
    average = Average(module, 0.9)
    plain = [parameter.detach().clone() for parameter in module.parameters()]
    for seed in range(20):
        moved(module, seed)
        average.update()
        plain = [0.9 * mean + 0.1 * now.detach() for mean, now in zip(plain, module.parameters(), strict=True)]
    assert average.state()
    for mean, expected in zip(average.state(), plain, strict=True):
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-5)
        assert not mean.requires_grad


def test_the_averaged_network_is_shown_and_put_away_again():
    module = network()
    average = Average(module, 0.5)
    initial = [parameter.detach().clone() for parameter in module.parameters()]
    moved(module, 1)
    moving = [parameter.detach().clone() for parameter in module.parameters()]
    with average.shown():
        assert all(torch.equal(now, then) for now, then in zip(module.parameters(), initial, strict=True))
        assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(now, then) for now, then in zip(module.parameters(), moving, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(average.state(), initial, strict=True))


def test_frozen_parameters_and_buffers_are_left_out():
    module = network()
    module[0].requires_grad_(False)
    average = Average(module, 0.5)
    assert len(average.state()) == 4  # scale and shift of BatchNorm, weight and bias of the classifier
    statistics = module[1].running_mean
    with average.shown():
        assert module[1].running_mean is statistics


def test_an_average_continues_from_its_state():
    module = network()
    average = Average(module, 0.9)
    moved(module, 1)
    average.update()
    saved = [value.clone() for value in average.state()]
    other = Average(module, 0.9)
    other.load(saved)
    for one in (average, other):
        one.update()
    assert all(torch.equal(now, then) for now, then in zip(average.state(), other.state(), strict=True))
