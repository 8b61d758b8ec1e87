"""Bytes of networks and images that are reckoned without making them, against those that are written."""

from pathlib import Path

import pytest
import torch

from attar.core.randomness import generator
from attar.models import build, compact
from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation
from attar.recipes import network_cost
from attar.store import images


def stored_bytes(module: torch.nn.Module) -> int:
    state = compact.encoded(module.state_dict(), "int8")
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


@pytest.mark.parametrize("size", [8, 28, 32, 48, 64, 96, 128])
def test_no_stored_network_is_larger_than_reckoned(size: int):
    network = network_cost.network_for(size)
    module = build.build(network.name, 10, size, seed=0)
    assert (stored := stored_bytes(module)) < network.stored_bytes(10) < stored + 6000


def test_a_stored_resnet_is_not_larger_than_reckoned():
    network = network_cost.network_for(224)
    module = build.build(network.name, 1000, 224, seed=0)
    assert (stored := stored_bytes(module)) < network.stored_bytes(1000) < 1.05 * stored


def test_a_teacher_with_its_description_is_not_larger_than_reckoned(tmp_path: Path):
    network, classes = network_cost.network_for(32), tuple(f"class {place}" for place in range(10))
    module = build.build(network.name, 10, 32, seed=0)
    normalisation = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    Teacher(module, network.name, "standard", classes, normalisation, 32).save(tmp_path, "int8")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= network.stored_bytes(10)


@pytest.mark.parametrize(("size", "count"), [(8, 300), (32, 40), (64, 40), (128, 10)])
def test_no_stored_set_is_larger_than_reckoned(tmp_path: Path, size: int, count: int):
    classes = ("a", "b with a longer name")
    noise = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(0, "noise"))
    rows = ((image, place % 2, place // 2) for place, image in enumerate(noise))
    written = images.write(tmp_path, rows, classes, network_cost.format_for(size), 90)  # type: ignore[arg-type]
    assert written <= network_cost.set_bytes(count, network_cost.image_bytes(size), classes) < 1.3 * written


def test_arithmetic_follows_the_maps():
    wide, deep = network_cost.network_for(32), network_cost.network_for(64)
    assert wide.multiplications() == 9 * 64 * (3 * 32**2 + 64 * 16**2 + 64 * 8**2)
    assert 4 < deep.multiplications() / wide.multiplications() < 5
