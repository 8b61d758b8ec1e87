"""ops/mosaic.py: several images in one, by loops over pixels and by torch's own enlarging."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.ops import mosaic
from attar.ops.choices import Storage
from attar.ops.mosaic import Part
from attar.ops.pixels import from_bytes

WAYS = ["nearest", "bilinear"]


def small_set(count: int, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def storage(factor: int, enlarge: str) -> Storage:
    return Storage.of({"factor": factor, "enlarge": enlarge}, "the test")


def cut(images: Tensor, factor: int, part: int) -> Tensor:
    """A part of stored images by its number, counted from 1 row by row."""
    side = images.shape[-1] // factor
    row, column = divmod(part - 1, factor)
    return images[..., row * side : (row + 1) * side, column * side : (column + 1) * side]


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_packing_shrinks_to_the_nearest_pixel_and_lays_parts_row_by_row(factor: int):
    images = small_set(5 * factor**2).unflatten(0, (5, factor**2))
    packed = mosaic.pack(images, factor)
    assert packed.shape == (5, 3, 12, 12)
    for part in range(factor**2):
        small = F.interpolate(images[:, part].float(), size=(12 // factor, 12 // factor), mode="nearest")
        assert torch.equal(cut(packed, factor, part + 1).float(), small)


@pytest.mark.parametrize("enlarge", WAYS)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_unpacking_enlarges_each_part_as_torch_does(factor: int, enlarge: str):
    images = from_bytes(small_set(4))
    parts = mosaic.unpack(images, storage(factor, enlarge))
    assert parts.shape == (4, factor**2, 3, 12, 12)
    more = {"align_corners": False} if enlarge == "bilinear" else {}
    for part in range(factor**2):
        large = F.interpolate(cut(images, factor, part + 1), size=(12, 12), mode=enlarge, **more)
        torch.testing.assert_close(parts[:, part], large)


def test_what_was_packed_and_enlarged_by_the_nearest_pixel_packs_to_itself():
    packed = mosaic.pack(from_bytes(small_set(12)).unflatten(0, (3, 4)), 2)
    assert torch.equal(mosaic.pack(mosaic.unpack(packed, storage(2, "nearest")), 2), packed)


@pytest.mark.parametrize("enlarge", WAYS)
def test_unpacking_has_a_gradient(enlarge: str):
    images = from_bytes(small_set(1, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda shown: mosaic.unpack(shown, storage(2, enlarge)), images)


@pytest.mark.parametrize("enlarge", WAYS)
@pytest.mark.parametrize("factor", [2, 3])
def test_showing_a_part_is_unpacking_it(factor: int, enlarge: str):
    images, how = small_set(6), storage(factor, enlarge)
    every = mosaic.unpack(from_bytes(images), how)
    index = torch.tensor([5, 0, 3, 3, 1, 2, 4])
    number = torch.arange(7, dtype=torch.uint8) % (factor**2 + 1)
    shown = mosaic.show(images, index, Part(number, how))
    for place, (image, part) in enumerate(zip(index.tolist(), number.tolist(), strict=True)):
        expected = from_bytes(images[image]) if part == mosaic.WHOLE else every[image, part - 1]
        torch.testing.assert_close(shown[place], expected, atol=1e-6, rtol=0)
    alone = torch.cat([mosaic.show(images, index[[at]], Part(number[[at]], how)) for at in range(7)])
    assert torch.equal(shown, alone)


def test_all_images_of_a_set_come_one_stored_image_after_the_other():
    images, how = small_set(3), Storage(factor=2)
    assert torch.equal(mosaic.decoded(images, how), mosaic.unpack(from_bytes(images), how).flatten(0, 1))
    assert torch.equal(mosaic.decoded(images, Storage()), from_bytes(images))


def test_parts_are_drawn_with_their_probability_and_each_as_often_as_another():
    number = mosaic.draw(Storage(factor=2), 0.75, 8000, torch.Generator().manual_seed(0)).number
    counts = number.long().bincount(minlength=5).tolist()
    assert abs(counts[0] - 2000) < 150
    assert all(abs(count - 1500) < 150 for count in counts[1:])
    assert not mosaic.draw(Storage(factor=2), 0, 50, torch.Generator()).number.any()
    assert mosaic.draw(Storage(factor=2), 1, 50, torch.Generator()).number.all()


def test_parts_that_take_turns_are_all_shown_in_as_many_epochs():
    storage = Storage(factor=3)
    every = torch.stack([mosaic.in_turn(storage, 20, epoch).number for epoch in range(9)]).sort(0).values
    assert torch.equal(every.long(), torch.arange(1, 10)[:, None].expand(9, 20))
    first = mosaic.in_turn(storage, 20, 0).number
    assert torch.equal(mosaic.in_turn(storage, 20, 9).number, first)
    assert len(first.unique()) == 9


def test_pixels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="12 x 12 pixels do not divide into 5 x 5 parts"):
        mosaic.unpack(from_bytes(small_set(2)), Storage(factor=5))
    with pytest.raises(ValueError, match="12 x 12 pixels do not divide into 5 x 5 parts"):
        mosaic.pack(small_set(25)[None], 5)
