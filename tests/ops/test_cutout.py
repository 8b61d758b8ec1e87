"""Cutout and RandAugment of real images: the hidden square is the slow formula's, and nothing is drawn for nothing."""

import pytest
import torch

from attar.ops import augment, cutout
from attar.ops.choices import LookChoice, RealAugmentation
from attar.ops.pixels import from_bytes, to_bytes


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("size", [(8, 8), (7, 11)])
@pytest.mark.parametrize("side", [0.5, 0.3, 1.0])
def test_a_square_of_one_colour_hides_what_it_covers(size: tuple[int, int], side: float):
    images = noise(40, 3, *size)
    drawn = cutout.draw(RealAugmentation(cutout=side), 40, *size, stream())
    assert drawn is not None
    expected = images.clone()
    for image, (top, left, bottom, right), colour in zip(expected, drawn.box.tolist(), drawn.colour, strict=True):
        image[:, top:bottom, left:right] = colour[:, None, None]
        assert 0 <= top < bottom <= size[0]
        assert bottom - top <= int(side * size[0] + 0.5)
        assert 0 <= left < right <= size[1]
    assert torch.equal(cutout.apply(images, drawn), expected)
    assert torch.equal(to_bytes(cutout.apply(from_bytes(images), drawn)), expected)
    assert torch.equal(cutout.apply(images[5:9], drawn.take(slice(5, 9))), expected[5:9])
    heights = drawn.box[:, 2] - drawn.box[:, 0]
    assert heights.min() < heights.max() or side == 0.3  # squares at the edge lie partly outside


def test_operations_come_after_the_square():
    images = noise(20, 3, 8, 8)
    both = cutout.draw(RealAugmentation(cutout=0.5, randaugment_ops=2), 20, 8, 8, stream())
    assert both is not None
    assert both.changes is not None
    hidden = cutout.apply(images, cutout.Drawn(both.box, both.colour, None))
    assert torch.equal(cutout.apply(images, both), augment.change(hidden, both.changes))
    assert not torch.equal(cutout.apply(images, both), hidden)
    alone = cutout.draw(RealAugmentation(randaugment_ops=2, randaugment_magnitude=9), 20, 8, 8, stream())
    assert alone is not None
    looks = LookChoice(randaugment_ops=2, randaugment_magnitude=9, randaugment_std=2.6, randaugment_set="timm")
    assert torch.equal(cutout.apply(images, alone), augment.change(images, augment.draw_changes(20, looks, stream())))


def test_nothing_is_drawn_for_nothing():
    draws = stream()
    assert cutout.draw(RealAugmentation(randaugment_magnitude=9), 20, 8, 8, draws) is None
    assert torch.equal(draws.get_state(), stream().get_state())
