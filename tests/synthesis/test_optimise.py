"""synthesis/optimise.py against the published loop, written out here with torchvision's views and Adam by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from attar.core.randomness import generator
from attar.methods import cda, sre2l
from attar.ops.pixels import Normalisation
from attar.ops.views import View
from attar.synthesis.curriculum import lower_bound
from attar.synthesis.optimise import optimise
from attar.synthesis.starts import noise
from attar.synthesis.statistics import statistics_of
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy
from attar.synthesis.views import Views, Whole, views_of
from formula import formula_network

NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NUM_CLASSES, SIDE, ITERATIONS = 6, 16, 20


class Curves:
    """A monitor that keeps every iteration's metrics and images."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.images: list[Tensor] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor | float) -> None:
        assert iteration == len(self.losses)
        self.metrics.append({name: float(value) for name, value in metrics.items()})
        self.losses.append(self.metrics[-1]["loss"])
        self.images.append(images().clone())


def task_of(network: nn.Module, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> tuple[Task, Curves]:
    curves = Curves()
    task = Task(
        labels=torch.arange(NUM_CLASSES),
        slots=torch.zeros(NUM_CLASSES, dtype=torch.int64),
        size=size,
        teachers=(Network(network, NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *names: (generator(seed, "unit", *names),),
        shared_stream=lambda *names: generator(seed, *names),
        monitor=curves,
        unit_sizes=(NUM_CLASSES,),
    )
    return task, curves


def config_of(**values: Any) -> cda.Config:
    fixed = {"iterations": ITERATIONS, "learning_rate": 0.1, "jitter": 4, "bn_weight": 0.05, "ipc": 1}
    return cda.Config.of(fixed | values, "the test")


class HandAdam:
    """Adam as its paper's algorithm box has it (Kingma & Ba, 2015, arXiv 1412.6980)."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.rate, self.time = pixels, 0.0, 0
        self.first, self.second = torch.zeros_like(pixels), torch.zeros_like(pixels)

    def step(self) -> None:
        self.time += 1
        slope = self.pixels.grad
        assert slope is not None
        self.first = 0.5 * self.first + 0.5 * slope
        self.second = 0.9 * self.second + 0.1 * slope**2
        mean, spread = self.first / (1 - 0.5**self.time), self.second / (1 - 0.9**self.time)
        self.pixels.data -= self.rate * mean / (spread.sqrt() + 1e-8)


class TorchAdam:
    """The same by PyTorch."""

    def __init__(self, pixels: Tensor) -> None:
        self.rate = 0.0
        self._inner = torch.optim.Adam([pixels], lr=1.0, betas=(0.5, 0.9), eps=1e-8)

    def step(self) -> None:
        self._inner.param_groups[0]["lr"] = self.rate
        self._inner.step()


def seen_through(pixels: Tensor, view: View) -> Tensor:
    """The whole batch through one crop, one flip and one roll."""
    seen = tv.resized_crop(pixels, *view.box[0].tolist(), size=list(pixels.shape[-2:]), antialias=False)
    seen = tv.horizontal_flip(seen) if view.flip[0] else seen
    return torch.roll(seen, view.shift[0].tolist(), dims=(2, 3))


def published_loop(
    network: nn.Module, config: cda.Config, adam: type[HandAdam] | type[TorchAdam], iterations: int
) -> tuple[Tensor, list[float]]:
    """The recovery loop of CDA: the images in [0, 1] after some iterations, and the loss of each."""
    task, _ = task_of(network)
    pixels = torch.randn(NUM_CLASSES, 3, SIDE, SIDE, generator=generator(0, "unit", "noise")).requires_grad_()
    draw = views_of(task, config)
    fed: list[tuple[nn.BatchNorm2d, Tensor]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [
        layer.register_forward_hook(lambda _, inputs, __, layer=layer: fed.append((layer, inputs[0])))
        for layer in layers
    ]
    optimiser, losses = adam(pixels), []
    for iteration in range(iterations):
        optimiser.rate = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations)) * config.learning_rate
        pixels.grad = None
        view = View(*draw.draw(iteration, task.size, task.size))
        fed.clear()
        loss = F.cross_entropy(network(seen_through(pixels, view)), task.labels)
        for layer, inputs in fed:
            mean, variance = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), unbiased=False)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            distance = (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
            loss = loss + config.bn_weight * (config.first_bn_multiplier if layer is layers[0] else 1) * distance
        loss.backward()
        optimiser.step()
        for channel, (mean, std) in enumerate(zip(NORMALISATION.mean, NORMALISATION.std, strict=True)):
            pixels.data[:, channel].clamp_(-mean / std, (1 - mean) / std)
        losses.append(loss.item())
    for handle in handles:
        handle.remove()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (NORMALISATION.mean, NORMALISATION.std))
    return pixels.detach() * std + mean, losses


@pytest.mark.parametrize("curriculum", ["none", "step", "linear", "cosine"])
def test_the_trajectory_is_that_of_the_published_loop(curriculum: str):
    network = formula_network()
    config = config_of(curriculum=curriculum, milestone=0.5 if curriculum == "step" else 1.0)
    task, curves = task_of(network)
    images = cda.recover(task, config).images
    expected, losses = published_loop(network, config, TorchAdam, ITERATIONS)
    assert curves.losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert losses[-1] < losses[0]


def test_adam_is_the_textbooks():
    network, config = formula_network(), config_of()
    task, curves = task_of(network)
    cda.recover(task, config)
    expected, losses = published_loop(network, config, HandAdam, 8)
    assert curves.losses[:8] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(curves.images[7], expected, atol=1e-4, rtol=0)


GOLDEN = [7.821473, 7.852700, 7.890586, 7.751275, 7.800106]


def test_golden_losses():
    """Frozen: a change here changes every image that a recipe makes."""
    task, curves = task_of(formula_network())
    cda.recover(task, config_of(iterations=5))
    assert curves.losses == pytest.approx(GOLDEN, rel=1e-4)


def test_the_same_task_gives_the_same_bits():
    runs = []
    for _ in range(2):
        task, curves = task_of(formula_network())
        runs.append((cda.recover(task, config_of()).images, curves.losses))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_cda_without_its_curriculum_is_sre2l():
    choices = {"iterations": 6, "learning_rate": 0.1, "jitter": 4}
    (first, _), (second, _), (third, _) = (task_of(formula_network()) for _ in range(3))
    images = sre2l.recover(first, sre2l.Config.of(choices, "the test")).images
    assert torch.equal(images, cda.recover(second, cda.Config.of(choices | {"curriculum": "none"}, "the test")).images)
    assert not torch.equal(images, cda.recover(third, cda.Config.of(choices, "the test")).images)


def inverted(task: Task, config: cda.Config, start: Tensor, views: Views | None = None) -> Tensor:
    """The loop with SRe2L's loss; the images as they are, where no views are given."""
    return optimise(task, config, start, views or Whole(), (CrossEntropy(), statistics_of(task, config)))


@pytest.mark.parametrize("views", ["crops", "still"])
def test_best_is_the_iterate_of_lowest_loss_and_last_is_the_last(views: str):
    """Under random crops the loss goes up and down; without views it can be measured again on the images kept."""
    network, kept = formula_network(), {}
    for keep in ("last", "best"):
        task, curves = task_of(network)
        config = config_of(keep=keep)
        kept[keep] = inverted(task, config, noise(task), views_of(task, config) if views == "crops" else None)
    lowest = min(range(ITERATIONS), key=curves.losses.__getitem__)
    assert lowest > 0
    assert (lowest == ITERATIONS - 1) == (views == "still")
    torch.testing.assert_close(kept["last"], curves.images[-1], atol=1e-6, rtol=0)
    torch.testing.assert_close(kept["best"], curves.images[lowest - 1], atol=1e-6, rtol=0)
    assert not torch.allclose(kept["best"], curves.images[lowest], atol=1e-5)
    if views == "still":
        task, again = task_of(network)
        inverted(task, config_of(iterations=1), NORMALISATION.apply(kept["best"]))
        assert again.losses[0] == pytest.approx(min(curves.losses), rel=1e-5)


def test_the_start_is_left_as_it_was():
    task, _ = task_of(formula_network())
    start = noise(task)
    inverted(task, config_of(iterations=3), start)
    assert torch.equal(start, noise(task))
    assert not start.requires_grad


def test_the_watch_sees_the_parts_of_the_loss_and_the_images_of_each_iteration():
    task, curves = task_of(formula_network())
    images = cda.recover(task, config_of()).images
    for metrics in curves.metrics:
        assert metrics.keys() == {"loss", "cross_entropy", "bn_distance", "view_accuracy"}
        assert metrics["loss"] == pytest.approx(metrics["cross_entropy"] + 0.05 * metrics["bn_distance"], rel=1e-5)
    torch.testing.assert_close(curves.images[-1].clamp(0, 1), images)
    assert torch.stack(curves.images).min() > -1e-5
    assert torch.stack(curves.images).max() < 1 + 1e-5


def drawn(config: cda.Config, count: int) -> list[View]:
    task, _ = task_of(nn.Identity())
    views = views_of(task, config)
    return [View(*views.draw(iteration, task.size, task.size)) for iteration in range(count)]


@pytest.mark.parametrize("both_ways", [False, True])
def test_jitter_reaches_from_one_end_to_the_other(both_ways: bool):
    views = drawn(config_of(jitter=3, jitter_both_ways=both_ways), 300)
    for axis in range(2):
        assert {int(view.shift[0, axis]) for view in views} == set(range(-3 if both_ways else 0, 4))
    assert {view.shift.shape for view in views} == {(1, 2)}
    assert not torch.cat([view.shift for view in drawn(config_of(jitter=0), 20)]).any()


def test_no_crop_still_flips_and_jitters():
    views = drawn(config_of(crop="none"), 100)
    assert {tuple(view.box[0].tolist()) for view in views} == {(0, 0, SIDE, SIDE)}
    assert {bool(view.flip) for view in views} == {True, False}
    assert len({tuple(view.shift[0].tolist()) for view in views}) > 15
    assert not any(bool(view.flip) for view in drawn(config_of(crop="none", flip=False), 100))


def test_crops_follow_the_curriculum():
    views = drawn(config_of(iterations=200, curriculum="linear", milestone=0.5), 200)
    areas = [float(view.box[0, 2] * view.box[0, 3]) / SIDE**2 for view in views]
    slack = 1.5 / SIDE  # sides are rounded to whole pixels
    for iteration, area in enumerate(areas):
        assert area > lower_bound(iteration, 200, "linear", 0.5, 0.08) - slack
    assert areas[0] == 1.0
    assert min(areas[100:]) < 0.2


def test_noise_is_standard_normal_in_normalised_units_and_the_stream_s():
    task, _ = task_of(nn.Identity(), size=(48, 32))
    start = noise(task)
    assert start.shape == (NUM_CLASSES, 3, 48, 32)
    assert start.mean().item() == pytest.approx(0, abs=0.02)
    assert start.std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(start, noise(task))
    assert not torch.equal(start, noise(task_of(nn.Identity(), seed=1, size=(48, 32))[0]))


def test_grey_images_are_grey_and_met_by_the_teacher_as_such():
    """The three channels stay equal in [0, 1] also under a normalisation that differs by channel."""
    task, curves = task_of(formula_network())
    config = config_of(grey=True, iterations=4, crop="none", flip=False, jitter=0, curriculum="none")
    images = cda.recover(task, config).images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert images.std() > 0.01
    (network,) = task.teachers
    again = network.module(network.normalisation.apply(curves.images[0]))
    expected = F.cross_entropy(again, task.labels).item()
    assert curves.metrics[1]["cross_entropy"] == pytest.approx(expected, rel=1e-4), "not what the pictures show"
