"""methods/ncfm.py against its loop written out: complex numbers, one class at a time, PyTorch's own schedule."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import ncfm
from attar.models.small import ConvNet
from attar.ops import dsa, mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import from_bytes
from attar.stages.unit_groups import planned
from attar.synthesis.characteristic import Characteristic
from attar.synthesis.method import UnitShape
from matched_digits import NORMALISATION, NUM_CLASSES, SIDE, Real, Saved, digits, task_of

FEW: dict[str, Any] = {
    "ipc": 2, "image_learning_rate": 0.002,
    "iterations": 7, "real_batch": 5, "network_depth": 2, "network_width": 6, "num_frequencies": 20,
}  # fmt: skip


def convnet() -> ConvNet:
    return ConvNet(2, NUM_CLASSES, SIDE, width=6, norm="instance")


class Experts:
    """Three networks of waves."""

    num_experts, num_snapshots = 3, 4

    def weights(self, expert: int, snapshot: int) -> Tensor:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in convnet().parameters())
        return torch.sin(0.7 * torch.arange(count) ** 2 + expert + 0.3 * snapshot) / 3

    def call(self, weights: Tensor, images: Tensor) -> Tensor:
        raise AssertionError("ncfm needs the features, too")


def network_of(weights: Tensor) -> ConvNet:
    with torch.random.fork_rng(devices=[]):
        network = convnet().requires_grad_(False)
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    return network


def features_of(network: ConvNet, images: Tensor) -> Tensor:
    for block in network.blocks:
        images = F.avg_pool2d(block(images), 2)
    return F.normalize(images.flatten(1), dim=1)


def start_of(ipc: int, label: int) -> Tensor:
    order = torch.randperm(Real().count(label), generator=generator(0, "recover", "start", str(label)))
    small = from_bytes(digits()[label][order[torch.arange(4 * ipc) % len(order)]])[..., ::2, ::2]
    a, b, c, d = small.split(ipc)
    return torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2)


def published(config: ncfm.Config) -> tuple[Tensor, list[float], list[float]]:
    """Images (class, slot), losses, and cross-entropies; one step for all classes, where the script takes one each."""
    pixels = torch.stack([start_of(config.ipc, label) for label in range(NUM_CLASSES)]).requires_grad_()
    optimiser: torch.optim.Optimizer = torch.optim.AdamW([pixels], lr=config.image_learning_rate, weight_decay=5e-4)
    if config.optimizer == "sgd":
        optimiser = torch.optim.SGD([pixels], lr=config.image_learning_rate, momentum=config.momentum)
    schedule = ReduceLROnPlateau(optimiser, factor=0.5, patience=config.patience)
    losses, entropies = [], []
    for iteration in range(config.iterations):
        stream = generator(0, "recover", "network", iteration)
        number, share = int(torch.randint(3, (1,), generator=stream)), float(torch.rand(1, generator=stream))
        first, last = (Experts().weights(number, place) for place in (0, 3))
        between, trained = network_of(share * first + (1 - share) * last), network_of(last)
        seed = int(torch.randint(2**62, (1,), generator=generator(0, "recover", "statistic", iteration)))
        frequencies = torch.randn(24, config.num_frequencies, generator=torch.Generator().manual_seed(seed))
        both = [
            dsa.sample(config.kinds(), "all", NUM_CLASSES, generator(0, "recover", "siamese", *names, iteration))
            for names in ((), ("cross_entropy",))
        ]
        order = torch.rand(NUM_CLASSES, 12, generator=generator(0, "recover", "real", iteration))
        total, entropy = torch.zeros(()), torch.zeros(())
        for label in range(NUM_CLASSES):
            chosen = order[label, : len(digits()[label])].argsort(descending=True)[: config.real_batch]
            parts = [pixels[label][:, :, t : t + 4, s : s + 4] for t in (0, 4) for s in (0, 4)]
            shown = NORMALISATION.apply(
                torch.cat([F.interpolate(each, size=(8, 8), mode="bilinear") for each in parts])
            )
            real = NORMALISATION.apply(from_bytes(digits()[label][chosen]))
            curves = []
            for images in (real, shown):
                seen = dsa.apply(images, both[0][label, None], config.kinds())
                curves.append(torch.exp(1j * (features_of(between, seen) @ frequencies)).mean(0))
            # |a - b|^2 is (|a| - |b|)^2 + 2 (|a||b| - Re a b*): in equal shares the loss is half of it, under a root.
            total = total + 300 * ((curves[0] - curves[1]).abs() / 2**0.5).mean()
            logits = trained(dsa.apply(shown, both[1][label, None], config.kinds()))
            entropy = entropy + F.cross_entropy(logits, torch.full((len(shown),), label))
        optimiser.zero_grad()
        (total + entropy).backward()
        optimiser.step()
        pixels.data.clamp_(0, 1)
        losses.append(float((total + entropy).detach()) / NUM_CLASSES)
        entropies.append(float(entropy.detach()) / NUM_CLASSES)
        schedule.step(losses[-1])
    return pixels.detach(), losses, entropies


@pytest.mark.parametrize("choices", [{}, {"optimizer": "sgd", "image_learning_rate": 3e-4, "patience": 1}])
def test_the_loop_is_the_published_one(choices: dict[str, Any]):
    config = ncfm.Config(**FEW | choices)
    task, curves = task_of([(range(NUM_CLASSES), 2)], experts=Experts())
    images = ncfm.recover(task, config).images
    expected, losses, entropies = published(config)
    assert [metrics["loss"][0] for metrics in curves.metrics] == pytest.approx(losses, rel=1e-3)
    assert [metrics["cross_entropy"][0] for metrics in curves.metrics] == pytest.approx(entropies, rel=1e-3)
    torch.testing.assert_close(images, expected.transpose(0, 1).flatten(0, 1), atol=2e-3, rtol=0)
    start = torch.stack([start_of(2, label) for label in range(NUM_CLASSES)])
    assert (expected - start).abs().max() > 0.01


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_amplitude_and_phase_have_their_shares(share: float):
    stored, real = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    a, b = (torch.complex(*values.chunk(2, 1)) for values in (stored, real))
    amplitude, phase = (a.abs() - b.abs()) ** 2, 2 * (a.abs() * b.abs() - (a * b.conj()).real)
    expected = 7 * (share * amplitude + (1 - share) * phase).sqrt().mean(1)
    torch.testing.assert_close(Characteristic(4, share, 7.0).distance(stored, real), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_continues_bit_by_bit():
    config, saved = ncfm.Config(**FEW | {"patience": 1}), Saved(after=4)
    images = ncfm.recover(task_of([([0, 2], 2)], saved, experts=Experts())[0], config).images
    task, curves = task_of([([0, 2], 2)], saved, experts=Experts())
    assert torch.equal(ncfm.recover(task, config).images, images)
    assert len(curves.losses) == 3


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [32.026, 25.737, 22.724, 30.561]),
        ({"calibration_weight": 0.0, "grey": True, "factor": 1}, [14.876, 13.935, 10.221, 10.787]),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    task, curves = task_of([(range(NUM_CLASSES), 2)], experts=Experts())
    images = ncfm.recover(task, ncfm.Config(**FEW | {"iterations": 4} | choices)).images
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)
    assert torch.equal(images[:, :1].expand_as(images), images) == ("grey" in choices)


def test_it_says_how_its_images_are_stored_and_what_it_needs():
    config = ncfm.Config(ipc=3, parallel_units=4, unit_classes=1)
    assert config.storage() == Storage(factor=2, enlarge="bilinear")
    (stretch,) = config.cost(UnitShape(1, 3, 8))
    assert (stretch.iterations, stretch.shown) == (20_000, 4)
    assert (config.needs().teachers, config.needs().snapshots) == ("none", "ends")
    assert [len(group) for group in planned(2, config)] == [1, 1]  # a learning rate for each
    assert "momentum" in config.idle()
    assert config.metrics() == ("loss", "distance", "cross_entropy")
    assert mosaic.unpack(start_of(3, 1), config.storage()).shape == (3, 4, 3, SIDE, SIDE)


def test_experts_of_another_network_are_refused():
    task, _ = task_of([([0], 2)], experts=Experts())
    with pytest.raises(AttarError, match=r"not ConvNets with InstanceNorm, 3 blocks and 6 channels; .* convnet3_in"):
        ncfm.recover(task, ncfm.Config(**FEW | {"network_depth": 3}))
    with pytest.raises(AttarError, match=r"up to 8 blocks and 7 channels"):
        ncfm.recover(task, ncfm.Config(**FEW | {"network_depth": 0, "network_width": 7}))


def test_networks_are_as_deep_as_the_experts():
    task, _ = task_of([([0], 2)], experts=Experts())
    found = [network.num_weights for network in ncfm.networks(task, ncfm.Config(**FEW | {"network_depth": 0}))]
    assert found == [len(Experts().weights(0, 0)) - 25 * NUM_CLASSES, len(Experts().weights(0, 0))]
