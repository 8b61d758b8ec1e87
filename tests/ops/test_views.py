"""ops/views.py against torchvision's operators, and its draws against torchvision's RandomResizedCrop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from attar.ops import views
from attar.ops.views import View, ViewChoice

SIZES = [
    ((16, 16), (16, 16)),
    ((12, 20), (12, 20)),
    ((21, 9), (21, 9)),
    ((16, 24), (8, 10)),
    ((9, 7), (20, 32)),
    ((64, 64), (64, 64)),
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
    """The same views, image by image, by torchvision's crop and flip and PyTorch's roll."""
    shown = []
    for place, image in enumerate(images):
        record = 0 if len(view) == 1 else place
        seen = tv.resized_crop(image, *view.box[record].tolist(), size=list(size), antialias=False)
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


@pytest.mark.parametrize(("source", "target"), SIZES[:5])
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
