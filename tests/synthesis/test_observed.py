"""synthesis/observed.py against the published hook formula: logits, value, pixel gradient, on many kinds of network."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits, load_sample_image
from timm.layers.norm_act import BatchNormAct2d
from timm.models import densenet as timm_densenet
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from attar.models.small import NETWORKS
from attar.synthesis.observed import BATCHNORM, Observed
from attar.synthesis.statistics import distance, layer_weights
from attar.synthesis.taps import tracked_layers

N = TypeVar("N", bound=nn.Module)

PUBLISHED = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
)
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: torchvision.models.get_model(name, num_classes=10) for name in PUBLISHED},
    "densenet": lambda: DenseNet(8, (2, 3, 2, 2), 16, num_classes=10),
    "timm-efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=10),
    "timm-byobnet": lambda: timm.create_model("test_byobnet", num_classes=10),
    "timm-densenet": lambda: timm_densenet.DenseNet(growth_rate=8, block_config=(2, 3), num_classes=10),
    "resnet20": lambda: NETWORKS["resnet20"](10, 32),
    "convnet3": lambda: NETWORKS["convnet3"](10, 32),
}
LABELS = torch.tensor([3, 1, 4, 1, 5, 9])


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
                if isinstance(tensor, Tensor):
                    tensor.data.normal_(0, 0.3)
            for tensor in (layer.running_var, layer.weight):
                if isinstance(tensor, Tensor):
                    tensor.data.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def noise(count: int = len(LABELS), side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@contextmanager
def inputs_of(network: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """What every BatchNorm layer with running statistics is fed, in order of registration."""
    layers = tracked_layers(network)
    seen = dict.fromkeys(layers, torch.empty(0))
    handles = [layer.register_forward_hook(lambda layer, fed, _: seen.update({layer: fed[0]})) for layer in layers]
    yield seen
    for handle in handles:
        handle.remove()


def published(network: Any, images: Tensor, first_multiplier: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and SRe2L's sum over layers, written out."""
    with inputs_of(network) as seen:
        logits = network(images)
    total = logits.new_zeros(())
    for place, (layer, fed) in enumerate(seen.items()):
        if len(fed):  # a layer that did not run has nothing to say
            total = total + (first_multiplier if place == 0 else 1.0) * distance_of(layer, fed)
    return logits, total


def distance_of(layer: Any, fed: Tensor) -> Tensor:
    mean = fed.mean([0, 2, 3])
    variance = fed.permute(1, 0, 2, 3).contiguous().view(fed.shape[1], -1).var(1, unbiased=False)
    return torch.norm(layer.running_mean - mean, 2) + torch.norm(layer.running_var - variance, 2)


def distance_from(observed: Observed, firsts: Tensor, seconds: Tensor, first_multiplier: float = 1.0) -> Tensor:
    """The distance of all images as one unit from the running statistics."""
    layout = observed.layouts[BATCHNORM]
    assert layout.running is not None
    mean, square = firsts.mean(0, keepdim=True), seconds.mean(0, keepdim=True)
    weights = layer_weights([layout], first_multiplier)[0]
    return distance(mean, square - mean.square(), None, layout.running[1], layout.layer_of(), weights)[0]


def observed_distance(observed: Observed, images: Tensor, first_multiplier: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits and distance of all images as one unit."""
    logits, moments, _ = observed(images)
    return logits, distance_from(observed, *moments[BATCHNORM], first_multiplier)


def slopes(images: Tensor, logits: Tensor, away: Tensor) -> list[Tensor]:
    """Pixel gradients of the distance and of the cross-entropy."""
    terms = (away, F.cross_entropy(logits, LABELS))
    return [torch.autograd.grad(term, images, retain_graph=True)[0] for term in terms]


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0])
def test_logits_value_and_gradients_equal_the_published_formula(network: nn.Module, first_multiplier: float):
    """A ReLU whose input is zero but for rounding may open in one and not in the other: one image may differ."""
    ours, theirs = noise().requires_grad_(), noise().requires_grad_()
    found = observed_distance(Observed(network, noise(2)), ours, first_multiplier)
    expected = published(network, theirs, first_multiplier)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4 * expected[0].abs().max().item())
    torch.testing.assert_close(found[1], expected[1], rtol=2e-5, atol=0)
    for slope, published_slope in zip(slopes(ours, *found), slopes(theirs, *expected), strict=True):
        scale = published_slope.abs().max().item()
        assert scale > 0
        errors = (slope - published_slope).abs().amax((1, 2, 3)).sort().values
        assert errors[-2] <= 1e-4 * scale


def test_the_callers_network_is_left_as_it_was(network: nn.Module):
    def looks() -> list[Any]:
        hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules()]
        kinds = [(type(part), part.training, sorted(vars(part))) for part in network.modules()]
        weights = [(weight.dtype, weight.stride(), weight.requires_grad) for weight in network.parameters()]
        return [hooks, kinds, weights, [weight.grad is None for weight in network.parameters()]]

    network.train().requires_grad_(True)
    before, state = looks(), {name: value.clone() for name, value in network.state_dict().items()}
    images = noise().requires_grad_()
    slopes(images, *observed_distance(Observed(network, noise(2), "bf16"), images))
    assert looks() == before
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_measuring_leaves_nothing_behind_and_repeats_itself():
    observed = Observed(frozen(BUILDERS["convnet3"]), noise(2))
    logits, away = observed_distance(observed, noise())
    state = {name: value.clone() for name, value in observed.state_dict().items()}
    images = (2 * noise()).requires_grad_()
    observed_distance(observed, images)
    alive = weakref.ref(images)
    del images
    assert alive() is None, "the graph of a step is kept beyond it"
    again = observed_distance(observed, noise())
    assert torch.equal(logits, again[0])
    assert torch.equal(away, again[1])
    assert all(torch.equal(value, state[name]) for name, value in observed.state_dict().items())


class Branches(nn.Module):
    """Runs its layers in the opposite order to that of their registration, and one of them not at all."""

    def __init__(self, kind: Callable[..., Any] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.last, self.idle, self.first = kind(3), kind(5), kind(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.relu(3 * self.first(images) + 1)).mean((2, 3))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d])
def test_the_first_layer_is_the_one_registered_first_and_idle_ones_do_not_count(kind: Callable[..., Any]):
    network = frozen(lambda: Branches(kind))
    assert tracked_layers(network) == [network.last, network.idle, network.first]
    with inputs_of(network) as seen:
        network(noise())
    expected = 10 * distance_of(network.last, seen[network.last]) + distance_of(network.first, seen[network.first])
    observed = Observed(network, noise(2))
    assert observed_distance(observed, noise(), 10.0)[1].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_layers_without_running_statistics_do_not_count_those_without_affine_parameters_do(kind: Callable[..., Any]):
    network = frozen(lambda: nn.Sequential(kind(3, track_running_stats=False), kind(3, affine=False), kind(3)))
    network[2].register_parameter("bias", None)
    assert tracked_layers(network) == [network[1], network[2]]
    found, expected = observed_distance(Observed(network, noise(2)), noise()), published(network, noise())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_large_mean_does_not_drown_the_variance(kind: Callable[..., Any]):
    """Mean 1000 and deviation 1: the square of the mean alone uses up all the digits that float32 has."""
    network = frozen(lambda: nn.Sequential(kind(3)))
    (layer,) = tracked_layers(network)
    layer.get_buffer("running_mean").fill_(1000.3)
    images = (noise(8) + 1000).requires_grad_()
    firsts, seconds = Observed(network, noise(2))(images)[1][BATCHNORM]
    variance = seconds.mean(0) - firsts.mean(0).square()
    exact = images.double().var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(variance.double(), exact, rtol=1e-3, atol=0)
    (slope,) = torch.autograd.grad(variance.sum(), images)
    away = images.double() - images.double().mean((0, 2, 3), keepdim=True)
    expected = 2 * away / (images.numel() / 3)
    torch.testing.assert_close(slope.double(), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["resnet20", "timm-efficientnet"])
def test_moments_and_logits_are_float32_under_bf16(name: str):
    """They are those of the features as they are in bf16, taken exactly."""
    network = frozen(BUILDERS[name])
    observed = Observed(network, noise(2), "bf16")
    with inputs_of(observed.network) as seen:
        logits, moments, _ = observed(noise())
    firsts, seconds = moments[BATCHNORM]
    assert {fed.dtype for fed in seen.values()} == {torch.bfloat16}
    assert {logits.dtype, firsts.dtype, seconds.dtype} == {torch.float32}
    exact = [distance_of(layer, fed.double()) for layer, fed in seen.items()]
    found = distance_from(observed, firsts, seconds, 10.0)
    assert found.item() == pytest.approx((10 * exact[0] + sum(exact[1:])).item(), rel=1e-5)
    assert found.item() == pytest.approx(published(network, noise(), 10.0)[1].item(), rel=0.02)


def test_operations_are_those_of_an_images_way_forth_and_back():
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16 * 16, 5))

    network = frozen(build)
    forth = 2 * (8 * 16 * 16 * 27 + 8 * 16 * 16 * 5)
    for count in (1, 3):
        observed = Observed(network, noise(count, 16))
        assert observed.operations == 2 * forth
        assert (observed.num_layers, observed.num_values) == (2, 8 * 16 * 16 + 5)
    assert not any(layer._forward_hooks for layer in observed.network.modules()), "it goes on counting"


@pytest.mark.parametrize(("widths", "narrow"), [((32, 64), False), ((48, 64), True), ((16, 16), True)])
def test_a_network_is_narrow_when_a_layer_is_no_multiple_of_32_channels(widths: tuple[int, int], narrow: bool):
    first, second = widths

    def build() -> nn.Module:
        convolutions = nn.Conv2d(3, first, 1), nn.Conv2d(first, second, 1)
        return nn.Sequential(convolutions[0], nn.BatchNorm2d(first), convolutions[1], nn.BatchNorm2d(second))

    assert Observed(frozen(build), noise(2)).narrow == narrow


def digits(count: int = 48) -> Tensor:
    """Scikit-learn's digits, 32 pixels wide."""
    small = torch.from_numpy(load_digits(return_X_y=True)[0][:count]).float().view(-1, 1, 8, 8) / 16
    return F.interpolate(small, size=32, mode="bilinear").expand(-1, 3, -1, -1)


def photographs() -> Tensor:
    """Crops of scikit-learn's photograph of a flower, 32 pixels wide."""
    whole = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).float() / 255
    crops = whole[:, :384, :576].unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)
    return F.avg_pool2d(crops, 2)[:48]


def bf16_cosines(network: nn.Module, images: Tensor) -> tuple[float, float]:
    """How well pixel gradients in bf16 agree with float32's: ours, and those of PyTorch's autocast on the network."""

    def slope(terms: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        leaf = images.clone().requires_grad_()
        logits, distance = terms(leaf)
        (found,) = torch.autograd.grad(F.cross_entropy(logits.float(), LABELS) + 0.01 * distance, leaf)
        return found.flatten()

    def autocast(leaf: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return published(network, leaf, 10.0)

    exact = slope(lambda leaf: published(network, leaf, 10.0))
    ours = slope(lambda leaf: observed_distance(Observed(network, images, "bf16"), leaf, 10.0))
    return F.cosine_similarity(exact, ours, dim=0).item(), F.cosine_similarity(exact, slope(autocast), dim=0).item()


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
@pytest.mark.parametrize("make", [digits, photographs])
def test_bf16_loses_no_more_than_autocast_does(name: str, make: Callable[[], Tensor]):
    """On real images and on noise. The weights are random, the statistics measured on the images: the hardest case."""
    real = make()
    real = (real - real.mean()) / real.std()
    network = frozen(BUILDERS[name]).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the average of all passes
    for part in real.split(16):
        network(part)
    for images in (real[: len(LABELS)], noise()):
        ours, theirs = bf16_cosines(network.eval(), images)
        assert ours > theirs - 0.01
        assert ours > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_the_gradient_in_bf16_points_where_that_in_float32_does(name: str):
    """For a teacher that has learnt something, on the images it learnt from and on noise."""
    real = digits(640)
    real = (real - real.mean()) / real.std()
    network = frozen(BUILDERS[name]).train().requires_grad_(True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    truth = torch.from_numpy(load_digits(return_X_y=True)[1][:640])
    for _ in range(6):
        for images, labels in zip(real.split(64), truth.split(64), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    for images in (real[: len(LABELS)], noise()):
        assert bf16_cosines(network, images)[0] >= 0.97
