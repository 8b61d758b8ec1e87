"""synthesis/objective.py: units side by side are what each is alone, in one step and through a whole optimisation."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.randomness import generator
from attar.methods import cda
from attar.ops.pixels import Normalisation
from attar.ops.views import View, ViewChoice, apply
from attar.synthesis.objective import Metrics, Objective, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.statistics import Distance
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy
from formula import Curves, formula_network

NORMALISATION = Normalisation((0.49, 0.45, 0.40), (0.20, 0.25, 0.30))
NUM_CLASSES, SIDE, BN_WEIGHT, FIRST = 6, 16, 0.05, 10.0
SIZES = [(3, 3, 3), (4, 1, 2), (6,)]


def together(drawn: list[View]) -> View:
    """The views one after the other."""
    return View(*(torch.cat(parts) for parts in zip(*(view.parts() for view in drawn), strict=True)))


def objective_of(network: nn.Module, units: Normalisation = NORMALISATION) -> Objective:
    terms = (CrossEntropy(), Distance(BN_WEIGHT, FIRST))
    return Objective(Observed(network, torch.zeros(2, 3, SIDE, SIDE), "fp32"), terms, NORMALISATION, units)


def noise(count: int, channels: int = 3, seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def labels_of(sizes: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(size) for size in sizes])


def views_of(sizes: Sequence[int]) -> list[View]:
    """A view for each unit, no two alike."""
    source = torch.Generator().manual_seed(5)
    drawn = ViewChoice(min_scale=0.2).draw(len(sizes), SIDE, SIDE, source)
    shift = torch.randint(0, 5, (len(sizes), 2), generator=source)
    return [View(drawn.box, drawn.flip, shift).take(slice(place, place + 1)) for place in range(len(sizes))]


def seen_by(
    objective: Objective, pixels: Tensor, sizes: Sequence[int], view: View | None = None, side: int = SIDE
) -> tuple[Tensor, Metrics]:
    """Pixel gradient and terms of units of these sizes; ``view`` is one for all images, or one for each."""
    average = torch.block_diag(*(torch.full((1, size), 1 / size) for size in sizes))
    records, (_, distance) = () if view is None else view.parts(), objective.terms
    assert isinstance(distance, Distance)
    own = ({}, distance.constants_of(objective.observed)), ({}, {})
    gradient, metrics, *_ = pixel_gradient(objective, pixels, records, (side, side), labels_of(sizes), average, *own)
    return gradient, metrics


def close(found: Tensor, expected: Tensor, within: float = 1e-5) -> None:
    """Equal to within a part of the largest entry."""
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=within * scale)


def written_out(network: nn.Module, seen: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One unit's terms, by hooks on the network's BatchNorm layers."""
    fed: list[Any] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda layer, given, _: fed.append((layer, given[0]))) for layer in layers]
    logits = network(seen)
    for handle in handles:
        handle.remove()
    distance = torch.zeros(())
    for layer, maps in fed:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
        away = (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
        distance = distance + (FIRST if layer is layers[0] else 1) * away
    cross_entropy = F.cross_entropy(logits, labels)
    accuracy = (logits.argmax(1) == labels).float().mean()
    loss = cross_entropy + BN_WEIGHT * distance
    return {"loss": loss, "cross_entropy": cross_entropy, "bn_distance": distance, "view_accuracy": accuracy}


@pytest.mark.parametrize("sizes", SIZES)
def test_each_units_terms_and_gradient_are_those_written_out_for_it_alone(sizes: tuple[int, ...]):
    network, drawn = formula_network(), views_of(sizes)
    pixels, labels = noise(sum(sizes)), labels_of(sizes)
    view = together(drawn).take(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)))
    gradient, terms = seen_by(objective_of(network), pixels, sizes, view)
    start = 0
    for place, size in enumerate(sizes):
        own = slice(start, start + size)
        start += size
        leaf = pixels[own].clone().requires_grad_()
        expected = written_out(network, apply(leaf, drawn[place]), labels[own])
        for name, value in expected.items():
            assert terms[name][place].item() == pytest.approx(value.item(), rel=1e-5), name
        close(gradient[own], torch.autograd.grad(expected["loss"], leaf)[0])
    assert start == len(gradient)


@pytest.mark.parametrize("sizes", SIZES[:2])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("viewed", [False, True])
def test_units_side_by_side_are_what_they_are_alone(sizes: tuple[int, ...], grey: bool, viewed: bool):
    objective = objective_of(formula_network(), NORMALISATION.grey() if grey else NORMALISATION)
    pixels, drawn = noise(sum(sizes), 1 if grey else 3), views_of(sizes)
    unit_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    gradient, terms = seen_by(objective, pixels, sizes, together(drawn).take(unit_of) if viewed else None)
    assert gradient.shape == pixels.shape
    for place, size in enumerate(sizes):
        slope, alone = seen_by(objective, pixels[unit_of == place], (size,), drawn[place] if viewed else None)
        close(gradient[unit_of == place], slope)
        for name, value in alone.items():
            assert terms[name][place].item() == pytest.approx(value.item(), rel=1e-5), name


def test_one_view_for_all_is_the_same_view_for_each():
    objective, pixels, (view,) = objective_of(formula_network()), noise(6), views_of((6,))
    shared, shared_terms = seen_by(objective, pixels, (4, 2), view)
    each, each_terms = seen_by(objective, pixels, (4, 2), view.take(torch.zeros(6, dtype=torch.int64)))
    close(shared, each)
    torch.testing.assert_close(shared_terms["loss"], each_terms["loss"])


def test_a_unit_does_not_feel_its_neighbours():
    objective, pixels = objective_of(formula_network()), noise(7)
    other = torch.cat([pixels[:4], 3 * noise(3, seed=1)])
    (gradient, terms), (slope, others) = (seen_by(objective, images, (4, 3)) for images in (pixels, other))
    close(slope[:4], gradient[:4], within=1e-6)
    assert others["loss"][0].item() == pytest.approx(terms["loss"][0].item(), rel=1e-6)
    assert others["loss"][1].item() != pytest.approx(terms["loss"][1].item(), rel=1e-2)
    assert (slope[4:] - gradient[4:]).abs().max() > 0.1 * gradient.abs().max()


def test_grey_pixels_are_shown_in_all_three_channels():
    """One grey value has three values in the teacher's units, and its slope is the sum of theirs."""
    network, units = formula_network(), NORMALISATION.grey()
    pixels = noise(4, 1)
    grey, terms = seen_by(objective_of(network, units), pixels, (4,))
    coloured, expected = seen_by(objective_of(network), NORMALISATION.apply(units.undo(pixels)), (4,))
    assert terms["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    rates = torch.tensor([units.std[channel] / NORMALISATION.std[channel] for channel in range(3)])
    close(grey, (coloured * rates.view(3, 1, 1)).sum(1, keepdim=True))


def test_the_teacher_may_see_another_size():
    network, pixels, (view,) = formula_network(), noise(4), views_of((4,))
    gradient, terms = seen_by(objective_of(network), pixels, (4,), view, side=24)
    leaf = pixels.clone().requires_grad_()
    expected = written_out(network, apply(leaf, view, (24, 24)), labels_of((4,)))
    assert terms["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    close(gradient, torch.autograd.grad(expected["loss"], leaf)[0])
    assert gradient.shape == pixels.shape


@pytest.mark.parametrize("viewed", [False, True])
def test_the_gradient_is_contiguous_and_nothing_keeps_its_graph(viewed: bool):
    """A gradient in channels-last would slow every later operation on the pixels down."""
    pixels = noise(4).requires_grad_()
    gradient, terms = seen_by(objective_of(formula_network()), pixels, (4,), views_of((4,))[0] if viewed else None)
    assert gradient.is_contiguous()
    assert not any(value.requires_grad for value in (gradient, *terms.values()))
    assert pixels.grad is None


def task_of(network: nn.Module, units: dict[str, int]) -> tuple[Task, Curves]:
    """A task of units of these names and sizes; a unit's streams follow its name."""
    curves, sizes = Curves(), tuple(units.values())
    task = Task(
        labels=labels_of(sizes),
        slots=torch.zeros(sum(sizes), dtype=torch.int64),
        size=(SIDE, SIDE),
        teachers=(Network(network, NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, unit, *names) for unit in units),
        shared_stream=lambda *names: generator(0, *names),
        monitor=curves,
        unit_sizes=sizes,
    )
    return task, curves


def config_of(**values: Any) -> cda.Config:
    fixed = {"iterations": 10, "learning_rate": 0.1, "jitter": 4, "bn_weight": BN_WEIGHT, "ipc": 1}
    return cda.Config.of(fixed | values, "the test")


@pytest.mark.parametrize(("keep", "grey"), [("last", False), ("best", True)])
@pytest.mark.parametrize("sizes", SIZES[:2])
def test_a_task_of_three_units_makes_the_images_of_three_tasks(sizes: tuple[int, ...], keep: str, grey: bool):
    network, config = formula_network(), config_of(keep=keep, grey=grey)
    units = dict(zip("abc", sizes, strict=True))
    task, together = task_of(network, units)
    images = cda.recover(task, config).images.split(sizes)
    losses = torch.stack(together.losses)
    for place, (name, size) in enumerate(units.items()):
        task, curves = task_of(network, {name: size})
        torch.testing.assert_close(images[place], cda.recover(task, config).images, rtol=0, atol=1e-4)
        torch.testing.assert_close(losses[:, place], torch.cat(curves.losses), rtol=1e-4, atol=0)


def test_which_iterate_is_best_is_decided_for_each_unit():
    """The iterates on which a unit's loss was measured are the images of the iteration before."""
    network, units = formula_network(), {"a": 3, "b": 2, "c": 4, "d": 3}
    task, curves = task_of(network, units)
    kept = cda.recover(task, config_of(keep="best")).images.split(tuple(units.values()))
    lowest = torch.stack(curves.losses).argmin(0).tolist()
    assert len(set(lowest)) > 1, "all units are best after the same iteration: nothing is tested"
    assert 0 not in lowest
    for place, iteration in enumerate(lowest):
        expected = curves.images[iteration - 1].clamp(0, 1).split(tuple(units.values()))[place]
        torch.testing.assert_close(kept[place], expected, rtol=0, atol=1e-6)
