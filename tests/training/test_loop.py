"""training/loop.py: what a step does, and that interrupting, cutting batches and resuming change nothing."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
import torch
from torch import Tensor, nn

from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation
from attar.ops.schedule import Schedule, learning_rate
from attar.ops.targets import Targets, hard_loss
from attar.store import weights
from attar.training.choices import Optimisation
from attar.training.loop import FinishedEpoch, Loss, TrainingBatch, fit

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


def shuffled(batch_size: int = 10, count: int = 25) -> Callable[[int], Iterator[TrainingBatch]]:
    """Images of four classes, told apart by a bright quadrant, in an order that depends on the epoch alone."""
    images = 0.6 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.3

    def batches(epoch: int, first: int = 0) -> Iterator[TrainingBatch]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(batch_size)[first:]:
            yield images[index], Targets(labels[index])

    return batches


def train(
    network: nn.Module,
    optimisation: Optimisation,
    batches: Callable[[int], Any] | None = None,
    after_epoch: Callable[[FinishedEpoch], None] = lambda _: None,
    loss: Loss = hard_loss,
    num_images: int = 25,
    resume: dict[str, Any] | None = None,
    offer: Callable[[Callable[[], dict[str, Any]]], None] = lambda _: None,
    seed: int = 0,
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
        seed,
        offer=offer,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


class Noisy(nn.Module):
    """A network that draws random numbers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = SmallResNet(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.trunk(images).relu(), 0.5, self.training))


RATES = {"sgd": 0.05, "adamw": 0.003, "muon": 0.003}


def planned(optimizer: str, **more: Any) -> Optimisation:
    return Optimisation.of({"optimizer": optimizer, "learning_rate": RATES[optimizer], **more}, "here")


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", RATES)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_by_bit(optimizer: str, ema_decay: float, tmp_path: Path):
    """Also from a file, which holds tensors in another memory layout, and of Muon flags and names beside."""
    plan = planned(
        optimizer, epochs=4, warmup_epochs=1.0, batch_size=10, decay_norms=False, ema_decay=ema_decay,
        schedule="cosine-linear", cosine_stretch=2.0, rate_moves="epoch",
    )  # fmt: skip
    whole = made(Noisy)
    train(whole, plan, after_epoch=lambda epoch: weights.save_tree(tmp_path / str(epoch.number), epoch.state()))
    for stopped in (1, 3, 4):
        resumed = made(Noisy)
        nn.init.zeros_(resumed.head.weight)
        seen: list[int] = []
        state = weights.load_tree(tmp_path / str(stopped))
        train(resumed, plan, after_epoch=lambda epoch, seen=seen: seen.append(epoch.number), resume=state)
        assert seen == list(range(stopped + 1, 5))
        assert same(resumed, whole)
    assert not same(whole, made(Noisy))


@pytest.mark.parametrize("optimizer", RATES)
def test_a_training_resumed_inside_an_epoch_equals_an_uninterrupted_one(optimizer: str, tmp_path: Path):
    plan = planned(optimizer, epochs=3, batch_size=10, ema_decay=0.8, accumulation_steps=2)
    whole, offered, losses = made(Noisy), list[int](), list[float]()

    def offer(state: Callable[[], dict[str, Any]]) -> None:
        offered.append(1)
        weights.save_tree(tmp_path / str(len(offered)), state())

    train(whole, plan, after_epoch=lambda epoch: losses.append(epoch.loss), offer=offer)
    assert len(offered) == 9
    for stopped in (1, 2, 5, 9):  # 3 steps in an epoch; 9: after the last step, before its epoch ended
        resumed, seen = made(Noisy), list[float]()
        nn.init.zeros_(resumed.head.weight)
        state = weights.load_tree(tmp_path / str(stopped))
        train(resumed, plan, after_epoch=lambda epoch, seen=seen: seen.append(epoch.loss), resume=state)
        assert same(resumed, whole)
        assert seen == losses[-len(seen) :]
        assert len(seen) == 3 - (stopped - 1) // 3


def test_what_a_network_draws_depends_on_the_seed_and_leaves_the_global_state():
    plan, before = Optimisation(epochs=2, batch_size=10), torch.random.get_rng_state()
    trained = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(trained))  # no matter
        network = made(Noisy)
        state = torch.random.get_rng_state()
        train(network, plan, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        trained.append(network)
    torch.random.set_rng_state(before)
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


@pytest.mark.parametrize("optimizer", RATES)
def test_the_averaged_network_is_that_of_a_plain_loop_with_the_training_s_own_statistics(optimizer: str):
    """Parameters: an average over steps that starts at the initial ones. Buffers: as if nothing were averaged."""
    plan = planned(optimizer, epochs=3, batch_size=10)
    plain, averaged = norm_network(), norm_network()
    start = [parameter.detach().clone() for parameter in plain.parameters()]
    path: list[list[Tensor]] = []
    passes = shuffled()

    def watched(epoch: int) -> Iterator[TrainingBatch]:
        for batch in passes(epoch):
            yield batch
            path.append([parameter.detach().clone() for parameter in plain.parameters()])  # after the batch's step

    losses: dict[str, list[float]] = {"plain": [], "averaged": []}
    train(plain, plan, watched, lambda epoch: losses["plain"].append(epoch.loss))
    middle: list[list[Tensor]] = []

    def after(epoch: FinishedEpoch) -> None:
        losses["averaged"].append(epoch.loss)
        middle.append([parameter.detach().clone() for parameter in averaged.parameters()])

    train(averaged, plan.changed(ema_decay=0.8), after_epoch=after)
    mean, ends = start, []
    for step, parameters in enumerate(path, start=1):
        mean = [0.8 * old + 0.2 * new for old, new in zip(mean, parameters, strict=True)]
        ends += [mean] if step % 3 == 0 else []
    for found, expected in zip([*middle, list(averaged.parameters())], [*ends, mean], strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.detach(), other, atol=1e-6, rtol=1e-5)
    assert losses["averaged"] == losses["plain"]
    assert all(torch.equal(*buffers) for buffers in zip(averaged.buffers(), plain.buffers(), strict=True))
    assert not torch.equal(averaged.fc.weight, plain.fc.weight)


def test_a_finished_training_resumed_is_left_as_it_is():
    states: list[dict[str, Any]] = []
    plan = Optimisation(epochs=1, batch_size=10)
    network = norm_network()
    train(network, plan, after_epoch=lambda epoch: states.append(copy.deepcopy(epoch.state())))
    before = copy.deepcopy(network)
    train(network, plan, resume=states[0])
    assert same(network, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
@pytest.mark.parametrize("accumulation_steps", [2, 3, 50])
def test_accumulated_parts_equal_the_whole_batch(optimizer: str, ema_decay: float, accumulation_steps: int):
    """For a network without BatchNorm, up to the rounding of sums taken in another order; steps are per batch."""
    plan = planned(optimizer, epochs=2, batch_size=10, ema_decay=ema_decay)
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


@pytest.mark.parametrize("rate_moves", ["step", "epoch"])
@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_rate_moves_as_told(schedule: Schedule, rate_moves: str):
    network, places = Scale(), []

    def loss(logits: Tensor, _: Targets) -> Tensor:
        places.append(network.weight.item())
        return logits.mean()

    plan = Optimisation.of({"schedule": schedule, "rate_moves": rate_moves, "cosine_stretch": 2.0}, "here")
    plan = plan.changed(epochs=6, batch_size=10, learning_rate=0.5, warmup_epochs=1, momentum=0, weight_decay=0)
    train(network, plan, loss=loss)
    places.append(network.weight.item())
    steps = [before - after for before, after in itertools.pairwise(places)]
    where = range(18) if rate_moves == "step" else [3 * (step // 3) for step in range(18)]
    assert steps == pytest.approx([learning_rate(schedule, 0.5, step, 18, 3, 2.0) for step in where], rel=1e-9)


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

    def watched(epoch: int) -> Iterator[TrainingBatch]:
        asked.append(epoch)
        modes.append(network.training)
        return batches(epoch)

    def rated(epoch: FinishedEpoch) -> None:
        numbers.append(epoch.number)
        if epoch.number < 3:
            network.eval()

    numbers: list[int] = []
    train(network, Optimisation(epochs=3, batch_size=10), watched, rated)
    assert asked == [0, 1, 2]
    assert numbers == [1, 2, 3]
    assert modes == [True] * 3
    assert not network.training


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_network_learns_a_toy_problem(optimizer: str, ema_decay: float):
    losses: list[float] = []
    network = norm_network()
    plan = planned(optimizer, epochs=20, batch_size=16, ema_decay=ema_decay)
    plan = plan.changed(learning_rate=2 * plan.learning_rate)
    train(network, plan, shuffled(16, 64), lambda epoch: losses.append(epoch.loss), num_images=64)
    assert losses[0] > 0.9
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
