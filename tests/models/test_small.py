"""models/small.py: shapes, depths and parameter counts of attar's own networks."""

import pytest
import torch
from torch import nn

from attar.models.small import NETWORKS, ConvNet, InstanceNorm, SmallResNet, WideResNet


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_resnets_have_the_papers_depth_and_parameters(depth: int, millions: float):
    network = SmallResNet(depth, 10)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    projections = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    assert len(layers) - len(projections) == depth
    assert len(projections) == 2
    count = sum(weight.numel() for weight in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_resnet_halves_the_map_twice():
    network = SmallResNet(20, 10).eval()
    maps = network.layer3(network.layer2(network.layer1(torch.zeros(1, 16, 32, 32))))
    assert maps.shape == (1, 64, 8, 8)


def test_convolutions_of_a_resnet_are_drawn_fan_out():
    conv = SmallResNet(20, 10).layer3[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_the_wide_resnet_has_the_papers_depth_and_parameters():
    """12 convolutions in blocks, the stem and the classifier; 0.7 million parameters in the paper's table 4."""
    network = WideResNet(16, 2, 10)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len([layer for layer in layers if not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))]) == 14
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(0.69, abs=0.01)
    assert network.blocks(torch.zeros(1, 16, 32, 32)).shape == (1, 128, 8, 8)


@pytest.mark.parametrize(
    ("depth", "size", "features"), [(3, 32, 128 * 16), (4, 64, 128 * 16), (3, 8, 128), (3, 30, 1152)]
)
def test_convnet_flattens_the_last_map(depth: int, size: int, features: int):
    network = ConvNet(depth, 7, size)
    assert network.fc.in_features == features
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_convnet_has_the_published_number_of_parameters():
    assert sum(weight.numel() for weight in ConvNet(3, 10, 32).parameters()) == 320_010


def test_convnet_with_instance_norm_normalises_each_image_alone():
    network = NETWORKS["convnet3_in"](10, 32)
    assert sum(weight.numel() for weight in network.parameters()) == 320_010
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)
    torch.testing.assert_close(network(images)[:1], network(images[:1]))
    inputs = network.blocks[0][0](images)
    expected = nn.functional.instance_norm(inputs)
    torch.testing.assert_close(network.blocks[0][1](inputs), expected, atol=1e-5, rtol=1e-4)


def test_convnet_stops_pooling_at_one_pixel_and_takes_other_sizes():
    network = ConvNet(3, 7, 4)
    assert network(torch.zeros(2, 3, 4, 4)).shape == (2, 7)
    assert network(torch.zeros(2, 3, 21, 16)).shape == (2, 7)
    assert ConvNet(3, 7, 32)(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_differentiable_to_the_pixels(name: str):
    images = torch.linspace(-1, 1, 2 * 3 * 9 * 9).reshape(2, 3, 9, 9).requires_grad_()
    NETWORKS[name](5, 9).eval()(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(("side", "count"), [(8, 3), (5, 1), (1, 4), (2, 2)])
def test_instance_norm_in_bf16_is_that_of_float32_with_its_gradients(side: int, count: int):
    draws = torch.Generator().manual_seed(side)
    layer = InstanceNorm(6)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(6, generator=draws) + 0.5)
        layer.bias.copy_(torch.randn(6, generator=draws))
    maps = torch.randn(count, 6, side, side, generator=draws).bfloat16().contiguous(memory_format=torch.channels_last)
    back = torch.randn(maps.shape, generator=draws)

    def both(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = values.detach().requires_grad_()
        normal = layer(values)
        assert normal.dtype is values.dtype
        gradients = torch.autograd.grad((normal.float() * back).sum(), [values, layer.weight, layer.bias])
        return normal.detach(), *gradients

    for low, exact in zip(both(maps), both(maps.float()), strict=True):
        assert torch.allclose(low.float(), exact, rtol=0.03, atol=0.03 * max(0.1, float(exact.abs().max())))


def test_instance_norm_has_the_second_gradients_of_float32():
    draws = torch.Generator().manual_seed(0)
    layer, maps = InstanceNorm(4), torch.randn(2, 4, 6, 6, generator=draws).bfloat16()

    def second(values: torch.Tensor) -> torch.Tensor:
        values = values.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        loss = layer(values).float().pow(3).mean()
        (first,) = torch.autograd.grad(loss, [layer.weight], create_graph=True)
        return torch.autograd.grad(first.float().pow(2).sum(), [values])[0].float()

    exact = second(maps.float())
    assert torch.allclose(second(maps), exact, atol=0.05 * float(exact.abs().max()))


def test_a_network_with_instance_norm_takes_weights_that_were_saved_with_groups():
    groups = nn.GroupNorm(128, 128).state_dict()
    assert NETWORKS["convnet3_in"](10, 32).blocks[0][1].state_dict().keys() == groups.keys()
