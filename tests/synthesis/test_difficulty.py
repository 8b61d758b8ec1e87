"""synthesis/difficulty.py against plain formulas: scores, groups and their statistics, as starts and as targets."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar import pipeline
from attar.core.errors import AttarError
from attar.methods import fadrm
from attar.ops.pixels import from_bytes
from attar.recipes.recipe import recipe
from attar.synthesis import difficulty, statistics
from attar.synthesis.observed import Observed
from attar.synthesis.terms import Seen, UnitBatch
from inverted_digits import tables_of, task_of, teachers
from matched_digits import NORMALISATION, NUM_CLASSES, SIDE, Real, digits

IPC = 3


def config_of(**values: Any) -> fadrm.Config:
    fixed = {"ipc": IPC, "start": "hardest", "target": "group", "iterations": 8, "jitter": 1, "flip": False}
    return fadrm.Config.of(fixed | values, "the test")


def fed(network: nn.Module, images: Tensor) -> list[tuple[nn.BatchNorm2d, Tensor]]:
    """BatchNorm layers and what they are fed, in order of registration."""
    seen: dict[nn.Module, Tensor] = {}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda layer, fed, _: seen.update({layer: fed[0]})) for layer in layers]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return [(layer, seen[layer]) for layer in layers]


def normalised(label: int, places: list[int]) -> Tensor:
    return NORMALISATION.apply(from_bytes(digits()[label][places]))


def score(network: nn.Module, image: Tensor) -> float:
    """Distance of one image, layer by layer."""
    total = 0.0
    layers = fed(network, image[None])
    for layer, maps in layers:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False).clamp_min(1e-5)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        away = (mean - layer.running_mean).norm() + (variance.log() - layer.running_var.log()).norm()
        total += float(away) / maps.shape[1] ** 0.5
    return total / len(layers)


def test_scores_are_distances_from_the_running_statistics():
    (network,) = teachers()
    found = tables_of(fadrm, config_of(), [network])["difficulty.score", 0]
    assert found.shape == (NUM_CLASSES, 12)
    for label in range(NUM_CLASSES):
        expected = [score(network.module, image) for image in normalised(label, list(range(Real().count(label))))]
        assert found[label, : 12 - label].tolist() == pytest.approx(expected, rel=1e-4)
        assert (found[label, 12 - label :] == -1).all()


def test_images_are_ranked_in_their_class_by_the_mean_rank_of_all_teachers():
    networks = teachers(2)
    tables = tables_of(fadrm, config_of(committee="mean"), networks)
    for label in range(NUM_CLASSES):
        count = Real().count(label)
        scores = [tables["difficulty.score", teacher][label, :count].tolist() for teacher in range(2)]
        mean = [sum(sorted(own).index(own[place]) for own in scores) / 2 for place in range(count)]
        order = tables["order.image", 0][label]
        assert sorted(order[:count].tolist()) == list(range(count))
        assert order[:count].tolist() == sorted(range(count), key=mean.__getitem__)
        assert (order[count:] == -1).all()
    assert tables["order.image", 0].tolist() != tables_of(fadrm, config_of(), networks[:1])["order.image", 0].tolist()


@pytest.mark.parametrize(("count", "ipc"), [(12, 3), (11, 3), (10, 10), (4, 10)])
def test_groups_are_equal_parts_from_easy_to_hard(count: int, ipc: int):
    order = torch.cat([torch.arange(count).flip(0), torch.tensor([-1, -1])])
    groups = [difficulty.group(order, slot, ipc) for slot in range(ipc)]
    assert {len(group) for group in groups} <= {max(1, count // ipc), -(-count // ipc)}
    if count >= ipc:
        assert [image for group in groups for image in group] == list(range(count))[::-1]


@pytest.mark.parametrize("which", ["easiest", "hardest"])
def test_images_start_as_the_easiest_or_hardest_of_their_group(which: Any):
    (network,) = teachers()
    config = config_of(start=which, learning_rate=1e-9, residual=0.0)
    images = fadrm.recover(task_of(fadrm, config, num_slots=IPC)[0], config).images
    for place, image in enumerate(images):
        slot, label = divmod(place, NUM_CLASSES)
        count = Real().count(label)
        ranked = sorted(range(count), key=lambda own: score(network.module, normalised(label, [own])[0]))
        group = ranked[slot * count // IPC : (slot + 1) * count // IPC]
        expected = digits()[label][group[0 if which == "easiest" else -1]]
        torch.testing.assert_close(image, from_bytes(expected), atol=1e-5, rtol=0)


def of_group(order: Tensor, slot: int) -> Tensor:
    """The images of a slot's group, of all classes."""
    groups = [difficulty.group(order[label], slot, IPC) for label in range(NUM_CLASSES)]
    return torch.cat([normalised(label, group) for label, group in enumerate(groups)])


def moments(layers: list[tuple[nn.BatchNorm2d, Tensor]], unbiased: bool = False) -> tuple[Tensor, Tensor]:
    maps = [own for _, own in layers]
    return torch.cat([own.mean((0, 2, 3)) for own in maps]), torch.cat([own.var((0, 2, 3), unbiased) for own in maps])


def test_statistics_of_a_group_are_those_of_its_images():
    (network,) = teachers()
    tables = tables_of(fadrm, config_of(), [network])
    for slot in range(IPC):
        mean, variance = moments(fed(network.module, of_group(tables["order.image", 0], slot)))
        torch.testing.assert_close(tables["groups.batchnorm.mean", 0][slot], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tables["groups.batchnorm.variance", 0][slot], variance, rtol=1e-4, atol=1e-5)


def test_passes_follow_the_group_as_batchnorm_does_in_training():
    """With the group as one batch, each pass moves the running statistics a tenth of the way to the batch's."""
    (network,) = teachers()
    tables = tables_of(fadrm, config_of(group_passes=3), [network])
    for slot in range(IPC):
        trained = copy.deepcopy(network.module)
        for layer in trained.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.train().momentum = 0.0
        mean, variance = moments(fed(trained, of_group(tables["order.image", 0], slot)), unbiased=True)
        layers = [layer for layer in network.module.modules() if isinstance(layer, nn.BatchNorm2d)]
        for key, now in (("mean", mean), ("var", variance)):
            before = torch.cat([getattr(layer, f"running_{key}") for layer in layers])
            name = "groups.batchnorm." + ("mean" if key == "mean" else "variance")
            torch.testing.assert_close(tables[name, 0][slot], 0.729 * before + 0.271 * now, rtol=1e-4, atol=1e-5)
    small = tables_of(fadrm, config_of(group_passes=3, group_batch=4), [network])
    assert not torch.allclose(small["groups.batchnorm.mean", 0], tables["groups.batchnorm.mean", 0])


@pytest.mark.parametrize("slots", [(1,), (0, 2)])
def test_the_target_of_a_unit_is_that_of_its_slots_together(slots: tuple[int, ...]):
    config = config_of(first_bn_multiplier=10.0)
    task, _ = task_of(fadrm, config, slots=slots)
    term = statistics.statistics_of(task, config)
    observed = Observed(task.teachers[0].module, torch.zeros(2, 3, SIDE, SIDE), taps=term.taps)
    images = torch.randn(len(task.labels), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    average = torch.full((1, len(images)), 1 / len(images))
    value, _ = term(
        Seen(images, *observed(images)), UnitBatch(task.labels, average), term.constants(task, 0, observed), {}
    )
    means, variances = (task.table(f"groups.batchnorm.{key}") for key in ("mean", "variance"))
    aim = torch.stack([means[slot] for slot in slots]).mean(0)
    square = torch.stack([variances[slot] + means[slot] ** 2 for slot in slots]).mean(0)
    layers, expected, start = fed(task.teachers[0].module, images), 0.0, 0
    for place, (_, maps) in enumerate(layers):
        own = slice(start, start + maps.shape[1])
        away = (maps.mean((0, 2, 3)) - aim[own]).norm()
        away = away + (maps.var((0, 2, 3), unbiased=False) - (square - aim**2)[own]).norm()
        expected, start = expected + (10 if place == 0 else 1) * float(away), own.stop
    assert value.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("choices", "num_teachers", "golden"),
    [
        ({}, 1, [2.0796, 1.8267, 1.8027, 1.7294, 1.6017, 2.044]),
        (
            {"group_passes": 2, "group_batch": 8, "committee": "round-robin"},
            2,
            [2.4355, 4.1624, 2.3207, 3.4755, 2.1858, 3.5238],
        ),
    ],
)
def test_golden_losses(choices: dict[str, Any], num_teachers: int, golden: list[float]):
    """Frozen: a change here changes every image that a recipe of PSM makes."""
    config = config_of(iterations=6, block_sizes=(1.0, 1.0), **choices)
    task, curves = task_of(fadrm, config, num_teachers, slots=(1,))
    fadrm.recover(task, config)
    assert [loss for (loss,) in curves.losses] == pytest.approx(golden, rel=1e-3)


def test_tables_are_made_only_where_groups_are_used():
    names = [step.name for step in fadrm.prepare(config_of(start="noise", target="running"))]
    assert "difficulty" not in names
    assert [step.name for step in fadrm.prepare(config_of(target="running"))][-2:] == ["difficulty", "order"]
    assert (
        config_of(target="running", start="real").recorded()
        == config_of(target="running", start="real", group_passes=4).recorded()
    )


def test_a_class_with_fewer_images_than_groups_is_refused_before_the_work(tmp_path: Path):
    assert config_of().real_per_image() == 1
    assert config_of(start="real", target="running").real_per_image() == 0
    made = recipe(name="few", method="fadrm", data={"source": "digits", "size": 8}, recover=config_of(ipc=500))
    with pytest.raises(AttarError, match=r"training images but 500 are needed; use --recover.ipc"):
        pipeline.run(made, tmp_path / "run", quiet=True)
    assert not tmp_path.joinpath("run", "squeeze").exists()
