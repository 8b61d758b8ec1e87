"""Progressive resolution: the sizes at which synthesis/optimise.py shows the images to the teacher."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from attar.core.compiling import Amount, Compiler
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import cda
from attar.models.small import ConvNet, SmallResNet
from attar.ops.pixels import Normalisation
from attar.ops.views import View
from attar.synthesis.optimise import optimise
from attar.synthesis.starts import noise
from attar.synthesis.statistics import statistics_of
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy
from attar.synthesis.views import Views, Whole, views_of

NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NUM_CLASSES, HEIGHT, WIDTH = 4, 32, 20


class Sizes(nn.Module):
    """A teacher that notes the images it is shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.shown: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sizes":
        return self  # the loop works on a copy, whose notes could not be read

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        return self.inner(images)

    def while_optimising(self) -> list[Tensor]:
        """Without the images that the loop tries the teacher with."""
        return [images for images in self.shown if images.any()]


class Iterates:
    """A monitor that keeps every iteration's loss and images."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images: list[Tensor] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        self.losses.append(float(metrics["loss"]))
        self.images.append(images().clone())


def small_resnet() -> nn.Module:
    return SmallResNet(8, NUM_CLASSES)


def seeing(build: Callable[[], nn.Module] = small_resnet) -> Sizes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Sizes(build()).eval()


def task_of(network: nn.Module, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[Task, Iterates]:
    monitor = Iterates()
    task = Task(
        labels=torch.arange(NUM_CLASSES),
        slots=torch.zeros(NUM_CLASSES, dtype=torch.int64),
        size=size,
        teachers=(Network(network, NORMALISATION),),
        device=torch.device("cpu"),
        streams=lambda *names: (generator(0, "unit", *names),),
        shared_stream=lambda *names: generator(0, *names),
        monitor=monitor,
        unit_sizes=(NUM_CLASSES,),
    )
    return task, monitor


def config_of(**values: Any) -> cda.Config:
    fixed = {"iterations": 6, "learning_rate": 0.1, "jitter": 4, "bn_weight": 0.05, "ipc": 1}
    return cda.Config.of(fixed | values, "the test")


def inverted(task: Task, config: cda.Config, start: Tensor, views: Views | None = None) -> Tensor:
    """The loop with SRe2L's loss; the images as they are, where no views are given."""
    return optimise(task, config, start, views or Whole(), (CrossEntropy(), statistics_of(task, config)))


class Fixed(Whole):
    """The same view in every iteration."""

    def __init__(self, view: View) -> None:
        self.view = view

    def draw(self, iteration: int, pixels: tuple[int, int], shown: tuple[int, int]) -> tuple[Tensor, ...]:
        return self.view.scaled(pixels, shown).parts()


@pytest.mark.parametrize("views", ["crops", "still"])
@pytest.mark.parametrize(
    ("view_sizes", "iterations", "expected"),
    [
        ((1.0,), 2, [(32, 20)] * 2),
        ((0.5, 1.0), 6, [(16, 10)] * 3 + [(32, 20)] * 3),
        ((0.893, 1.0, 0.893, 1.0), 4, [(29, 18), (32, 20)] * 2),
        ((1.0, 0.75, 0.5), 4, [(32, 20), (32, 20), (24, 15), (16, 10)]),
        ((0.4,), 2, [(13, 8)] * 2),
    ],
)
def test_the_teacher_is_shown_the_sizes_of_the_schedule(view_sizes, iterations, expected, views: str):
    network = seeing()
    task, monitor = task_of(network)
    config = config_of(view_sizes=view_sizes, iterations=iterations)
    images = inverted(task, config, noise(task), views_of(task, config) if views == "crops" else None)
    assert [tuple(shown.shape[-2:]) for shown in network.while_optimising()] == expected
    assert {kept.shape for kept in [images, *monitor.images]} == {(NUM_CLASSES, 3, HEIGHT, WIDTH)}


def test_fadrms_sizes_are_200_and_224_pixels():
    network = seeing(lambda: ConvNet(3, NUM_CLASSES, 8, width=4))
    task, _ = task_of(network, (224, 224))
    inverted(task, config_of(view_sizes=(0.893, 1.0, 0.893, 1.0), iterations=4), noise(task))
    assert [shown.shape[-1] for shown in network.while_optimising()] == [200, 224, 200, 224]


def test_what_is_shown_smaller_is_the_view_resized_by_torchvision():
    network = seeing()
    task, _ = task_of(network)
    start = noise(task)
    inverted(task, config_of(view_sizes=(0.5,), iterations=1), start)
    whole = tv.resize(start, [16, 10], antialias=True)
    torch.testing.assert_close(network.while_optimising()[0], whole, atol=1e-4, rtol=0)

    view = View(torch.tensor([[3, 1, 28, 16]]), torch.tensor([True]), torch.tensor([[4, 6]]))
    inverted(task, config_of(view_sizes=(0.5,), iterations=1), start, Fixed(view))
    crop = tv.resized_crop(start, 3, 1, 28, 16, size=[16, 10], antialias=True)
    expected = torch.roll(crop.flip(-1), (2, 3), dims=(-2, -1))
    torch.testing.assert_close(network.while_optimising()[1], expected, atol=1e-4, rtol=0)


def test_the_crops_are_the_same_whatever_the_sizes():
    drawn = []
    for view_sizes in ((1.0,), (0.5, 1.0)):
        task, _ = task_of(seeing())
        config = config_of(view_sizes=view_sizes)
        views = views_of(task, config)
        drawn.append([views.draw(iteration, task.size, task.size) for iteration in range(6)])
    for first, second in zip(*drawn, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("view_sizes", [(1.0, 1.0), (1.0, 1.0, 1.0)])
def test_blocks_of_whole_views_are_the_loop_as_it_is_without_them(view_sizes: tuple[float, ...]):
    (plain, first), (blocks, second) = task_of(seeing()), task_of(seeing())
    assert config_of().view_sizes == (1.0,)
    images = cda.recover(plain, config_of()).images
    assert torch.equal(images, cda.recover(blocks, config_of(view_sizes=view_sizes)).images)
    assert first.losses == second.losses


def test_every_pixel_is_optimised_by_smaller_views():
    task, monitor = task_of(seeing())
    start = NORMALISATION.apply(torch.rand(NUM_CLASSES, 3, HEIGHT, WIDTH, generator=generator(0)) * 0.6 + 0.2)
    inverted(task, config_of(view_sizes=(0.5,), iterations=1, learning_rate=0.01), start)
    moved = (monitor.images[0] - NORMALISATION.undo(start)).abs()
    assert (moved > 1e-4).float().mean() > 0.99


class Unsure(nn.Module):
    """A teacher that is never sure of what it sees at one width, so that losses are high there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.width = small_resnet(), width

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * (0.01 if images.shape[-1] == self.width else 1.0)


@pytest.mark.parametrize(
    ("view_sizes", "last_width"), [((0.5, 1.0), 20), ((1.0, 0.5), 10), ((0.5, 1.0, 0.5), 10), ((1.0, 0.5, 1.0), 20)]
)
def test_best_is_chosen_among_iterates_shown_at_the_last_blocks_size(view_sizes: tuple[float, ...], last_width: int):
    network = seeing(lambda: Unsure(last_width))
    task, monitor = task_of(network)
    config = config_of(view_sizes=view_sizes, iterations=12, keep="best", bn_weight=0)
    best = inverted(task, config, noise(task), views_of(task, config))
    sizes = [shown.shape[-1] for shown in network.while_optimising()]
    candidates = [iteration for iteration in range(12) if sizes[iteration] == last_width]
    lowest = min(candidates, key=monitor.losses.__getitem__)
    assert min(monitor.losses) < monitor.losses[lowest], "losses at the other size were to be lower"
    before = monitor.images[lowest - 1] if lowest else NORMALISATION.undo(noise(task)).clamp(0, 1)
    torch.testing.assert_close(best, before, atol=1e-6, rtol=0)


def test_grey_images_are_shown_smaller_too():
    network = seeing()
    task, _ = task_of(network)
    images = inverted(task, config_of(view_sizes=(0.5,), grey=True), noise(task))
    assert torch.equal(images[:, 0], images[:, 1])
    assert {tuple(shown.shape[1:]) for shown in network.while_optimising()} == {(3, 16, 10)}


class Asked(Compiler):
    """A compiler that compiles nothing and notes the work it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.amounts: list[Amount] = []

    def __call__(
        self, use: Any, function: Any, amount: Amount | float, narrow: bool = False, what: str = ""
    ) -> Callable[..., Any]:
        assert isinstance(amount, Amount)
        self.amounts.append(amount)
        return super().__call__(use, function, amount, narrow, what)


def test_the_compiler_is_told_the_work_at_each_size():
    """In proportion to area and iterations: 4 of 10 iterations at a quarter of the area, once whatever the blocks."""
    asked = {}
    for view_sizes in ((1.0,), (0.5, 1.0, 0.5, 1.0, 1.0)):
        task, _ = task_of(seeing())
        compiler = Asked()
        task = replace(task, teachers=(replace(task.teachers[0], compiler=compiler),), num_alike=3)
        for _ in range(2):
            inverted(task, config_of(view_sizes=view_sizes, iterations=10), noise(task))
        asked[view_sizes] = compiler.amounts
    (whole,), (small, large) = asked.values()
    for kind in ("operations", "values"):
        assert getattr(small, kind) == pytest.approx(getattr(whole, kind) * 4 / 10 / 4)
        assert getattr(large, kind) == pytest.approx(getattr(whole, kind) * 6 / 10)
    assert [amount.num_calls for amount in (whole, small, large)] == [3 * 10, 3 * 4, 3 * 6]
    assert whole.num_layers == small.num_layers == large.num_layers > 0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"view_sizes": ()}, "the test: view_sizes is empty; give at least one size, such as 1.0 for full size."),
        (
            {"view_sizes": (0.5, 1.0, 1.0), "iterations": 2},
            "the test: view_sizes has 3 sizes for 2 iterations; each size needs at least one iteration.",
        ),
        ({"view_sizes": (0.0, 1.0)}, r"the test: view_sizes\.0 must be greater than 0, not 0\.0\."),
        (
            {"view_sizes": (1.0, 1.5)},
            r"the test: view_sizes\.1 must be less than or equal to 1, not 1\.5\.",
        ),
    ],
)
def test_schedules_that_mean_nothing_are_refused(values: dict[str, Any], sentence: str):
    with pytest.raises(AttarError, match=f"^{sentence}$"):
        config_of(**values)
    assert config_of(view_sizes=(0.5, 1.0), iterations=2).view_sizes == (0.5, 1.0)


def test_views_too_small_to_see_are_refused_before_anything_is_done():
    task, monitor = task_of(seeing())
    with pytest.raises(AttarError, match=r"Views at 0\.35 of 32 x 20 pixels are 11 x 7, too small .* below 8"):
        inverted(task, config_of(view_sizes=(1.0, 0.35)), noise(task))
    assert not monitor.losses


def test_small_images_may_be_shown_whole():
    task, monitor = task_of(seeing(), (6, 6))
    inverted(task, config_of(), noise(task))
    assert len(monitor.losses) == 6


class Strict(nn.Module):
    """A teacher that takes one size only, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_resnet()

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-1] == WIDTH, f"Input width ({images.shape[-1]}) does not match the model's ({WIDTH})."
        return self.inner(images)


def test_a_teacher_that_takes_one_size_only_is_reported_before_the_first_iteration():
    task, monitor = task_of(seeing(Strict))
    with pytest.raises(AttarError, match=r"cannot be shown 16 x 10 pixels \(Input width \(10\) does not match"):
        inverted(task, config_of(view_sizes=(1.0, 0.5)), noise(task))
    assert not monitor.losses
