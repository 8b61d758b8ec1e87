"""What every method in attar.methods must do; a new file there is tested without a change here."""

import dataclasses
import random as python_random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.core import plugin
from attar.core.compiling import Compiler
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import random as random_images
from attar.models.small import ConvNet, SmallResNet
from attar.ops.pixels import Normalisation, from_bytes, to_bytes
from attar.stages import prepare
from attar.synthesis.method import MethodConfig, Needs
from attar.synthesis.networks import Bare
from attar.synthesis.optimise import shape_of
from attar.synthesis.task import Network, Recovered, Task

NUM_CLASSES, ITERATIONS, NUM_REAL = 3, 4, 12
FEW = {"network_depth": 2, "network_width": 4, "iterations": ITERATIONS, "student_steps": 2}
TEACHERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: SmallResNet(8, NUM_CLASSES),
    "convnet": lambda: ConvNet(3, NUM_CLASSES, 8, width=8),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class RealByFormula:
    """Real images whose pixels say which class and index they are."""

    num_classes = 3

    def count(self, label: int) -> int:
        return NUM_REAL - label

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        pixels = torch.tensor([[label, index, 7] for index in indices], dtype=torch.uint8)
        images = pixels[:, :, None, None].repeat(1, 1, 8, 8)
        images[:, 2] += 3 * torch.arange(64, dtype=torch.uint8).view(8, 8)  # no image is of one colour
        return images

    def class_name(self, label: int) -> str:
        return ("ant", "bee", "cat")[label]


class Steps:
    """A monitor that evaluates everything it is offered."""

    def __init__(self) -> None:
        self.iterations: list[int] = []
        self.shapes: set[torch.Size] = set()
        self.metrics: list[dict[str, Tensor | float]] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor | float) -> None:
        self.iterations.append(iteration)
        self.shapes.add(images().shape)
        self.metrics.append(metrics)


class ExpertsByChance:
    """Networks whose weights go a random way, in place of trained experts."""

    normalisation = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    num_experts = 2

    def __init__(self, num_snapshots: int, device: str) -> None:
        self.num_snapshots = num_snapshots
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.call = Bare(lambda: ConvNet(2, NUM_CLASSES, 8, width=4, norm="instance"))
            begin = self.call.random(torch.default_generator)
            way = 0.02 * torch.randn(self.num_experts, num_snapshots, len(begin)).cumsum(1)
        self._ways = (begin + way).to(device)

    def weights(self, expert: int, snapshot: int) -> Tensor:
        return self._ways[expert, snapshot]


def task_of(
    module: Any, seed: int = 0, slot: int = 0, teacher: str = "resnet", device: str = "cpu", precision: Any = "fp32"
) -> tuple[Task, Steps]:
    """One unit of three images at 8 pixels, with a teacher of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TEACHERS[teacher]().eval().requires_grad_(False).to(device)
    monitor = Steps()
    task = Task(
        labels=torch.arange(NUM_CLASSES, device=device),
        slots=torch.full((NUM_CLASSES,), slot),
        size=(8, 8),
        teachers=(Network(network, Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), precision, accuracy=0.9),),
        device=torch.device(device),
        streams=lambda *names: (generator(seed, "recover", f"slot{slot}", *names),),
        shared_stream=lambda *names: generator(seed, "recover", *names),
        monitor=monitor,
        unit_sizes=(NUM_CLASSES,),
    )
    return prepared(module, task), monitor


def prepared(module: Any, task: Task, config: Any = None) -> Task:
    """The task with real images and tables, where the method asks for them."""
    config, real = config or config_of(module), RealByFormula()
    steps = prepare.steps_of(module, config, task.teachers)
    table = prepare.rehearsed(steps, config, task.teachers, real, task.size, task.device)
    needed = real if steps or config.needs().real_images else None
    epochs = config.needs().expert_epochs
    experts = None if config.needs().snapshots == "none" else ExpertsByChance(1 + max(1, epochs), str(task.device))
    return dataclasses.replace(task, real=needed, table=table, experts=experts)


def config_of(module: Any, **values: Any) -> Any:
    """The method's own defaults, with few iterations where it has some."""
    few = {name: count for name, count in FEW.items() if name in module.Config.model_fields}
    return module.Config.of({"ipc": 2} | few | values, "the test")


@pytest.fixture(params=plugin.names_in("attar.methods"))
def module(request: pytest.FixtureRequest) -> Any:
    return plugin.resolve("attar.methods", request.param, "method")


def test_it_says_what_it_is_and_what_it_needs(module: Any):
    assert module.__doc__
    assert module.recover.__doc__
    assert issubclass(module.Config, MethodConfig)
    assert module.Config.__doc__ != MethodConfig.__doc__
    assert isinstance(config_of(module).needs(), Needs)


def test_every_choice_is_documented_and_survives_being_written_down(module: Any):
    for name, field in module.Config.model_fields.items():
        assert field.description, f"{name} has no docstring"
    config = config_of(module)
    assert module.Config.of(config.plain(), "there") == config


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_makes_images(module: Any, teacher: str, device: str, precision: str):
    task, monitor = task_of(module, teacher=teacher, device=device, precision=precision)
    config = config_of(module)
    recovered = module.recover(task, config)
    assert isinstance(recovered, Recovered)
    images = recovered.images
    assert images.shape == (NUM_CLASSES, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.device.type == device
    assert not images.requires_grad
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1
    assert len(images.flatten(1).unique(dim=0)) == NUM_CLASSES
    assert monitor.iterations == list(range(getattr(config, "iterations", 0)))
    assert monitor.shapes <= {images.shape}
    for metrics in monitor.metrics:
        assert metrics
        assert all(bool(torch.as_tensor(value).isfinite()) for value in metrics.values())


def switches(module: Any) -> list[dict[str, Any]]:
    """Choices in which every value occurs that a setting can have, of the method's settings that have a few values."""
    options: dict[str, tuple[Any, ...]] = {}
    for name, field in module.Config.model_fields.items():
        kinds = [field.annotation, *(each for each in get_args(field.annotation) if each is not Ellipsis)]
        values = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        if get_origin(field.annotation) is tuple:
            values = tuple((value,) for value in values if value != "tokens")  # of which these teachers have none
        values = (True, False) if field.annotation is bool else values
        if values and name not in MethodConfig.model_fields:
            options[name] = values
    count = max(map(len, options.values()), default=0)
    return [{name: values[place % len(values)] for name, values in options.items()} for place in range(count)]


def test_it_makes_images_with_every_switch(module: Any):
    """By two teachers, of which the settings say who is asked when."""
    tried = set[str]()
    for values in switches(module):
        config = config_of(module, **values)
        task, _ = task_of(module)
        task = dataclasses.replace(task, teachers=task.teachers + task_of(module)[0].teachers)
        images = module.recover(prepared(module, task, config), config).images
        assert images.shape == (NUM_CLASSES, 3, 8, 8), values
        assert bool(images.isfinite().all()), values
        assert 0 <= images.min() <= images.max() <= 1, values
        tried |= values.keys()
    assert tried <= module.Config.model_fields.keys() - MethodConfig.model_fields.keys()
    assert ("committee" in tried) == ("committee" in module.Config.model_fields)


def test_its_cost_is_what_it_does(module: Any):
    """Iteration by iteration, and a stretch is left when the monitor says so."""
    config = config_of(module)
    task, monitor = task_of(module)
    stretches = config.cost(shape_of(task))
    step, left = monitor.step, list[int]()

    def leave(iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> bool:
        step(iteration, images, **metrics)
        left.append(iteration)
        return True

    monitor.step = leave  # type: ignore[method-assign]
    module.recover(task, config)
    ends = [sum(stretch.iterations for stretch in stretches[:place]) for place in range(len(stretches))]
    assert left == ends
    for metrics in monitor.metrics:
        assert metrics.keys() == set(config.metrics())


# Tracing takes seconds. These methods share their loop and most of their terms with edc or dm.
TRACED_SLOWLY = ("attar", "cda", "cim", "cvdd", "delt", "dwa", "fadrm", "gvbsm", "lpld", "ncfm", "sre2l")


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in TRACED_SLOWLY else [])
        for name in plugin.names_in("attar.methods")
    ],
    indirect=True,
)
def test_what_it_compiles_is_one_graph(module: Any, monkeypatch: pytest.MonkeyPatch):
    """A break in the graph is silent, and costs kernels and launches; the eager backend traces without compiling."""
    real, traced = torch.compile, list[Any]()

    def one_graph(function: Any, *, dynamic: bool, options: dict[str, Any]) -> Any:
        traced.append(function)
        return real(function, backend="eager", dynamic=dynamic, fullgraph=True)

    monkeypatch.setattr(torch, "compile", one_graph)
    torch._dynamo.reset()
    task, monitor = task_of(module)
    warnings = list[str]()
    compiler = Compiler("on", warn=warnings.append)
    networks = tuple(dataclasses.replace(network, compiler=compiler) for network in task.teachers)
    module.recover(dataclasses.replace(task, teachers=networks), config_of(module))
    assert warnings == []
    twice = config_of(module).needs().snapshots == "epochs"  # a compiled function has no second derivative
    assert bool(traced) == (bool(monitor.iterations) and not twice)


def test_the_same_task_gives_the_same_bits_and_another_seed_others(module: Any):
    """A method that draws nothing gives the same with every seed."""
    draws: list[tuple[Any, ...]] = []

    def made(seed: int) -> Tensor:
        task, _ = task_of(module, seed)
        spied = [
            lambda *names, give=give: (draws.append(names), give(*names))[1]
            for give in (task.streams, task.shared_stream)
        ]
        return module.recover(
            dataclasses.replace(task, streams=spied[0], shared_stream=spied[1]), config_of(module)
        ).images

    first, again, other = map(made, (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (not draws)


def test_every_slot_is_another_image(module: Any):
    slots = [module.recover(task_of(module, slot=slot)[0], config_of(module)).images for slot in range(2)]
    for label in range(NUM_CLASSES):
        assert not torch.equal(slots[0][label], slots[1][label])


def test_an_image_of_a_set_that_grows_does_not_depend_on_its_size(module: Any):
    """Otherwise a set that grew would differ from one that was made at once."""
    if not config_of(module).grows():
        pytest.skip("sets of this method do not grow")
    small, large = config_of(module), config_of(module, ipc=3)
    images = [
        module.recover(prepared(module, task_of(module, slot=1)[0], config), config).images for config in (small, large)
    ]
    assert torch.equal(*images)


def test_no_global_random_state_is_touched(module: Any):
    def states() -> tuple[list[int], str, Any]:
        return torch.random.get_rng_state().tolist(), str(np.random.get_state()), python_random.getstate()

    task, _ = task_of(module)
    before = states()
    module.recover(task, config_of(module))
    assert states() == before


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_teacher_is_left_as_it_was(module: Any, teacher: str):
    task, _ = task_of(module, teacher=teacher)
    network = task.teachers[0].module
    before = {name: value.clone() for name, value in network.state_dict().items()}
    module.recover(task, config_of(module))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(layer.training for layer in network.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def drawn(slot: int, ipc: int) -> list[tuple[int, int]]:
    """Class and index of the real images that the random method takes for a slot, byte for byte."""
    images = random_images.recover(task_of(random_images, slot=slot)[0], random_images.Config(ipc=ipc)).images
    records = [(int(label), int(index)) for label, index in to_bytes(images)[:, :2, 0, 0]]
    assert torch.equal(
        images, from_bytes(torch.cat([RealByFormula().take(label, [index]) for label, index in records]))
    )
    return records


def test_random_takes_every_image_of_a_class_once():
    taken = [record for slot in range(NUM_REAL - 2) for record in drawn(slot, NUM_REAL - 2)]
    assert [label for label, _ in taken[:NUM_CLASSES]] == list(range(NUM_CLASSES))
    for label in range(NUM_CLASSES):
        indices = [index for own, index in taken if own == label]
        assert len(set(indices)) == len(indices) == NUM_REAL - 2
        assert indices != sorted(indices)
    assert sorted(index for label, index in taken if label == 2) == list(range(NUM_REAL - 2))


def test_random_with_more_images_per_class_begins_with_the_same():
    assert drawn(1, 2) == drawn(1, 9)


def test_random_refuses_more_images_than_a_class_has():
    with pytest.raises(AttarError, match=r"Class 'cat' has 10 training images but 11 are needed; .*--recover.ipc 10"):
        drawn(0, 11)
