"""methods/edc.py: real starts, teachers in turn with statistics of their own, and a run that finds its tables again."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar import pipeline
from attar.methods import edc
from attar.models.small import ConvNet, SmallResNet
from attar.ops.pixels import Normalisation
from attar.stages import prepare
from attar.store import units
from attar.store.units import Unit
from attar.synthesis import starts
from attar.synthesis.task import Network, Task
from conftest import mini_recipe
from methods.test_conformance import RealByFormula, Steps

NORMALISATIONS = (Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), Normalisation((0.4, 0.4, 0.4), (0.3, 0.3, 0.3)))


def config_of(**values: Any) -> edc.Config:
    return edc.Config.of({"ipc": 2, "iterations": 4, "unit_classes": 3, "unit_slots": 2} | values, "the test")


def task_of(config: edc.Config) -> Task:
    """A unit of two images of three classes, and two teachers."""
    from attar.core.randomness import generator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [SmallResNet(8, 3).eval(), ConvNet(2, 3, 8, width=8).eval()]
    networks = tuple(Network(module, norm) for module, norm in zip(modules, NORMALISATIONS, strict=True))
    real, device = RealByFormula(), torch.device("cpu")
    table = prepare.rehearsed(edc.prepare(config), config, networks, real, (8, 8), device)
    return Task(
        labels=torch.arange(3).repeat(2),
        slots=torch.arange(2).repeat_interleave(3),
        size=(8, 8),
        teachers=networks,
        device=device,
        streams=lambda *names: (generator(0, "recover", *names),),
        shared_stream=lambda *names: generator(0, "recover", *names),
        monitor=Steps(),
        unit_sizes=(6,),
        real=real,
        table=table,
    )


def test_images_start_as_real_ones_of_their_class_none_twice():
    config = config_of(learning_rate=1e-9)
    images = edc.recover(task_of(config), config).images
    records = (images * 255).round().to(torch.uint8)
    assert [int(label) for label in records[:, 0, 0, 0]] == [0, 1, 2, 0, 1, 2]
    places = records[:, 1, 0, 0].view(2, 3)
    assert (places[0] != places[1]).all()


def test_half_of_the_starts_are_mirrored_alike_in_any_division_into_units():
    config = config_of(ipc=40, learning_rate=1e-9)
    task = dataclasses.replace(
        task_of(config),
        labels=torch.arange(3).repeat(40),
        slots=torch.arange(40).repeat_interleave(3),
        unit_sizes=(120,),
    )
    plain, shown = (starts.start_of(task, config.changed(start_flip=mirrored)) for mirrored in (False, True))
    mirrored = starts.mirrored(task)
    assert 40 < int(mirrored.sum()) < 80
    assert torch.equal(shown[mirrored], plain[mirrored].flip(-1))
    assert torch.equal(shown[~mirrored], plain[~mirrored])
    assert not torch.equal(shown, plain)
    assert torch.equal(starts.start_of(task, config), shown), "as EDC's scripts do"
    assert torch.equal(starts.start_of(task, config.changed(flip=False)), plain)
    some = torch.arange(17, 61)
    part = dataclasses.replace(task, labels=task.labels[some], slots=task.slots[some], unit_sizes=(len(some),))
    assert torch.equal(starts.start_of(part, config), shown[some])


def test_teachers_take_turns_each_with_its_own_statistics():
    """Other statistics of the second teacher are felt from the second iteration on, and not before."""

    def made(iterations: int, doubled: int | None) -> Tensor:
        config = config_of(iterations=iterations, bn_weight=1.0)
        task = task_of(config)

        def table(name: str, teacher: int = 0) -> Tensor:
            return task.table(name, teacher) * (2 if teacher == doubled else 1)

        return edc.recover(dataclasses.replace(task, table=table), config).images

    assert torch.equal(made(1, None), made(1, 1))
    assert not torch.equal(made(1, None), made(1, 0))
    assert not torch.equal(made(2, None), made(2, 1))


def test_a_run_finds_its_tables_again_with_another_learning_rate(squeezed: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = mini_recipe().with_method("edc")
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=2, iterations=2, unit_classes=5, unit_slots=2))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    (table,) = squeezed.joinpath("prepared").rglob("*.safetensors")
    before = table.stat().st_mtime_ns
    made = [
        units.load(squeezed / "recover" / "units", Unit(0, block, tuple(range(5 * block, 5 * block + 5)), 2))
        for block in (0, 1)
    ]
    assert [unit.images.shape for unit in made] == [(10, 3, 8, 8)] * 2
    shutil.rmtree(squeezed / "recover")
    faster = recipe.changed(recover=recipe.recover.changed(learning_rate=0.2))
    pipeline.run(faster, squeezed, stage="recover", quiet=True)
    (again,) = squeezed.joinpath("prepared").rglob("*.safetensors")
    assert (again, again.stat().st_mtime_ns) == (table, before)
    other = units.load(squeezed / "recover" / "units", Unit(0, 0, tuple(range(5)), 2))
    assert not torch.equal(other.images, made[0].images)
