"""store/units.py: the plan covers everything once, and a unit's file holds everything exactly."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from attar.core.errors import AttarError
from attar.store import units
from attar.store.units import Unit, UnitResult


@pytest.mark.parametrize("num_classes", [1, 2, 10, 200, 1000])
@pytest.mark.parametrize("unit_classes", [1, 3, 100, 5000])
@pytest.mark.parametrize(("first_slot", "last_slot"), [(0, 1), (0, 3), (5, 7)])
def test_the_plan_makes_every_slot_of_every_class_once(
    num_classes: int, unit_classes: int, first_slot: int, last_slot: int
):
    plan = units.plan(num_classes, first_slot, last_slot, unit_classes)
    made = Counter((unit.slot, label) for unit in plan for label in unit.labels)
    assert set(made) == {(slot, label) for slot in range(first_slot, last_slot) for label in range(num_classes)}
    assert set(made.values()) == {1}
    assert all(len(set(unit.labels)) == len(unit.labels) <= unit_classes for unit in plan)
    assert len({unit.name for unit in plan}) == len(plan)


def test_slots_added_later_are_the_units_that_a_larger_set_would_have():
    whole = units.plan(250, 0, 5, 100)
    assert units.plan(250, 0, 2, 100) + units.plan(250, 2, 5, 100) == whole


def test_names_never_change():
    """Golden: they seed the random streams and name the files of every run there is."""
    assert [unit.name for unit in units.plan(250, 9, 10, 100)] == [
        "slot00009-block0000",
        "slot00009-block0001",
        "slot00009-block0002",
    ]
    assert Unit(0, 0, (0,)).path(Path("out")) == Path("out/slot00000-block0000.safetensors")


def result(seed: int = 0) -> UnitResult:
    generator = torch.Generator().manual_seed(seed)

    def pictures() -> torch.Tensor:
        return torch.randint(0, 256, (4, 3, 6, 5), generator=generator, dtype=torch.uint8)

    return UnitResult(
        images=pictures(),
        labels=torch.tensor([3, 1, 2, 0]),
        snapshots={100: pictures(), 4000: pictures()},
        curves={"loss": torch.rand(30, generator=generator), "bn_distance": torch.rand(30, generator=generator)},
        verifier={100: 0.25, 4000: 0.75},
    )


UNIT = Unit(2, 1, (3, 1, 2, 0))


def test_a_unit_comes_back_with_its_snapshots_and_curves(tmp_path: Path):
    kept = result()
    units.save(tmp_path, UNIT, kept)
    found = units.load(tmp_path, UNIT)
    assert torch.equal(found.images, kept.images)
    assert torch.equal(found.labels, kept.labels)
    assert found.verifier == kept.verifier
    assert found.snapshots.keys() == kept.snapshots.keys()
    assert all(torch.equal(found.snapshots[done], images) for done, images in kept.snapshots.items())
    assert found.curves.keys() == kept.curves.keys()
    assert all(torch.equal(found.curves[name], values) for name, values in kept.curves.items())


def test_a_unit_of_a_method_without_iterations_comes_back(tmp_path: Path):
    kept = result()
    units.save(tmp_path, UNIT, UnitResult(kept.images, kept.labels, {}, {}, {}))
    found = units.load(tmp_path, UNIT)
    assert torch.equal(found.images, kept.images)
    assert (found.snapshots, found.curves, found.verifier) == ({}, {}, {})


def test_equal_work_is_equal_bytes(tmp_path: Path):
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        units.save(tmp_path / place, UNIT, result(seed))
    first, again, other = (UNIT.path(tmp_path / place).read_bytes() for place in "abc")
    assert first == again != other


def test_files_that_are_not_whole_are_refused_by_name(tmp_path: Path):
    with pytest.raises(AttarError, match=r"no file .*slot00002-block0001\.safetensors"):
        units.load(tmp_path, UNIT)
    units.save(tmp_path, UNIT, result())
    path = UNIT.path(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AttarError, match=r"slot00002-block0001\.safetensors is not a complete"):
        units.load(tmp_path, UNIT)


def test_a_unit_of_several_slots_holds_each_class_once_a_slot():
    plan = units.plan(5, 1, 8, 3, 4)
    assert [(unit.slot, unit.num_slots, unit.classes) for unit in plan] == [
        (1, 3, (0, 1, 2)),
        (1, 3, (3, 4)),
        (4, 4, (0, 1, 2)),
        (4, 4, (3, 4)),
    ]
    made = [pair for unit in plan for pair in zip(unit.slots, unit.labels, strict=True)]
    assert sorted(made) == [(slot, label) for slot in range(1, 8) for label in range(5)]
    assert plan[0].slots == (1, 1, 1, 2, 2, 2, 3, 3, 3)
