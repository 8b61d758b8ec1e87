"""The input of the last layer, for networks of every kind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attar.models import build
from attar.models.teacher import Selection
from attar.ops.features import Extractor, penultimate

WIDTHS = {
    "resnet20": 64,
    "convnet3": 128 * 4 * 4,
    "torchvision/resnet18": 512,
    "torchvision/squeezenet1_1": 512,
    "torchvision/mobilenet_v3_small": 1024,
    "timm/vit_tiny_patch16_224": 192,
    "timm/convnext_atto": 320,
}


def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", WIDTHS)
def test_features_are_what_the_classifier_sees(name: str):
    network = build.build(name, 7, 32, seed=0).eval()
    found = penultimate(network, images())
    assert found.fallback == ""
    assert found.values.shape == (3, WIDTHS[name])
    assert found.values.dtype == torch.float32
    assert not found.values.requires_grad
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if last:  # every network of this list but SqueezeNet ends in one
        assert torch.allclose(last[-1](found.values), network(images()), atol=1e-5)


@pytest.mark.parametrize("name", WIDTHS)
def test_later_batches_have_the_same_features_without_the_classifier(name: str):
    network = build.build(name, 7, 32, seed=0).eval()
    extract = Extractor(network)
    extract(images())
    other = 1 - images()
    expected = penultimate(network, other).values
    ran: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in network.modules()]
    found = extract(other)
    for hook in hooks:
        hook.remove()
    assert torch.equal(found.values, expected)
    assert ran
    assert network not in ran  # the pass ended before its end
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_a_network_that_takes_another_way_is_looked_at_anew():
    class TwoWays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with build.seeded(0):
                self.light, self.dark = nn.Linear(3, 5), nn.Linear(3, 5)

        def forward(self, shown: Tensor) -> Tensor:
            means = shown.mean((2, 3))
            return self.light(means) if float(means.mean()) > 0 else self.dark(2 * means)

    extract = Extractor(TwoWays())
    assert torch.equal(extract(images()).values, images().mean((2, 3)))
    assert torch.equal(extract(-images()).values, -2 * images().mean((2, 3)))


def test_some_of_a_networks_classes_have_the_whole_networks_features():
    network = build.build("convnet3", 7, 32, seed=0).eval()
    few = Selection(network, tuple("abcdefg"), ("b", "a"))
    assert torch.equal(penultimate(few, images()).values, penultimate(network, images()).values)


def test_tokens_are_averaged():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with build.seeded(0):
                self.head = nn.Linear(3, 5)

        def forward(self, shown: Tensor) -> Tensor:
            return self.head(shown.flatten(2).mT).mean(1)

    assert torch.allclose(penultimate(Tokens(), images()).values, images().mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (lambda: (nn.Flatten(), nn.Linear(3072, 5), nn.LayerNorm(5)), "a LayerNorm, is not a linear classifier"),
        (lambda: (nn.Linear(32, 2), nn.Flatten()), "a Linear, is not a linear classifier"),
        (lambda: (nn.Flatten(),), "no layer with weights"),
    ],
)
def test_without_a_linear_classifier_there_are_the_logits(layers: Callable[[], tuple[nn.Module, ...]], reason: str):
    with build.seeded(0):
        network = nn.Sequential(*layers())
    found = penultimate(network, images())
    assert reason in found.fallback
    assert torch.equal(found.values, network(images()))
