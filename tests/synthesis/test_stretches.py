"""The loop in several stretches, by several teachers, killed and continued; starts from patches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import fadrm
from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation
from attar.synthesis import starts
from attar.synthesis.choices import Patches, Teachers
from attar.synthesis.committee import Share, committee_of
from attar.synthesis.method import Needs, Part, Stretch, UnitShape
from attar.synthesis.optimise import optimise
from attar.synthesis.stretch_choices import EarlyLate
from attar.synthesis.stretches import Residual, between_of
from attar.synthesis.task import Context, Network, Task
from attar.synthesis.terms import CrossEntropy, PerUnit, Seen, State, Stateless, UnitBatch
from attar.synthesis.views import Whole
from formula import Curves

NORMALISATION = Normalisation((0.49, 0.45, 0.40), (0.20, 0.25, 0.30))
SIDE, NUM_CLASSES = 16, 3


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet(8, NUM_CLASSES).eval().requires_grad_(False)


def task_of(num_teachers: int = 1, num_slots: int = 1, num_units: int = 1) -> tuple[Task, Curves]:
    notes, count = Curves(), NUM_CLASSES * num_slots
    task = Task(
        labels=torch.arange(NUM_CLASSES).repeat(num_slots * num_units),
        slots=torch.arange(num_slots).repeat_interleave(NUM_CLASSES).repeat(num_units),
        size=(SIDE, SIDE),
        teachers=tuple(Network(network(seed), NORMALISATION) for seed in range(num_teachers)),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, str(unit), *names) for unit in range(num_units)),
        shared_stream=lambda *names: generator(0, *names),
        monitor=notes,
        unit_sizes=(count,) * num_units,
    )
    return task, notes


@dataclasses.dataclass(frozen=True)
class Drift(Stateless):
    """Distance from a moving average of the images' brightness: a term with a state."""

    name = "drift"

    def begin(self, task: Task, teacher: int, observed: Any) -> State:
        return {"average": torch.zeros(len(task.unit_sizes))}

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        now = batch.average @ seen.images.mean((1, 2, 3))
        return (now - state["average"]).square(), {"average": 0.9 * state["average"] + 0.1 * now}


def start_of(task: Task) -> Tensor:
    return starts.noise(task)


def config_of(**values: Any) -> fadrm.Config:
    fixed = {"iterations": 8, "learning_rate": 0.1, "start": "noise", "ipc": 4}
    return fadrm.Config.of(fixed | values, "the test")


@pytest.mark.parametrize("antialias", [False, True])
def test_between_blocks_half_of_the_start_is_put_back(antialias: bool):
    """With a step of nothing, an image is the start resized there and back, and half of the start again."""
    config = config_of(iterations=2, block_sizes=(0.5, 1.0), learning_rate=1e-12, residual=0.25, antialias=antialias)
    task, notes = task_of()
    start = NORMALISATION.apply(torch.rand(NUM_CLASSES, 3, SIDE, SIDE, generator=generator(1)))
    between = between_of(config)
    assert between == Residual(0.25, antialias)
    images = optimise(task, config, start, Whole(), (CrossEntropy(),), between=between)
    small = F.interpolate(start, (8, 8), mode="bilinear", antialias=antialias)
    expected = 0.75 * F.interpolate(small, (SIDE, SIDE), mode="bilinear") + 0.25 * start
    torch.testing.assert_close(images, NORMALISATION.undo(expected), atol=1e-5, rtol=0)
    assert {kept.shape for kept in notes.images} == {images.shape}


def test_the_optimiser_begins_anew_at_each_block_and_its_rate_falls_on():
    """One block is the plain loop; in two, the first step of the second has the size of Adam's first step."""
    task, notes = task_of()
    config = config_of(block_sizes=(1.0, 1.0), residual=0.0)
    optimise(task, config, start_of(task), Whole(), (CrossEntropy(),), between=Residual(0.0))
    moved = [(after - before).abs().max() for before, after in zip(notes.images, notes.images[1:], strict=False)]
    rate = 0.1 * (1 + torch.cos(torch.tensor(torch.pi * 4 / 8))) / 2 * max(NORMALISATION.std)
    assert moved[3].item() == pytest.approx(rate.item(), rel=1e-3)


@pytest.mark.parametrize("policy", ["round-robin", "random", "mean"])
def test_teachers_take_turns(policy: str):
    config = config_of(committee=policy)
    task, notes = task_of(3)
    optimise(task, config, start_of(task), Whole(), (CrossEntropy(),), teachers=committee_of(task, config))
    before = [start_of(task), *(NORMALISATION.apply(images) for images in notes.images)]
    for iteration, loss in enumerate(notes.losses):
        each = [F.cross_entropy(one.module(before[iteration]), task.labels) for one in task.teachers]
        near = [number for number, own in enumerate(each) if abs(float(own - loss)) < 1e-4]
        if policy == "mean":
            assert float(sum(each)) / 3 == pytest.approx(float(loss), rel=1e-4)
        else:
            assert len(near) == 1
            assert policy == "random" or near == [iteration % 3]


class Pairs:
    """Unit 0 by teacher 0, unit 1 by teachers 0 and 1 in the ratio of 3 to 1."""

    def turn(self, iteration: int) -> tuple[Share, ...]:
        return (
            Share(0, torch.tensor([0, 1]), torch.tensor([1.0, 0.75])),
            Share(1, torch.tensor([1]), torch.tensor([0.25])),
        )


def test_each_unit_may_have_teachers_of_its_own():
    task, notes = task_of(2, num_units=2)
    optimise(task, config_of(), start_of(task), Whole(), (CrossEntropy(), Drift()), teachers=Pairs())
    halves = start_of(task).chunk(2)
    first, second = (one.module for one in task.teachers)
    classes = torch.arange(NUM_CLASSES)
    drift = [half.mean() ** 2 for half in halves]
    expected = [
        F.cross_entropy(first(halves[0]), classes) + drift[0],
        0.75 * F.cross_entropy(first(halves[1]), classes)
        + 0.25 * F.cross_entropy(second(halves[1]), classes)
        + drift[1],
    ]
    torch.testing.assert_close(notes.losses[0], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_slots_join_one_group_after_the_other():
    config = EarlyLate(iterations=9, rounds=3, round_iterations=3, learning_rate=0.1, ipc=4)
    stretches = config.cost(UnitShape(NUM_CLASSES, 4, SIDE))
    assert [(each.iterations, each.slots) for each in stretches] == [(3, 2), (3, 3), (3, 4)]
    task, notes = task_of(num_slots=4)
    optimise(task, config, start_of(task), Whole(), (CrossEntropy(), Drift()))
    start = NORMALISATION.undo(start_of(task))
    for iteration, images in enumerate(notes.images):
        joined = (2, 3, 4)[iteration // 3] * NUM_CLASSES
        away = (images - start).abs().amax((1, 2, 3))
        assert (away[:joined] > 1e-3).all()
        assert (away[joined:] < 1e-6).all()


class Killed(Exception):  # noqa: N818
    pass


class Saved:
    """A checkpoint that is always saved, and ends the work after so many iterations."""

    def __init__(self, kill_after: int) -> None:
        self.kill_after, self.found = kill_after, None

    def load(self) -> Any:
        return self.found

    def offer(self, iterations: int, state: Callable[[], State]) -> None:
        if iterations == self.kill_after:
            self.found, self.kill_after = (iterations, state()), 0
            raise Killed


LOOPS: dict[str, Callable[[Task], Tensor]] = {
    "blocks": lambda task: optimise(
        task, config_of(block_sizes=(0.5, 1.0), keep="best", committee="round-robin"),
        start_of(task), fadrm_views(task), (CrossEntropy(), Drift()), between=Residual(0.5),
        teachers=committee_of(task, config_of(committee="round-robin")),
    ),
    "early-late": lambda task: optimise(
        task, EarlyLate(iterations=8, rounds=2, round_iterations=4, learning_rate=0.1, ipc=4),
        start_of(task), fadrm_views(task), (CrossEntropy(), Drift()),
    ),
}  # fmt: skip


def fadrm_views(task: Task) -> Any:
    from attar.synthesis.views import views_of

    return views_of(task, config_of(jitter=2))


@pytest.mark.parametrize("after", [1, 4, 6])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_unit_that_is_killed_and_continued_equals_one_that_is_not(loop: str, after: int):
    whole = LOOPS[loop](task_of(2, num_slots=2)[0])
    saved = Saved(after)
    with pytest.raises(Killed):
        LOOPS[loop](dataclasses.replace(task_of(2, num_slots=2)[0], checkpoint=saved))
    task, notes = task_of(2, num_slots=2)
    assert torch.equal(LOOPS[loop](dataclasses.replace(task, checkpoint=saved)), whole)
    assert len(notes.losses) == 8 - after


class RealByNumber:
    """Images of one grey value each: tenths of the class and hundredths of the place."""

    num_classes = NUM_CLASSES

    def count(self, label: int) -> int:
        return 9

    def take(self, label: int, indices: Any) -> Tensor:
        values = torch.tensor([25 * label + index for index in indices], dtype=torch.uint8)
        return values[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()

    def class_name(self, label: int) -> str:
        return f"class {label}"


class Brightest(nn.Module):
    """Takes everything for class 0, the surer the brighter it is."""

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3))
        return torch.stack([light, 0 * light, 0 * light], 1)


@pytest.mark.parametrize(
    ("rule", "order"), [("lowest", [8, 7, 6, 5]), ("medium", [4, 5, 3, 6]), ("highest", [0, 1, 2, 3])]
)
def test_patches_are_ranked_by_what_the_teacher_makes_of_them(rule: str, order: list[int]):
    config = Patches(patch_rule=rule, tiles=2, ipc=1)  # type: ignore[arg-type]
    scoring, real = Network(Brightest(), NORMALISATION), RealByNumber()
    context = Context(
        range(1), scoring, 0, real, (SIDE, SIDE), torch.device("cpu"), lambda *names: generator(0, *names)
    )  # fmt: skip
    tables = starts.ranked(context, config)
    assert tables["place"][0, :4].tolist() == order
    assert (tables["place"][0, 9:] == -1).all()
    task = dataclasses.replace(task_of()[0], labels=torch.tensor([0]), slots=torch.tensor([0]), unit_sizes=(1,))
    task = dataclasses.replace(task, real=real, table=lambda name, teacher=0: tables[name.removeprefix("patches.")])
    image = starts.patches(task, config)[0]
    corners = [int(image[0, row, column] * 255 + 0.5) for row in (2, 12) for column in (2, 12)]
    assert corners == order
    with pytest.raises(AttarError, match=r"'class 0' has 9 patches, .* and 12 are needed; lower --recover.ipc"):
        starts.patches(dataclasses.replace(task, slots=torch.tensor([2])), Patches(tiles=2, ipc=3))
    with pytest.raises(AttarError, match=r"'class 0' has 9 patches, .* and 12 are needed; lower --recover.ipc"):
        starts.patches(task, Patches(tiles=2, ipc=3, tile_ranks="spread"))
    spread = [starts.ranks_of(slot, Patches(tiles=2, ipc=2, tile_ranks="spread")) for slot in range(2)]
    assert list(map(list, spread)) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    two = dataclasses.replace(task, labels=torch.tensor([0, 0]), slots=torch.tensor([0, 1]), unit_sizes=(2,))
    images = starts.patches(two, Patches(patch_rule=rule, tiles=2, ipc=2, tile_ranks="spread"))  # type: ignore[arg-type]
    numbers = tables["place"][0].tolist()
    for image, ranks in zip(images, spread, strict=True):
        corners = [int(image[0, row, column] * 255 + 0.5) for row in (2, 12) for column in (2, 12)]
        assert corners == [numbers[rank] for rank in ranks]


def test_a_set_of_patches_grows_unless_their_ranks_are_spread_over_it():
    spread = Patches(tiles=2, tile_ranks="spread")
    assert not spread.grows()
    assert spread.changed(tiles=1).grows()
    assert spread.changed(tile_ranks="next").grows()


def test_parts_of_one_field_name_are_refused_and_defaults_keep_what_a_field_says():
    class Left(Part):
        side: int = 1

    class Right(Part):
        side: int = 2

    with pytest.raises(TypeError, match=r"Right and .*Left both define 'side'"):
        type("Both", (Left, Right), {})
    found = fadrm.Config.model_fields["iterations"]
    assert (found.default, fadrm.Config().iterations) == (2000, 2000)
    assert found.description
    with pytest.raises(AttarError, match="iterations must be greater than or equal to 1"):
        fadrm.Config.of({"iterations": 0}, "the test")
    with pytest.raises(TypeError, match="no field 'stp'"):

        class Wrong(Teachers, defaults={"stp": 1}):
            pass


def test_needs_add_up_and_members_are_chosen():
    both = Needs(unit="class") | Needs(teachers="several", real_images=True)
    assert both == Needs("several", unit="class", real_images=True)
    assert not (Needs(side_by_side=False) | Needs()).side_by_side
    assert fadrm.Config().needs().stores_real_pixels
    assert not config_of().needs().real_images
    assert Teachers().members_of(3) == (0,)
    assert Teachers(members=(2, 1)).members_of(3) == (2,)
    assert Teachers(committee="mean").members_of(3) == (0, 1, 2)
    with pytest.raises(AttarError, match="names teacher 3, but the run has teachers 0 to 1"):
        Teachers(members=(3,)).members_of(2)
    assert config_of(committee="round-robin").cost(UnitShape(3, 1, 16, 4))[0] == Stretch(2, teachers=(0.25,) * 4)
