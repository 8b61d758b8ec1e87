"""ops/dsa.py: every augmentation against its plain formula, gradients, and draws that can be stored and replayed."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.ops import dsa
from attar.ops.choices import AUGMENTATIONS

SIDE = 12
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, side: int = SIDE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=stream(9), dtype=dtype)


def one(kind: str, *values: int) -> Tensor:
    """The neutral draw with these levels of one kind."""
    levels = torch.zeros(1, dsa.NUM_LEVELS, dtype=torch.int8)
    levels[:, 5:7] = dsa.UNCUT
    levels[:, dsa._COLUMNS[kind]] = torch.tensor(values, dtype=torch.int8)
    return levels


def test_colour_is_brightness_then_saturation_then_contrast():
    images = pictures()
    expected = images + 0.5 * 50 / 127
    grey = expected.mean(1, keepdim=True)
    expected = (expected - grey) * (1 - 100 / 127) + grey
    mean = expected.mean((1, 2, 3), keepdim=True)
    expected = (expected - mean) * (1 + 0.5 * 127 / 127) + mean
    torch.testing.assert_close(dsa.apply(images, one("colour", 50, -100, 127), ["colour"]), expected)


@pytest.mark.parametrize(("level", "pixels"), [(0, 0), (127, 2), (-127, -2), (50, 1)])
def test_a_crop_is_a_shift_by_whole_pixels_with_zeros_at_the_edge(level: int, pixels: int):
    """An eighth of 12 pixels, rounded, is 2."""
    images = pictures()
    shown = dsa.apply(images, one("crop", 0, level), ["crop"])
    padded = F.pad(images, (2, 2, 0, 0))
    assert torch.equal(shown, padded[..., 2 + pixels : 2 + pixels + SIDE])
    down = dsa.apply(images, one("crop", level, 0), ["crop"])
    assert torch.equal(down, F.pad(images, (0, 0, 2, 2))[..., 2 + pixels : 2 + pixels + SIDE, :])


def test_every_shift_of_a_crop_is_as_likely_as_another():
    levels = dsa.sample(["crop"], "all", 20_000, stream())
    shifts = dsa._step(levels[:, 3].double(), 5)
    assert shifts.unique().tolist() == [0, 1, 2, 3, 4]
    assert all(abs(int((shifts == each).sum()) - 4000) < 200 for each in range(5))


def test_a_cutout_is_a_square_of_half_the_side_that_may_lie_across_the_edge():
    images, seen = pictures() + 10, set()
    for level in range(-127, 128):
        shown = dsa.apply(images, one("cutout", level, 0), ["cutout"])
        gone = (shown == 0).all(1)[0]
        rows = gone.any(1).nonzero()[:, 0].tolist()
        columns = gone.any(0).nonzero()[:, 0].tolist()
        assert columns == list(range(3, 9))
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert int(gone.sum()) == len(rows) * len(columns)
        assert torch.equal(shown[:, :, ~gone], images[:, :, ~gone])
        seen.add((rows[0], rows[-1]))
    assert seen == {(max(0, centre - 3), min(SIDE - 1, centre + 2)) for centre in range(SIDE + 1)}


def test_a_flip_mirrors_and_half_of_the_draws_have_one():
    images = pictures()
    assert torch.equal(dsa.apply(images, one("flip", 1), ["flip"]), images.flip(3))
    assert torch.equal(dsa.apply(images, one("flip", 0), ["flip"]), images)
    assert 0.45 < dsa.sample(["flip"], "all", 2000, stream())[:, 7].float().mean() < 0.55


@pytest.mark.parametrize("levels", [(127, -127), (0, 60), (-90, 0)])
def test_a_scale_is_that_of_grid_sample(levels: tuple[int, int]):
    images = pictures()
    down, across = (1.2 ** (level / 127) for level in levels)
    theta = torch.tensor([[across, 0, 0], [0, down, 0]], dtype=torch.float64).expand(len(images), 2, 3)
    expected = F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
    torch.testing.assert_close(dsa.apply(images, one("scale", *levels), ["scale"]), expected)


def test_scales_are_uniform_from_the_least_to_the_greatest():
    scales = 1.2 ** (dsa.sample(["scale"], "all", 20_000, stream())[:, 8].double() / 127)
    assert scales.min() == pytest.approx(1 / 1.2)
    assert scales.max() == pytest.approx(1.2)
    assert scales.mean() == pytest.approx((1.2 + 1 / 1.2) / 2, abs=3e-3)


@pytest.mark.parametrize("level", [0, 40, 127, -127])
@pytest.mark.parametrize("side", [12, 13])
def test_a_rotation_and_its_gradient_are_those_of_grid_sample(level: int, side: int):
    angle = math.radians(15) * level / 127
    theta = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    images = pictures(side=side).requires_grad_()
    grid = F.affine_grid(torch.tensor([theta], dtype=torch.float64).expand(6, 2, 3), [6, 3, side, side], False)
    expected = F.grid_sample(images, grid, align_corners=False)
    weights = torch.randn(expected.shape, generator=stream(3), dtype=torch.float64)
    (slope,) = torch.autograd.grad((expected * weights).sum(), images)
    shown = dsa.apply(images, one("rotate", level), ["rotate"])
    torch.testing.assert_close(shown, expected)
    torch.testing.assert_close(torch.autograd.grad((shown * weights).sum(), images)[0], slope)


@pytest.mark.parametrize("degrees", [0.0, 31.0, 45.0, 90.0, 200.0])
def test_the_gradient_of_a_rotation_by_any_angle_is_its_transpose(degrees: float):
    images, weights = pictures(side=9), torch.randn(6, 3, 9, 9, generator=stream(3), dtype=torch.float64)
    angle = torch.full((6,), math.radians(degrees), dtype=torch.float64)
    turned = dsa.rotate(images.requires_grad_(), angle)
    (slope,) = torch.autograd.grad((turned * weights).sum(), images)
    pixels = torch.eye(81, dtype=torch.float64).view(81, 1, 9, 9)
    matrix = dsa.rotate(pixels, angle[:1]).flatten(1).T
    torch.testing.assert_close(slope.flatten(2), weights.flatten(2) @ matrix)


@pytest.mark.parametrize("kinds", [*([kind] for kind in AUGMENTATIONS), list(AUGMENTATIONS)], ids="-".join)
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_are_those_of_finite_differences_and_twice_differentiable(kinds: list[str], shared: bool):
    levels = dsa.sample(kinds, "all", 1 if shared else 2, stream(5))  # pyright: ignore[reportArgumentType]
    images = pictures(2, side=5).requires_grad_()

    def augmented(images: Tensor) -> Tensor:
        return dsa.apply(images, levels, kinds)  # pyright: ignore[reportArgumentType]

    with torch.random.fork_rng():  # the checks draw directions
        assert torch.autograd.gradcheck(augmented, images, fast_mode=True)
        assert torch.autograd.gradgradcheck(augmented, images, fast_mode=True)


def test_all_are_applied_in_their_order_and_each_image_by_its_own_draw():
    images, levels = pictures(), dsa.sample(AUGMENTATIONS, "all", 6, stream(1))
    together = dsa.apply(images, levels, AUGMENTATIONS)
    for place in range(6):
        alone = images[place : place + 1]
        for kind in ("flip", "colour", "crop", "scale", "rotate", "cutout"):
            alone = dsa.apply(alone, levels[place : place + 1], [kind])  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(together[place : place + 1], alone)
    shared = dsa.apply(images, levels[2:3], AUGMENTATIONS)
    torch.testing.assert_close(shared, dsa.apply(images, levels[2:3].expand(6, -1), AUGMENTATIONS))


def test_one_of_several_leaves_all_others_neutral():
    levels = dsa.sample(AUGMENTATIONS, "one", 3000, stream())
    neutral = torch.cat([one("flip", 0)] * 3000)
    changed = {kind: (levels[:, at] != neutral[:, at]).any(1) for kind, at in dsa._COLUMNS.items()}
    assert (torch.stack(list(changed.values())).sum(0) <= 1).all()
    for kind, rows in changed.items():
        chance = 1 / 12 if kind == "flip" else 1 / 6  # half of the flips mirror
        assert abs(float(rows.float().mean()) - chance) < 0.03


def test_a_warp_is_one_of_crop_scale_and_rotate_beside_colour_flip_and_cutout():
    levels = dsa.sample(AUGMENTATIONS, "warp", 3000, stream())
    warped = torch.stack([(levels[:, dsa._COLUMNS[kind]] != 0).any(1) for kind in ("crop", "scale", "rotate")])
    assert (warped.sum(0) <= 1).all()
    assert (warped.float().mean(1) > 0.28).all()
    assert (levels[:, 5] != dsa.UNCUT).all()
    assert (levels[:, :3] != 0).any(1).float().mean() > 0.99


def test_kinds_that_are_not_asked_for_leave_the_others_draws_alone():
    few, many = (dsa.sample(kinds, "all", 50, stream(4)) for kinds in (("crop", "cutout"), AUGMENTATIONS))
    assert torch.equal(few[:, 3:7], many[:, 3:7])
    assert not few[:, [0, 1, 2, 7, 8, 9, 10]].any()
    streams = [stream(1), stream(2)]
    assert torch.equal(
        dsa.sample(AUGMENTATIONS, "one", 3, *streams),
        torch.cat([dsa.sample(AUGMENTATIONS, "one", 3, stream(seed)) for seed in (1, 2)]),
    )


@pytest.mark.parametrize("device", DEVICES)
def test_the_gradient_of_all_of_them_is_the_same_bits_again(device: str):
    images = pictures(dtype=torch.float32).to(device).requires_grad_()
    levels = dsa.sample(AUGMENTATIONS, "all", 6, stream(1))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device == "cuda")
    try:
        slopes = [torch.autograd.grad(dsa.apply(images, levels, AUGMENTATIONS).square().sum(), images)[0] for _ in "ab"]
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(*slopes)


def test_one_graph_serves_every_draw():
    graphs = []

    def counted(module: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

    torch._dynamo.reset()
    compiled = torch.compile(dsa.apply, backend=counted, fullgraph=True, dynamic=False)
    for seed in range(3):
        levels, images = dsa.sample(AUGMENTATIONS, "one", 1, stream(seed)), pictures(2)
        torch.testing.assert_close(compiled(images, levels, AUGMENTATIONS), dsa.apply(images, levels, AUGMENTATIONS))
    assert len(graphs) == 1
