"""ops/views.py against torchvision's operators, and its draws against torchvision's RandomResizedCrop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from attar.ops import views
from attar.ops.pixels import from_bytes
from attar.ops.views import View, ViewChoice

SIZES = [
    ((16, 16), (16, 16)),
    ((12, 20), (12, 20)),
    ((21, 9), (21, 9)),
    ((16, 24), (8, 10)),
    ((9, 7), (20, 32)),
    ((64, 64), (64, 64)),
    ((20, 33), (20, 11)),
    ((112, 80), (100, 71)),
    ((40, 64), (7, 9)),
]
"""Source and output sizes."""


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, size: tuple[int, int], seed: int) -> View:
    """Views with everything in them: boxes down to a point, flips, shifts beyond the image's side."""
    source = stream(seed)
    box = views.resized_boxes(count, *size, (0.001, 1.0), source)
    flip = torch.rand(count, generator=source) < 0.5
    return View(box, flip, torch.randint(-40, 41, (count, 2), generator=source))


def plain(images: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """The same views, image by image, by torchvision's crop and flip and PyTorch's roll.

    Its antialiasing changes nothing where a crop is not shrunk.
    """
    shown = []
    for place, image in enumerate(images):
        record = 0 if len(view) == 1 else place
        seen = tv.resized_crop(image, *view.box[record].tolist(), size=list(size), antialias=True)
        seen = tv.horizontal_flip(seen) if view.flip[record] else seen
        shown.append(torch.roll(seen, view.shift[record].tolist(), dims=(-2, -1)))
    return torch.stack(shown)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("shared", [False, True], ids=["per-image", "shared"])
def test_views_equal_torchvision(source: tuple[int, int], target: tuple[int, int], shared: bool):
    images = torch.randn(24, 3, *source, generator=stream(1))
    for seed in range(4):
        view = drawn(1 if shared else len(images), source, seed)
        torch.testing.assert_close(views.apply(images, view, target), plain(images, view, target), atol=1e-4, rtol=0)


def test_the_output_is_as_large_as_the_input_unless_told():
    images, view = torch.rand(3, 3, 10, 14, generator=stream()), drawn(3, (10, 14), 2)
    assert torch.equal(views.apply(images, view), views.apply(images, view, (10, 14)))


@pytest.mark.parametrize(("source", "target"), [*SIZES[:5], *SIZES[6:]])
@pytest.mark.parametrize("shared", [False, True], ids=["per-image", "shared"])
def test_gradients_equal_autograd_through_torchvision_and_repeat_bitwise(
    source: tuple[int, int], target: tuple[int, int], shared: bool
):
    images = torch.randn(8, 3, *source, generator=stream(1))
    view = drawn(1 if shared else 8, source, 3)
    weights = torch.randn(8, 3, *target, generator=stream(2))

    def gradient(show) -> Tensor:
        pixels = images.clone().requires_grad_()
        (show(pixels, view, target) * weights).sum().backward()
        assert pixels.grad is not None
        return pixels.grad

    ours = gradient(views.apply)
    torch.testing.assert_close(ours, gradient(plain), atol=1e-4, rtol=1e-4)
    assert torch.equal(ours, gradient(views.apply))


@pytest.mark.parametrize("size", [(8, 8), (28, 20), (15, 33)])
def test_a_padded_crop_is_exactly_a_slice_of_the_image_with_a_black_border(size: tuple[int, int]):
    height, width = size
    images = torch.rand(60, 3, height, width, generator=stream())
    view = ViewChoice(crop="padded", padding=3).draw(60, height, width, stream(1))
    bordered = F.pad(images, (3, 3, 3, 3))
    for image, seen, (top, left, *extent), flip in zip(
        bordered, views.apply(images, view), view.box.tolist(), view.flip, strict=True
    ):
        assert extent == [height, width]
        crop = image[:, top + 3 : top + 3 + height, left + 3 : left + 3 + width]
        assert torch.equal(seen, crop.flip(-1) if flip else crop)
    corners = {tuple(box[:2]) for box in view.box.tolist()}
    assert len(corners) > 30
    assert {side for corner in corners for side in corner} == set(range(-3, 4))


def overlapping(count: int, size: tuple[int, int], seed: int) -> View:
    """Views whose boxes reach outside the image, up to half their side, and may be larger than it."""
    source, (height, width) = stream(seed), size
    extent = torch.stack([torch.randint(1, 2 * side, (count,), generator=source) for side in size], dim=1)
    place = torch.rand(count, 2, generator=source) * torch.tensor([height, width]) - extent / 2
    flip = torch.rand(count, generator=source) < 0.5
    return View(torch.cat([place.long(), extent], dim=1), flip, torch.randint(-9, 10, (count, 2), generator=source))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_crops_that_reach_outside_the_image_are_shrunk_with_the_black_around_it(source, target):
    """As torchvision does it, which pads before it resizes: the image's edge does not become brighter."""
    images = 1 + torch.rand(60, 3, *source, generator=stream(1))
    view = overlapping(60, source, 2)
    torch.testing.assert_close(views.apply(images, view, target), plain(images, view, target), atol=1e-4, rtol=0)


def test_a_crop_of_a_black_border_stays_black_when_shrunk():
    white = torch.ones(1, 3, 16, 16)
    view = View(torch.tensor([[-16, 0, 32, 16]]), torch.tensor([False]), torch.zeros(1, 2, dtype=torch.int64))
    seen = views.apply(white, view, (8, 4))
    assert not seen[:, :, :3].any()
    torch.testing.assert_close(seen[:, :, 5:], torch.ones(1, 3, 3, 4))
    torch.testing.assert_close(seen[:, :, 3] + seen[:, :, 4], torch.ones(1, 3, 4))


def enlarging_weights(view: View, axis: int, source: int, target: int) -> Tensor:
    """The weights of one axis where nothing is shrunk, as stored labels were made with: a tent of width one."""
    start, extent, shift = view.box[:, axis], view.box[:, axis + 2], view.shift[:, axis]
    place = (torch.arange(target) - shift[:, None]) % target
    if axis == 1:
        place = torch.where(view.flip[:, None], target - 1 - place, place)
    length = extent[:, None].to(torch.float32)
    position = ((place + 0.5) * length / target - 0.5).clamp_min(0).minimum(length - 1) + start[:, None]
    return (1 - (position[..., None] - torch.arange(source)).abs()).clamp_min(0)


@pytest.mark.parametrize("side", [8, 28, 41, 224])
@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_weights_of_crops_no_larger_than_the_output_are_the_same_bits_as_ever(side: int, outside: bool):
    """Recipes and the replay of stored labels rest on it; 41 times the reciprocal of 41 is not 1 in float32."""
    view = drawn(20, (side, side), 4)
    if outside:
        view = View(view.box + torch.tensor([-3, 2, 0, 0]), view.flip, view.shift)
    for target in (side, side + 5, 2 * side):
        ours = views.matrices(view, (side, side), (target, target))
        for axis, weights in enumerate(ours):
            assert torch.equal(weights, enlarging_weights(view, axis, side, target))


def test_an_axis_that_is_not_shrunk_keeps_its_bits_beside_one_that_is():
    view = drawn(100, (24, 24), 5)
    _, columns = views.matrices(view, (24, 24), (6, 24))
    assert torch.equal(columns, enlarging_weights(view, 1, 24, 24))


@pytest.mark.parametrize("target", [(5, 8), (12, 12), (31, 17)])
def test_every_pixel_of_a_crop_has_a_part_in_its_shrunk_view(target: tuple[int, int]):
    """So that none goes without a gradient; unshrunk interpolation would skip some."""
    pixels = torch.zeros(1, 1, 33, 40, requires_grad=True)
    view = View(torch.tensor([[1, 2, 31, 36]]), torch.tensor([True]), torch.tensor([[3, 5]]))
    views.apply(pixels, view, target).sum().backward()
    assert pixels.grad is not None
    touched = torch.zeros(33, 40, dtype=torch.bool)
    touched[1:32, 2:38] = True
    assert torch.equal(pixels.grad[0, 0] > 0, touched)


def test_the_gradient_of_shrunk_views_is_that_of_finite_differences():
    pixels = torch.rand(2, 1, 9, 11, generator=stream(), dtype=torch.float64, requires_grad=True)
    view = View(
        torch.tensor([[0, 0, 9, 11], [-2, 3, 8, 9]]), torch.tensor([True, False]), torch.tensor([[1, 2], [0, 1]])
    )
    assert torch.autograd.gradcheck(lambda images: views.apply(images, view, (4, 6)), (pixels,))


def bytes_of(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size), generator=stream(7), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 20), (15, 33), (64, 64)])
@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_views_of_bytes_are_those_of_floats(size: tuple[int, int], outside: bool):
    images, index = bytes_of(30, size), torch.randint(30, (50,), generator=stream(1))
    view = drawn(50, size, 2)
    if outside:
        view = View(
            view.box + torch.randint(-9, 10, (50, 4), generator=stream(3)) * torch.tensor([1, 1, 0, 0]),
            *view.parts()[1:],
        )
    seen, expected = views.apply_to_bytes(images, index, view), views.apply(from_bytes(images[index]), view)
    torch.testing.assert_close(seen, expected, atol=5e-6, rtol=0)
    if not outside:
        torch.testing.assert_close(seen, plain(from_bytes(images[index]), view, size), atol=1e-4, rtol=0)


@pytest.mark.parametrize("choice", [ViewChoice(crop="padded"), ViewChoice(crop="none")])
def test_views_of_bytes_that_are_copies_of_pixels_are_exact(choice: ViewChoice):
    images, view = bytes_of(60, (28, 20)), choice.draw(60, 28, 20, stream(1))
    seen = views.apply_to_bytes(images, torch.arange(60), view)
    assert torch.equal(seen, views.apply(from_bytes(images), view))


def test_views_of_bytes_may_shrink():
    images = bytes_of(5, (9, 7))
    view = View(
        torch.tensor([[-3, -2, 15, 12]]).expand(5, 4), torch.arange(5) > 2, torch.zeros(5, 2, dtype=torch.int64)
    )
    index = torch.tensor([4, 4, 0, 1, 2])
    assert torch.equal(views.apply_to_bytes(images, index, view), views.apply(from_bytes(images[index]), view))


def test_views_of_bytes_are_the_same_bits_however_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch):
    images, index, view = bytes_of(20, (13, 21)), torch.randperm(20, generator=stream(1)), drawn(20, (13, 21), 3)
    whole = views.apply_to_bytes(images, index, view)
    for values in (1, 3 * 13 * 21 * 7, 2**30):
        monkeypatch.setattr(views, "CACHED_VALUES", values)
        assert torch.equal(views.apply_to_bytes(images, index, view), whole)
    assert views.apply_to_bytes(images, index[:0], view.take(slice(0, 0))).shape == (0, 3, 13, 21)


def test_shifts_scale_with_the_output_to_the_nearest_pixel():
    view = View(torch.tensor([[0, 0, 32, 64]]), torch.tensor([True]), torch.tensor([[6, -31]]))
    smaller = view.scaled((32, 64), (20, 16))
    assert smaller.shift.tolist() == [[4, -8]]
    assert smaller.shift.dtype == torch.int64
    assert torch.equal(smaller.box, view.box)
    assert torch.equal(smaller.flip, view.flip)
    assert torch.equal(view.scaled((32, 64), (32, 64)).shift, view.shift)


def test_a_shifted_view_shown_smaller_is_the_smaller_image_shifted():
    """The roll comes after the resizing, so it is whole pixels of the output and blends no opposite edges."""
    images = torch.rand(2, 3, 32, 32, generator=stream())
    whole = views.whole(32, 32)
    shifted = View(whole.box, whole.flip, torch.tensor([[8, -4]])).scaled((32, 32), (16, 16))
    expected = torch.roll(views.apply(images, whole, (16, 16)), (4, -2), dims=(-2, -1))
    assert torch.equal(views.apply(images, shifted, (16, 16)), expected)


def test_the_whole_image_is_a_view_that_changes_nothing():
    images = torch.rand(5, 3, 11, 17, generator=stream())
    assert torch.equal(views.apply(images, views.whole(11, 17)), images)


def test_the_whole_image_comes_back_exactly():
    images = torch.rand(5, 3, 11, 17, generator=stream())
    view = ViewChoice(crop="none", flip=False).draw(5, 11, 17, stream())
    assert torch.equal(views.apply(images, view), images)
    rolled = View(view.box, view.flip, torch.tensor([[2, -3]]).expand(5, 2))
    assert torch.equal(views.apply(images, rolled), torch.roll(images, (2, -3), dims=(-2, -1)))


def test_flips_fall_on_half_of_the_views_or_on_none():
    flips = ViewChoice().draw(2000, 8, 8, stream()).flip.float().mean().item()
    assert flips == pytest.approx(0.5, abs=0.04)
    assert not ViewChoice(flip=False).draw(2000, 8, 8, stream()).flip.any()


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (48, 36), (20, 64)], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0)], ids=["from-0.08", "from-0.5"])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float]):
    """Mean and nine quantiles of area, log ratio and free place, over 4000 draws each; 20 x 64 often falls back."""
    height, width = size
    count = 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        canvas = torch.empty(3, height, width)
        drawn = [RandomResizedCrop.get_params(canvas, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    ours, theirs = views.resized_boxes(count, height, width, scale, stream(1)), torch.tensor(drawn)
    top, left, box_height, box_width = ours.unbind(1)
    assert (torch.stack([top, left]) >= 0).all()
    assert (torch.stack([box_height, box_width]) >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()
    for measured, expected in zip(described(ours, size), described(theirs, size), strict=True):
        assert measured.mean().item() == pytest.approx(expected.mean().item(), abs=0.02)
        at = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        torch.testing.assert_close(measured.quantile(at), expected.quantile(at), atol=0.06, rtol=0)


def described(boxes: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Area fraction, logarithm of the ratio, and where the centre lies."""
    top, left, height, width = boxes.double().unbind(1)
    centres = [(top + height / 2) / size[0], (left + width / 2) / size[1]]
    return [height * width / (size[0] * size[1]), torch.log(width / height), *centres]


@pytest.mark.parametrize("side", [1, 8, 33, 64, 224])
def test_a_lower_bound_of_one_is_the_whole_square(side: int):
    boxes = views.resized_boxes(500, side, side, (1.0, 1.0), stream())
    assert torch.equal(boxes, torch.tensor([[0, 0, side, side]]).expand(500, 4))


@pytest.mark.parametrize("choice", [ViewChoice(), ViewChoice(crop="padded"), ViewChoice(crop="none")])
def test_draws_follow_from_the_generator_alone(choice: ViewChoice):
    first, again, other = (choice.draw(50, 30, 40, stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.box, again.box)
    assert torch.equal(first.flip, again.flip)
    assert not torch.equal(first.flip, other.flip)


def test_how_much_randomness_a_draw_takes_does_not_depend_on_the_curriculum():
    """So that one unit's jitter is the same under every curriculum."""
    after = [stream(5) for _ in range(2)]
    for bound, source in zip((0.08, 1.0), after, strict=True):
        views.resized_boxes(3, 16, 16, (bound, 1.0), source)
    assert torch.equal(after[0].get_state(), after[1].get_state())


def test_views_can_be_taken_apart_and_moved():
    view = drawn(6, (16, 16), 0)
    part = view.take(torch.tensor([4, 1]))
    assert len(view) == 6
    assert len(part) == 2
    assert part.box.tolist() == [view.box[4].tolist(), view.box[1].tolist()]
    assert part.flip.tolist() == [bool(view.flip[4]), bool(view.flip[1])]
    assert torch.equal(view.take(slice(2, 4)).shift, view.shift[2:4])
    assert view.to("meta").box.device.type == view.to("meta").flip.device.type == "meta"
