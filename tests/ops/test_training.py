"""ops/training.py: what a step does, and that interrupting, cutting batches and resuming change nothing."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation
from attar.ops.targets import Targets, hard_loss
from attar.ops.training import Batch, Epoch, Loss, Optimisation, fit

NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


N = TypeVar("N", bound=nn.Module)


def made(build: Callable[[], N]) -> N:
    """A network with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def plain_network() -> nn.Sequential:
    """No BatchNorm: an image's logits don't depend on who shares its batch."""
    return made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4)))


def norm_network() -> SmallResNet:
    return made(lambda: SmallResNet(8, 4))


def shuffled(batch_size: int = 10, count: int = 25) -> Callable[[int], Iterator[Batch]]:
    """Images of four classes, told apart by a bright quadrant, in an order that depends on the epoch alone."""
    images = 0.6 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.3

    def batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(batch_size):
            yield images[index], Targets(labels[index])

    return batches


def train(
    network: nn.Module,
    optimisation: Optimisation,
    batches: Callable[[int], Any] | None = None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
    loss: Loss = hard_loss,
    num_images: int = 25,
    resume: dict[str, Any] | None = None,
) -> None:
    fit(
        network,
        NORMALISATION,
        batches or shuffled(optimisation.batch_size),
        loss,
        optimisation,
        num_images,
        contextlib.nullcontext,
        after_epoch,
        resume,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_by_bit(optimizer: str):
    rate = 0.05 if optimizer == "sgd" else 0.003
    plan = Optimisation.of({"optimizer": optimizer, "learning_rate": rate, "epochs": 4, "warmup_epochs": 1.0}, "here")
    plan = plan.changed(batch_size=10, decay_norms=False)
    states: dict[int, dict[str, Any]] = {}
    whole = norm_network()
    train(whole, plan, after_epoch=lambda epoch: states.update({epoch.number: copy.deepcopy(epoch.state())}))
    assert sorted(states) == [1, 2, 3, 4]
    for stopped in (1, 3):
        resumed = norm_network()
        nn.init.zeros_(resumed.fc.weight)
        seen: list[int] = []
        train(resumed, plan, after_epoch=lambda epoch, seen=seen: seen.append(epoch.number), resume=states[stopped])
        assert seen == list(range(stopped + 1, 5))
        assert same(resumed, whole)
    assert not same(whole, norm_network())


def test_a_finished_training_resumed_is_left_as_it_is():
    states: list[dict[str, Any]] = []
    plan = Optimisation(epochs=1, batch_size=10)
    network = norm_network()
    train(network, plan, after_epoch=lambda epoch: states.append(copy.deepcopy(epoch.state())))
    before = copy.deepcopy(network)
    train(network, plan, resume=states[0])
    assert same(network, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulation_steps", [2, 3, 50])
def test_accumulated_parts_equal_the_whole_batch(optimizer: str, accumulation_steps: int):
    """For a network without BatchNorm, up to the rounding of sums taken in another order."""
    rate = 0.1 if optimizer == "sgd" else 0.001
    plan = Optimisation.of({"optimizer": optimizer, "learning_rate": rate, "epochs": 2, "batch_size": 10}, "here")
    losses: dict[int, list[float]] = {1: [], accumulation_steps: []}
    networks = {}
    for steps, seen in losses.items():
        networks[steps] = plain_network()
        train(
            networks[steps],
            plan.changed(accumulation_steps=steps),
            after_epoch=lambda epoch, seen=seen: seen.append(epoch.loss),
        )
    assert losses[accumulation_steps] == pytest.approx(losses[1], rel=1e-5)
    pairs = zip(networks[1].parameters(), networks[accumulation_steps].parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("accumulation_steps", [1, 2, 3, 4])
def test_no_part_of_a_batch_is_a_single_image(count: int, accumulation_steps: int):
    sizes: list[int] = []

    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return self.weight * images.flatten(1)

    train(
        Recorder(),
        Optimisation(epochs=1, batch_size=16, accumulation_steps=accumulation_steps),
        shuffled(16, count),
        loss=lambda logits, _: logits.mean(),
        num_images=count,
    )
    assert sum(sizes) == count
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == min(accumulation_steps, count // 2)


def test_batches_of_one_image_are_passed_over():
    """BatchNorm over a map of one pixel would fail on them; 21 images in batches of 10 leave one."""
    losses: list[float] = []
    network = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6)))
    train(
        network,
        Optimisation(epochs=2, batch_size=10),
        shuffled(10, 21),
        after_epoch=lambda epoch: losses.append(epoch.loss),
        num_images=21,
    )
    assert network[2].num_batches_tracked == 4
    assert all(math.isfinite(loss) for loss in losses)


class Scale(nn.Module):
    """One number, which a loss of gradient one moves by exactly the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.expand(len(images), 1)


def test_every_step_uses_the_rate_of_warm_up_and_cosine():
    network, places = Scale(), []

    def loss(logits: Tensor, _: Targets) -> Tensor:
        places.append(network.weight.item())
        return logits.mean()

    plan = Optimisation(epochs=4, batch_size=10, learning_rate=0.5, warmup_epochs=1.6, momentum=0, weight_decay=0)
    train(network, plan, loss=loss)
    places.append(network.weight.item())
    steps = [before - after for before, after in itertools.pairwise(places)]
    warmup = 5  # 1.6 epochs of three batches, rounded to whole steps
    expected = [0.5 * (0.01 + 0.99 * step / warmup) for step in range(warmup)]
    expected += [0.25 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert steps == pytest.approx(expected, rel=1e-9)


def test_sgd_and_adamw_are_the_textbooks():
    """Two steps of gradient one, by hand: momentum carries 0.9 of a step over, Adam's steps are the rate itself."""
    plan = Optimisation(epochs=2, batch_size=25, learning_rate=0.1, weight_decay=0)
    rates = [0.1, 0.05]
    for choice, expected in ((plan, rates[0] + rates[1] * 1.9), (plan.changed(optimizer="adamw"), sum(rates))):
        network = Scale()
        train(network, choice, loss=lambda logits, _: logits.mean())
        assert -network.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_of_biases_and_norms_can_be_left_out(optimizer: str, decay_norms: bool):
    """Under a loss without gradient, decay alone moves the weights: by rate times decay of themselves."""
    network = norm_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(2.0)
    plan = Optimisation.of({"optimizer": optimizer, "epochs": 1, "batch_size": 25, "learning_rate": 0.1}, "here")
    train(
        network,
        plan.changed(weight_decay=0.1, decay_norms=decay_norms, momentum=0),
        loss=lambda logits, _: (0 * logits).sum(),
    )
    shrunk = 2.0 * (1 - 0.1 * 0.1)
    for name, parameter in network.named_parameters():
        expected = shrunk if decay_norms or parameter.ndim > 1 else 2.0
        assert parameter.unique().tolist() == pytest.approx([expected]), name


@pytest.mark.parametrize("decay_norms", [True, False])
def test_all_parameters_are_trained_but_the_frozen_ones(decay_norms: bool):
    network = norm_network()
    network.conv1.requires_grad_(False)
    before = copy.deepcopy(network)
    train(network, Optimisation(epochs=1, batch_size=10, weight_decay=0, decay_norms=decay_norms))
    for (name, now), then in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then) == name.startswith("conv1"), name


def test_epochs_come_in_order_and_the_network_is_in_training_mode_only_while_training():
    asked, modes = [], []
    network = norm_network().eval()
    batches = shuffled()

    def watched(epoch: int) -> Iterator[Batch]:
        asked.append(epoch)
        modes.append(network.training)
        return batches(epoch)

    def rated(epoch: Epoch) -> None:
        numbers.append(epoch.number)
        if epoch.number < 3:
            network.eval()

    numbers: list[int] = []
    train(network, Optimisation(epochs=3, batch_size=10), watched, rated)
    assert asked == [0, 1, 2]
    assert numbers == [1, 2, 3]
    assert modes == [True] * 3
    assert not network.training


def test_a_network_learns_a_toy_problem():
    losses: list[float] = []
    network = norm_network()
    plan = Optimisation(epochs=12, batch_size=16, learning_rate=0.05)
    train(network, plan, shuffled(16, 64), lambda epoch: losses.append(epoch.loss), num_images=64)
    assert losses[0] > 1.0
    assert losses[-1] < 0.3 * losses[0]
    images, targets = next(iter(shuffled(64, 64)(0)))
    assert (network(NORMALISATION.apply(images)).argmax(1) == targets.labels).float().mean() > 0.9


def test_images_reach_the_network_normalised():
    seen: list[Tensor] = []
    network = Scale()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train(network, Optimisation(epochs=1, batch_size=25), loss=lambda logits, _: logits.mean())
    (images, _), *_ = shuffled(25)(0)
    torch.testing.assert_close(seen[0], NORMALISATION.apply(images))
