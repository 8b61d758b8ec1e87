"""ops/batchnorm.py against the published hook formula: value and pixel gradient, on five kinds of network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from attar.models.small import NETWORKS
from attar.ops.batchnorm import StatisticsLoss, layer_distance, tracked_layers

N = TypeVar("N", bound=nn.Module)

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "timm-batchnormact2d": lambda: timm.create_model("test_efficientnet", num_classes=10),
    "resnet20": lambda: NETWORKS["resnet20"](10, 32),
    "convnet3": lambda: NETWORKS["convnet3"](10, 32),
}


@pytest.fixture(params=BUILDERS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return frozen(BUILDERS[request.param])


def frozen(build: Callable[[], N]) -> N:
    """A network in evaluation mode whose running statistics and affine parameters are not those of a fresh one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build()
        for layer in tracked_layers(network):
            for tensor in (layer.running_mean, layer.bias):
                assert tensor is not None
                tensor.data.normal_(0, 0.3)
            for tensor in (layer.running_var, layer.weight):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def images(count: int = 6, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def recorded_inputs(network: nn.Module) -> Iterator[dict[nn.BatchNorm2d, Tensor]]:
    """What every BatchNorm layer is fed, in order of registration."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    seen: dict[nn.BatchNorm2d, Tensor] = dict.fromkeys(layers, torch.empty(0))
    handles = [layer.register_forward_hook(lambda layer, fed, _: seen.update({layer: fed[0]})) for layer in layers]
    yield seen
    for handle in handles:
        handle.remove()


def published(network: nn.Module, pixels: Tensor, first_multiplier: float) -> Tensor:
    """SRe2L's sum over layers, written out."""
    total = torch.zeros(())
    with recorded_inputs(network) as seen:
        network(pixels)
    for place, (layer, fed) in enumerate(seen.items()):
        channels = fed.shape[1]
        mean = fed.mean([0, 2, 3])
        variance = fed.permute(1, 0, 2, 3).contiguous().view(channels, -1).var(1, unbiased=False)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        distance = torch.norm(layer.running_mean - mean, 2) + torch.norm(layer.running_var - variance, 2)
        total = total + (first_multiplier if place == 0 else 1.0) * distance
    return total


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0])
def test_value_and_gradient_equal_the_published_formula(network: nn.Module, first_multiplier: float):
    ours, theirs = images().requires_grad_(), images().requires_grad_()
    with StatisticsLoss(network, first_multiplier) as statistics:
        network(ours)
        distance = statistics.distance()
        distance.backward()
    expected = published(network, theirs, first_multiplier)
    expected.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(distance, expected, rtol=1e-5, atol=0)
    scale = theirs.grad.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4 * scale)


def test_every_layer_counts(network: nn.Module):
    with StatisticsLoss(network) as statistics, recorded_inputs(network) as seen:
        network(images())
        distance = statistics.distance()
    assert len(seen) == len(tracked_layers(network)) > 2
    parts = [layer_distance(fed, layer.running_mean, layer.running_var) for layer, fed in seen.items()]
    assert distance.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)


def test_the_distance_is_of_the_last_forward_pass():
    network = frozen(BUILDERS["convnet3"])
    with StatisticsLoss(network) as statistics:
        network(2 * images())
        network(images())
        assert statistics.distance().item() == pytest.approx(published(network, images(), 1.0).item(), rel=1e-6)


class Backwards(nn.Module):
    """Runs its layers in the opposite order to that of their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(3 * self.first(pixels) + 1)


def test_the_first_layer_is_the_one_registered_first():
    network = frozen(Backwards)
    assert tracked_layers(network) == [network.last, network.first]
    with recorded_inputs(network) as seen:
        network(images())
    registered_first, other = (
        layer_distance(seen[layer], layer.running_mean, layer.running_var) for layer in (network.last, network.first)
    )
    with StatisticsLoss(network, 10.0) as statistics:
        network(images())
        assert statistics.distance().item() == pytest.approx((10 * registered_first + other).item(), rel=1e-6)


def test_layers_without_running_statistics_are_passed_over():
    network = frozen(lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3)))
    assert tracked_layers(network) == [network[1]]


def test_hooks_are_gone_after_the_context_and_after_an_error(network: nn.Module):
    def count() -> int:
        return sum(len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in network.modules())

    with StatisticsLoss(network):
        assert count() == len(tracked_layers(network))
    assert count() == 0
    with pytest.raises(ZeroDivisionError), StatisticsLoss(network):
        raise ZeroDivisionError
    assert count() == 0


def test_statistics_are_in_float32_under_bf16_autocast():
    network = frozen(BUILDERS["resnet20"])
    with StatisticsLoss(network, 10.0) as statistics, recorded_inputs(network) as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(images())
        distance = statistics.distance()
    assert {fed.dtype for fed in seen.values()} == {torch.bfloat16}
    assert distance.dtype == torch.float32
    parts = [
        layer_distance(fed.double(), layer.running_mean, layer.running_var) * (1 if place else 10)
        for place, (layer, fed) in enumerate(seen.items())
    ]
    assert distance.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    assert distance.item() == pytest.approx(published(network, images(), 10.0).item(), rel=0.02)


def test_measuring_changes_no_statistic(network: nn.Module):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with StatisticsLoss(network) as statistics:
        network(images())
        statistics.distance()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
