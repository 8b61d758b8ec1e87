"""ops/mixing.py against loops over pixels, and its draws against what they promise."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.ops import mixing
from attar.ops.mixing import Mix, MixChoice


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(kind: str, count: int, height: int, width: int, alpha: float = 1.0, seed: int = 0) -> Mix:
    mix = MixChoice.of({"kind": kind, "alpha": alpha}, "the test").draw(count, height, width, stream(seed))
    assert mix is not None
    return mix


def own_pixels(mix: Mix, place: int, height: int, width: int) -> Tensor:
    """Which pixels of a CutMix image are its own, found one by one."""
    assert mix.box is not None
    top, left, box_height, box_width = mix.box[place].tolist()
    own = torch.ones(height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            if top <= row < top + box_height and left <= column < left + box_width:
                own[row, column] = False
    return own


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12)])
def test_cutmix_equals_a_loop_over_pixels(height: int, width: int):
    images = torch.rand(30, 3, height, width, generator=stream(1))
    mix = drawn("cutmix", 30, height, width)
    mixed = mixing.apply(images, images[mix.partner], mix)
    for place in range(30):
        own = own_pixels(mix, place, height, width)
        for row, column in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
            source = images[place] if own[row, column] else images[mix.partner[place]]
            assert torch.equal(mixed[place, :, row, column], source[:, row, column])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 4), (7, 12)])
def test_the_weight_of_cutmix_is_the_share_of_own_pixels(height: int, width: int):
    mix = drawn("cutmix", 200, height, width, alpha=0.7)
    own = torch.tensor([int(own_pixels(mix, place, height, width).sum()) for place in range(200)])
    assert torch.equal((mix.weight.double() * height * width).round().long(), own)
    torch.testing.assert_close(mix.weight, own / (height * width), atol=2e-7, rtol=0)
    if height * width == 64:  # a power of two divides without rounding
        assert torch.equal(mix.weight, own / 64)
    assert len(set(own.tolist())) > 10


@pytest.mark.parametrize(("height", "width"), [(32, 32), (15, 22)])
def test_cutmix_boxes_follow_the_published_formula(height: int, width: int):
    """Yun et al.'s box, from the same draws: sides by the square root, rounded down, halved, cut at the border."""
    mix, source = drawn("cutmix", 300, height, width, alpha=0.8), stream()
    assert torch.equal(mix.partner, torch.randperm(300, generator=source))
    shares = np.random.default_rng(int(torch.randint(2**62, (1,), generator=source))).beta(0.8, 0.8, 300)
    centres = torch.rand(300, 2, generator=source, dtype=torch.float64).tolist()
    assert mix.box is not None
    for box, share, (row, column) in zip(mix.box.tolist(), shares.tolist(), centres, strict=True):
        spans = []
        for centre, length in ((int(row * height), height), (int(column * width), width)):
            cut = int(length * math.sqrt(1 - share))
            spans.append((max(0, centre - cut // 2), min(length, centre + cut // 2)))
        (top, bottom), (left, right) = spans
        assert box == [top, left, bottom - top, right - left]


def test_cutmix_boxes_lie_in_the_image_and_average_out_as_their_beta_distribution():
    """Beta(1, 1) leaves an image 1/2 of itself before boxes are cut at the border, which leaves it more."""
    mix = drawn("cutmix", 4000, 32, 48)
    assert mix.box is not None
    top, left, height, width = mix.box.unbind(1)
    assert (mix.box >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 48).all()
    inner = (top > 0) & (left > 0) & (top + height < 32) & (left + width < 48)
    ratio = height[inner].double().mean() / width[inner].double().mean()
    assert ratio.item() == pytest.approx(32 / 48, abs=0.02)  # the box has the image's shape
    assert 0.55 < mix.weight.mean().item() < 0.75


def test_mixup_is_the_weighted_mean():
    images = torch.rand(20, 3, 5, 6, generator=stream(1))
    mix = drawn("mixup", 20, 5, 6, alpha=0.8)
    assert mix.box is None
    mixed = mixing.apply(images, images[mix.partner], mix)
    for place, (weight, partner) in enumerate(zip(mix.weight.tolist(), mix.partner.tolist(), strict=True)):
        expected = weight * images[place] + (1 - weight) * images[partner]
        torch.testing.assert_close(mixed[place], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_the_share_of_mixup_is_beta_distributed(alpha: float):
    weight = drawn("mixup", 8000, 4, 4, alpha).weight.double()
    assert 0 <= weight.min() <= weight.max() <= 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.015)
    assert weight.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_partners_are_a_permutation_and_follow_from_the_generator(kind: str):
    mix, again, other = (drawn(kind, 100, 8, 8, seed=seed) for seed in (3, 3, 4))
    assert sorted(mix.partner.tolist()) == list(range(100))
    assert mix.partner.tolist() != list(range(100))
    assert torch.equal(mix.partner, again.partner)
    assert torch.equal(mix.weight, again.weight)
    assert not torch.equal(mix.partner, other.partner)
    assert not torch.equal(mix.weight, other.weight)


def test_nothing_is_drawn_when_nothing_is_mixed():
    source = stream(7)
    assert MixChoice().draw(5, 8, 8, source) is None
    assert torch.equal(source.get_state(), stream(7).get_state())


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_mixes_can_be_taken_apart_and_moved(kind: str):
    mix = drawn(kind, 6, 8, 8)
    part = mix.take(torch.tensor([5, 2]))
    assert (len(mix), len(part)) == (6, 2)
    assert part.partner.tolist() == [mix.partner[5].item(), mix.partner[2].item()]
    assert part.weight.tolist() == [mix.weight[5].item(), mix.weight[2].item()]
    if mix.box is not None and part.box is not None:
        assert torch.equal(part.box, mix.box[[5, 2]])
    assert (part.box is None) == (kind == "mixup")
    assert mix.to("meta").weight.device.type == "meta"


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_batches_that_share_a_mix_keep_to_themselves(kind: str):
    choice = MixChoice.of({"kind": kind, "shared_by": 4}, "the test")
    order = torch.randperm(10, generator=stream(5))
    mix = choice.draw(10, 16, 16, stream(1), order)
    assert mix is not None
    weights = set()
    for batch in order.split(4):
        assert set(mix.partner[batch].tolist()) == set(batch.tolist())
        assert len(set(mix.weight[batch].tolist())) == 1
        weights.add(mix.weight[batch[0]].item())
        if mix.box is not None:
            assert (mix.box[batch] == mix.box[batch[0]]).all()
    assert len(weights) == 3
    unordered = choice.draw(10, 16, 16, stream(1))
    assert unordered is not None
    assert sorted(unordered.partner.tolist()) == list(range(10))
