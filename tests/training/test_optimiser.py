"""training/optimiser.py: which parameters go where, and memory layouts that fused kernels do not mix up."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.training.choices import Optimisation
from attar.training.optimiser import Optimiser

OPTIMIZERS = ["sgd", "adam", "adamw", "muon"]


class Network(nn.Module):
    """One of each: a convolution, BatchNorm, an embedding, a hidden and a last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.place = nn.Embedding(8, 8)
            self.hidden = nn.Linear(8, 8)
            self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.norm(self.conv(images)).relu().mean((2, 3)) + self.place.weight[0]
        return self.head(self.hidden(seen).tanh())


def choice(optimizer: str, **more: Any) -> Optimisation:
    return Optimisation.of({"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.0, **more}, "here")


def gradients(network: nn.Module, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    network.zero_grad()
    network(torch.rand(6, 3, 8, 8, generator=stream)).square().mean().backward()


def moves(network: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    """What one step changes."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    gradients(network, 1)
    optimiser.step(0.01)
    return {name: parameter.detach() - before[name] for name, parameter in network.named_parameters()}


def test_muon_takes_matrices_and_convolutions_and_leaves_the_rest_to_adam():
    """The singular values of Muon's step are about alike, 0.2 times the rate times the root of the longer side."""
    network = Network()
    made = moves(network, Optimiser(network, choice("muon")))
    for name, longer in (("conv.weight", 27), ("hidden.weight", 8)):
        singular = torch.linalg.svdvals(made[name].flatten(1))
        assert singular.max().item() == pytest.approx(0.01 * 0.2 * longer**0.5, rel=0.3), name
        gradient = next(p.grad for key, p in network.named_parameters() if key == name)
        assert gradient is not None
        steep = torch.linalg.svdvals(gradient.flatten(1))
        assert singular[1] / singular[0] > 0.7 > steep[1] / steep[0], name
    for name in ("head.weight", "head.bias", "norm.weight", "hidden.bias"):
        sizes = made[name].abs()
        # Adam's first step is the learning rate everywhere; with Nesterov momentum 1.9 times that.
        assert sizes.min().item() == pytest.approx(sizes.max().item(), rel=1e-2), name
        assert sizes.max().item() == pytest.approx(0.019, rel=1e-3), name
    assert made["place.weight"][1:].abs().max() == 0
    assert made["place.weight"][0].abs().min() > 0.009


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_is_of_all_parameters_or_of_matrices_alone(optimizer: str):
    for decay_norms in (True, False):
        network = Network()
        plan = choice(optimizer, weight_decay=0.1, decay_norms=decay_norms)
        groups = Optimiser(network, plan).inner.param_groups
        decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        for name, parameter in network.named_parameters():
            assert decays.pop(id(parameter)) == (0.1 if decay_norms or parameter.ndim > 1 else 0.0), name
        assert decays == {}


def test_frozen_parameters_are_not_given_to_an_optimiser():
    for optimizer in OPTIMIZERS:
        network = Network()
        network.conv.requires_grad_(False)
        groups = Optimiser(network, choice(optimizer)).inner.param_groups
        held = {id(p) for group in groups for p in group["params"]}
        assert held == {id(p) for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_from_a_file_has_the_usual_layout_and_continues_all_the_same(optimizer: str):
    """Files hold tensors in the usual order; the network's convolutions are kept with channels last."""
    network = Network()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = Optimiser(network, choice(optimizer))
    for seed in range(3):
        gradients(network, seed)
        optimiser.step(0.01)
    state = copy.deepcopy(optimiser.state_dict())
    for kept in state["state"].values():
        for name, value in kept.items():
            kept[name] = value.contiguous() if isinstance(value, Tensor) else value
    other = copy.deepcopy(network)
    resumed = Optimiser(other, choice(optimizer))
    resumed.load_state_dict(state)
    for seed in range(3, 6):
        for net, one in ((network, optimiser), (other, resumed)):
            gradients(net, seed)
            one.step(0.01)
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(one, another) for one, another in pairs)
    assert not network.conv.weight.is_contiguous()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gradient_in_another_layout_is_not_mixed_up(optimizer: str):
    networks = [Network(), Network()]
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = [Optimiser(network, choice(optimizer)) for network in networks]
    for network, optimiser in zip(networks, optimisers, strict=True):
        gradients(network, 1)
        if network is networks[1]:
            assert network.conv.weight.grad is not None
            network.conv.weight.grad = network.conv.weight.grad.contiguous()
        optimiser.step(0.01)
    assert torch.equal(networks[0].conv.weight, networks[1].conv.weight)
