"""methods/gvbsm.py against the published loop: hooks on all layers of teachers in turn, eigenvalues of classes."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.randomness import generator
from attar.methods import gvbsm
from attar.ops import views
from attar.ops.pixels import from_bytes
from attar.synthesis import statistics
from attar.synthesis.diversity import Diversity, pooled
from attar.synthesis.observed import Observed
from attar.synthesis.starts import noise
from attar.synthesis.terms import Seen, UnitBatch
from attar.synthesis.views import views_of
from inverted_digits import task_of
from matched_digits import NORMALISATION, NUM_CLASSES, Saved, digits

FEW = {"ipc": 2, "iterations": 7, "crop": "padded", "padding": 1, "jitter": 2, "flip": False, "drop_layers": 0.4}


def config_of(**values: Any) -> gvbsm.Config:
    return gvbsm.Config.of(FEW | values, "the test")


def patched(maps: Tensor) -> Tensor:
    """Patch by value, of a batch as a whole."""
    whole = [-(-length // 4) * 4 for length in maps.shape[2:]]
    cut = F.interpolate(maps, whole, mode="bilinear").unfold(2, 4, 4).unfold(3, 4, 4)
    return cut.permute(2, 3, 0, 1, 4, 5).flatten(2).flatten(0, 1)


class Hook:
    """Statistics of one layer as the released code measures them, but for the moving average's first value."""

    def __init__(self, layer: nn.Module, momentum: float) -> None:
        self.layer, self.momentum, self.fed = layer, momentum, torch.zeros(0)
        self.sums: list[Tensor] = []
        self.weight = 0.0
        self.aims: list[Tensor] = []
        layer.register_forward_hook(lambda _, inputs, __: setattr(self, "fed", inputs[0]))

    def values(self) -> list[Tensor]:
        rows = [self.fed.transpose(0, 1).flatten(1)]
        if isinstance(self.layer, nn.Conv2d):
            rows.append(patched(self.fed))
        return [part for own in rows for part in (own.mean(1), own.var(1, unbiased=False))]

    def target(self, images: Tensor, network: nn.Module) -> None:
        """Running statistics, or those of all real images."""
        if isinstance(self.layer, nn.BatchNorm2d):
            assert self.layer.running_mean is not None
            assert self.layer.running_var is not None
            self.aims = [self.layer.running_mean, self.layer.running_var]
        else:
            network(images)
            self.aims = self.values()

    def distance(self) -> Tensor:
        now = self.values()
        self.sums = self.sums or [torch.zeros_like(value) for value in now]
        self.sums = [
            self.momentum * old + (1 - self.momentum) * value.detach()
            for old, value in zip(self.sums, now, strict=True)
        ]
        self.weight = self.momentum * self.weight + (1 - self.momentum)
        away = torch.zeros(())
        for value, total, aim in zip(now, self.sums, self.aims, strict=True):
            away = away + (aim - (total / self.weight + value - value.detach())).norm()
        return away


def spread(images: Tensor, labels: Tensor, mean: bool) -> Tensor:
    """Data densification: class by class, by the eigenvalues of a general matrix as in the released code."""
    total = torch.zeros(())
    for label in labels.unique():
        own = images[labels == label].flatten(1)
        products = own @ own.T / (own.shape[1] if mean else 1)
        values = torch.linalg.eigvals(products).real
        target = (values / 4.0).softmax(0).detach()
        total = total + F.kl_div(values.log_softmax(0), target, reduction="sum")
    return total


def published(config: gvbsm.Config) -> tuple[Tensor, list[float]]:
    """Images and losses by the published loop, with two teachers in turn."""
    task, _ = task_of(gvbsm, config, num_teachers=2, num_slots=config.ipc)
    real = NORMALISATION.apply(from_bytes(torch.cat([digits()[label] for label in range(NUM_CLASSES)])))
    hooks, kept = [], []
    for teacher, network in enumerate(task.teachers):
        layers = [layer for layer in network.module.modules() if isinstance(layer, nn.BatchNorm2d | nn.Conv2d)]
        own = [Hook(layer, config.statistics_momentum) for layer in layers]
        with torch.no_grad():
            for hook in own:
                hook.target(real, network.module)
        hooks.append(own)
        convolutions = sum(isinstance(layer, nn.Conv2d) for layer in layers)
        drawn = torch.rand(config.iterations, convolutions, generator=generator(0, "unit", "drop", teacher))
        kept.append(iter((drawn >= config.drop_layers).tolist()))
    pixels, draw = noise(task).requires_grad_(), views_of(task, config)
    optimiser = torch.optim.Adam([pixels], betas=(0.5, 0.9), eps=1e-8)
    low, high = NORMALISATION.bounds(pixels)
    losses = []
    for iteration in range(config.iterations):
        rate = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations)) * config.learning_rate
        optimiser.param_groups[0]["lr"] = rate
        teacher = iteration % 2
        seen = views.apply(pixels, views.View(*draw.draw(iteration, task.size, task.size)))
        loss = F.cross_entropy(task.teachers[teacher].module(seen), task.labels)
        turn = iter(next(kept[teacher]))
        for place, hook in enumerate(hooks[teacher]):
            if isinstance(hook.layer, nn.BatchNorm2d) or next(turn):
                loss = loss + config.bn_weight * (10 if place == 0 else 1) * hook.distance()
        loss = loss + config.diversity_weight * spread(seen, task.labels, config.diversity_products == "mean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pixels.data.clamp_(low, high)
        losses.append(float(loss.detach()))
    return NORMALISATION.undo(pixels.detach()), losses


@pytest.mark.parametrize("choices", [{"diversity_products": "mean"}, {"drop_layers": 0.0}])
def test_the_loop_is_the_published_one(choices: dict[str, Any]):
    config = config_of(**choices)
    task, curves = task_of(gvbsm, config, num_teachers=2, num_slots=2)
    images = gvbsm.recover(task, config).images
    expected, losses = published(config)
    assert [loss for (loss,) in curves.losses] == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_padded_crops_reach_over_the_border_by_the_padding_and_no_further():
    config = config_of(padding=2)
    task, _ = task_of(gvbsm, config)
    draw = views_of(task, config)
    boxes = torch.cat([draw.draw(iteration, (8, 8), (8, 8))[0] for iteration in range(60)])
    assert {tuple(box) for box in boxes[:, 2:].tolist()} == {(8, 8)}
    assert [set(boxes[:, axis].tolist()) for axis in (0, 1)] == [{-2, -1, 0, 1, 2}] * 2


def value_of(term: Diversity, images: Tensor, sizes: tuple[int, ...], labels: Tensor) -> Tensor:
    task = dataclasses.replace(task_of(gvbsm, config_of(), num_slots=2)[0], labels=labels, unit_sizes=sizes)
    average = torch.block_diag(*(torch.full((1, size), 1 / size) for size in sizes))
    constants = term.constants(task, 0, None)  # type: ignore[arg-type]  # it observes nothing
    return term(Seen(images, images, {}, {}), UnitBatch(labels, average), constants, {})[0]


def test_classes_of_several_sizes_and_units_are_compared_apart():
    labels = torch.tensor([0, 1, 0, 1, 1, 2, 0, 0, 1])
    images = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = value_of(Diversity(mean=True), images, (6, 3), labels)
    expected = torch.stack(
        [spread(own, of, True) for own, of in zip(images.split([6, 3]), labels.split([6, 3]), strict=True)]
    )
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    slopes = [torch.autograd.grad(each.sum(), images, retain_graph=True)[0] for each in (value, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-7)
    assert value[0] > 0.001
    assert (slopes[0][5] == 0).all(), "an image alone in its class has nothing to differ from"


def test_equal_images_have_less_diversity_than_different_ones():
    labels = torch.zeros(4, dtype=torch.int64)
    different = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    equal = different[:1].repeat(4, 1, 1, 1)
    values = [float(value_of(Diversity(mean=True), images, (4,), labels)) for images in (different, equal)]
    assert values[1] > 3 * values[0] > 0


def test_sums_as_published_leave_nothing_of_the_term_at_the_papers_size():
    """The largest eigenvalue of ten images of noise is hundreds above the next."""
    labels = torch.zeros(10, dtype=torch.int64)
    images = 0.5 + torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
    value = value_of(Diversity(), images, (10,), labels)
    assert float(value.detach()) < 1e-6
    assert torch.autograd.grad(value.sum(), images)[0].abs().max() < 1e-6


@pytest.mark.parametrize(("side", "values"), [(8, 192), (32, 3072), (64, 3072), (80, 3072)])
def test_large_views_are_averaged_to_32_pixels(side: int, values: int):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(4))
    expected = F.adaptive_avg_pool2d(images, 32).flatten(1) if side > 32 else images.flatten(1)
    assert expected.shape[1] == values
    torch.testing.assert_close(pooled(images), expected)


def test_layers_are_left_out_in_the_share_that_the_settings_say():
    config = config_of(iterations=200)
    task, _ = task_of(gvbsm, config, num_slots=2)
    term = statistics.statistics_of(task, config)
    observed = Observed(task.teachers[0].module, torch.zeros(2, 3, 8, 8), taps=term.taps)
    kept = term.constants(task, 0, observed)
    assert kept["convolution.kept"].mean().item() == pytest.approx(0.6, abs=0.03)
    assert torch.equal(kept["convolution.kept"], kept["patches.kept"])
    assert "batchnorm.kept" not in kept


def test_a_checkpoint_continues_bit_by_bit():
    config, saved = config_of(), Saved(after=4)
    task, _ = task_of(gvbsm, config, num_teachers=2, num_slots=2, checkpoint=saved)
    images = gvbsm.recover(task, config).images
    again, curves = task_of(gvbsm, config, num_teachers=2, num_slots=2, checkpoint=saved)
    assert torch.equal(gvbsm.recover(again, config).images, images)
    assert len(curves.losses) == 3


@pytest.mark.parametrize(
    ("choices", "golden"),
    [
        ({}, [2.3173, 4.5945, 3.2595, 4.3397, 3.4224, 4.5494, 3.4932]),
        (
            {"start": "real", "target": "mixed", "diversity_products": "mean", "drop_layers": 0.0, "crop": "resized"},
            [2.4779, 4.2504, 2.5006, 3.9209, 2.5158, 4.4111, 2.5347],
        ),
    ],
)
def test_golden_losses(choices: dict[str, Any], golden: list[float]):
    """Frozen: a change here changes every image that a recipe makes."""
    config = config_of(**choices)
    task, curves = task_of(gvbsm, config, num_teachers=2, num_slots=2)
    gvbsm.recover(task, config)
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)
    assert set(curves.metrics[0]) == set(config.metrics())
