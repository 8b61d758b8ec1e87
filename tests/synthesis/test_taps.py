"""synthesis/taps.py and observed.py against plain hooks: convolutions, patches, tokens, features, and new weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models.small import ConvNet, SmallResNet
from attar.synthesis.observed import BATCHNORM, Observed
from attar.synthesis.taps import Moments, Tap, sites_of

CONVOLUTION, TOKENS = Tap("convolution"), Tap("tokens")
NUM_IMAGES = 3


def group_normed() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.InstanceNorm2d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: SmallResNet(8, 5),
    "convnet": lambda: ConvNet(3, 5, 30, width=8),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5),
    "groupnorm": group_normed,
    "vit": lambda: timm.create_model("test_vit", num_classes=5, img_size=30, patch_size=10),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=5),
    "torchvision-convnext": lambda: torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(8, 16, 1), torchvision.models.convnext.CNBlockConfig(16, None, 1)],
        num_classes=5,
    ),
}
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm2d)


def frozen(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build()
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def images_of(side: int = 30) -> Tensor:
    return torch.randn(NUM_IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))


def fed_to(network: nn.Module, images: Tensor, kinds: Any) -> tuple[Tensor, list[tuple[nn.Module, Tensor]]]:
    """Logits, and what each layer of these kinds is fed, in order of registration."""
    seen: dict[nn.Module, Tensor] = {}
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(lambda layer, fed, _: seen.update({layer: fed[0]})) for layer in layers]
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, [(layer, seen[layer]) for layer in layers if layer in seen]


def by_channel(layer: nn.Module, fed: Tensor) -> Tensor:
    """Image by channel by whatever is left."""
    last = isinstance(layer, nn.LayerNorm | nn.RMSNorm) and "2d" not in type(layer).__name__
    return (fed.movedim(-1, 1) if last else fed).reshape(len(fed), fed.shape[-1 if last else 1], -1)


def by_patch(fed: Tensor, side: int) -> Tensor:
    """Image by patch by value, the map first enlarged to whole patches."""
    whole = [math.ceil(length / side) * side for length in fed.shape[2:]]
    maps = F.interpolate(fed, whole, mode="bilinear")
    cut = maps.unfold(2, side, side).unfold(3, side, side)  # image channel rows columns side side
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(len(fed), -1, fed.shape[1] * side * side)


def agree(found: Moments, values: list[Tensor], images: tuple[Tensor, Tensor], centre: Tensor) -> None:
    """Moments are those of the values, and a sum of both that weighs every number differently has the same slope."""
    means = torch.cat([value.mean(2) for value in values], 1)
    variances = torch.cat([value.var(2, unbiased=False) for value in values], 1)
    torch.testing.assert_close(found.first + centre, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.second - found.first.square(), variances, rtol=1e-3, atol=1e-5)
    weights = torch.sin(torch.arange(means.numel()).float()).view_as(means)
    ours = (weights * (found.first + centre)).sum() + (weights.flip(1) * (found.second - found.first.square())).sum()
    theirs = (weights * means).sum() + (weights.flip(1) * variances).sum()
    slope, expected = (torch.autograd.grad(value, leaf)[0] for value, leaf in zip((ours, theirs), images, strict=True))
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("kind", ["convolution", "tokens"])
def test_moments_by_channel_are_those_of_plain_hooks(name: str, kind: Any):
    network, kinds = frozen(BUILDERS[name]), NORMS if kind == "tokens" else nn.Conv2d
    if not any(isinstance(layer, kinds) for layer in network.modules()):
        with pytest.raises(AttarError, match=r"The teacher has no LayerNorm, .* layers to observe"):
            Observed(network, images_of()[:2], taps=[Tap(kind)])
        return
    side = 32 if name == "convnext" else 30  # it halves an image five times
    ours, theirs = images_of(side).requires_grad_(), images_of(side).requires_grad_()
    observed = Observed(network, images_of(side)[:2], taps=[Tap(kind)])
    logits, moments, _ = observed(ours)
    expected, fed = fed_to(network, theirs, kinds)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    layout = observed.layouts[Tap(kind)]
    assert layout.sizes == tuple(by_channel(*each).shape[1] for each in fed)
    agree(moments[Tap(kind)], [by_channel(*each) for each in fed], (ours, theirs), layout.centre)


@pytest.mark.parametrize(("place", "side"), [("", 4), ("3", 3)])
def test_moments_by_patch_are_those_of_plain_hooks(place: str, side: int):
    """Maps are 30, 15 and 8 pixels wide: patches of 4 fit into the last alone, the others are enlarged."""
    network, tap = frozen(BUILDERS["resnet"]), Tap("patches", place)
    ours, theirs = images_of().requires_grad_(), images_of().requires_grad_()
    observed = Observed(network, images_of()[:2], taps=[tap])
    _, fed = fed_to(network, theirs, nn.Conv2d)
    values = [by_patch(maps, side) for _, maps in fed]
    assert observed.layouts[tap].sizes == tuple(value.shape[1] for value in values)
    agree(observed(ours)[1][tap], values, (ours, theirs), torch.zeros(()))


def test_taps_together_see_what_each_sees_alone_and_a_tensor_is_measured_once():
    """In a DenseNet blocks feed one tensor to BatchNorm; in a ResNet to two convolutions."""
    taps = (BATCHNORM, CONVOLUTION, Tap("patches"))
    for name in ("resnet", "densenet"):
        network = frozen(BUILDERS[name])
        together = Observed(network, images_of()[:2], taps=taps)
        for tap in taps:
            alone = Observed(network, images_of()[:2], taps=[tap])
            assert alone.layouts[tap].sizes == together.layouts[tap].sizes
            assert torch.equal(alone.layouts[tap].centre, together.layouts[tap].centre)
            pairs = zip(alone(images_of())[1][tap], together(images_of())[1][tap], strict=True)
            for found, expected in pairs:
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    sites = sites_of(frozen(BUILDERS["resnet"]), images_of(), taps)[CONVOLUTION]
    twins = {site.name: site.twin for site in sites if site.twin != site.name}
    assert twins == {"layer2.0.shortcut.0": "layer2.0.conv1", "layer3.0.shortcut.0": "layer3.0.conv1"}


def test_a_convolution_that_is_fed_what_batchnorm_is_fed_shares_its_moments():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3), nn.Linear(7, 5)

        def forward(self, images: Tensor) -> Tensor:
            both = torch.cat([self.conv(images).mean((2, 3)), self.norm(images).mean((2, 3))], 1)
            return self.fc(both)

    network = frozen(Branches)
    observed = Observed(network, images_of()[:2], taps=[CONVOLUTION, BATCHNORM])
    _, moments, _ = observed(images_of())
    assert all(torch.equal(*pair) for pair in zip(moments[CONVOLUTION], moments[BATCHNORM], strict=True))
    assert torch.equal(observed.layouts[CONVOLUTION].centre, network.get_buffer("norm.running_mean"))
    assert not observed.get_submodule("network.conv")._forward_pre_hooks, "it measures what BatchNorm measures"
    mean = moments[CONVOLUTION].first + observed.layouts[CONVOLUTION].centre
    torch.testing.assert_close(mean, images_of().mean((2, 3)))


def test_a_kind_of_layer_that_a_network_lacks_has_no_numbers():
    """As BatchNorm in an AlexNet, whose convolutions are observed all the same."""
    network = frozen(BUILDERS["groupnorm"])
    observed = Observed(network, images_of()[:2], taps=[BATCHNORM, CONVOLUTION])
    _, moments, _ = observed(images_of())
    assert moments[BATCHNORM].first.shape == moments[BATCHNORM].second.shape == (NUM_IMAGES, 0)
    assert observed.layouts[BATCHNORM].layer_of().shape == (0, 0)
    assert moments[CONVOLUTION].first.shape == (NUM_IMAGES, 3 + 8)
    assert observed.layouts[CONVOLUTION].first == 1, "the first layer observed is the first convolution"


def test_features_are_the_classifiers_input_or_what_a_named_layer_returns():
    network, named = frozen(BUILDERS["resnet"]), Tap("features", "layer2")
    ours, theirs = images_of().requires_grad_(), images_of().requires_grad_()
    logits, moments, features = Observed(network, images_of()[:2], taps=[Tap("features"), named])(ours)
    _, ((_, fed),) = fed_to(network, theirs, nn.Linear)
    torch.testing.assert_close(features[Tap("features")], fed)
    middle = network.get_submodule("layer2")(network.get_submodule("layer1")(stem(network, theirs)))
    torch.testing.assert_close(features[named], middle)
    assert not moments
    slope, expected = (
        torch.autograd.grad(one.square().sum() + two.square().sum(), leaf)[0]
        for one, two, leaf in ((features[Tap("features")], features[named], ours), (fed, middle, theirs))
    )
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-3 * expected.abs().max().item())
    torch.testing.assert_close(logits, network(images_of()))


def stem(network: Any, images: Tensor) -> Tensor:
    return F.relu(network.bn1(network.conv1(images)))


def test_features_of_an_unknown_layer_are_refused_with_near_names():
    with pytest.raises(AttarError, match="no layer named 'layer9'; did you mean layer"):
        Observed(frozen(BUILDERS["resnet"]), images_of()[:2], taps=[Tap("features", "layer9")])


def test_a_network_that_does_not_end_in_a_classifier_tells_its_logits():
    network = frozen(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    logits, _, features = Observed(network, images_of()[:2], taps=[Tap("features")])(images_of())
    assert torch.equal(features[Tap("features")], logits)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_refresh_takes_over_other_weights_in_place(precision: Any):
    network, other = frozen(BUILDERS["resnet"]), frozen(lambda: SmallResNet(8, 5))
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point():
            tensor.mul_(1.1).add_(0.01 * ("running_var" in name))
    taps = (BATCHNORM, CONVOLUTION)
    observed = Observed(network, images_of()[:2], precision, taps)
    before, places = observed(images_of())[0], [tensor.data_ptr() for tensor in observed.state_dict().values()]
    observed.refresh(other)
    found, expected = observed(images_of()), Observed(other, images_of()[:2], precision, taps)(images_of())
    assert torch.equal(found[0], expected[0])
    for tap in taps:
        assert all(torch.equal(*pair) for pair in zip(found[1][tap], expected[1][tap], strict=True))
    assert not torch.equal(found[0], before)
    assert [tensor.data_ptr() for tensor in observed.state_dict().values()] == places
    observed.refresh(network)
    assert torch.equal(observed(images_of())[0], before)
