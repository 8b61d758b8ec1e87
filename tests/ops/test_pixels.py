"""ops/pixels.py against numpy arithmetic."""

import numpy as np
import pytest
import torch

from attar.ops.pixels import Normalisation, from_bytes, grid, to_bytes

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_normalisation_is_channel_by_channel_and_undone():
    raw = images(4, 3, 5, 6)
    normal = IMAGENET.apply(raw)
    for channel, (mean, std) in enumerate(zip(IMAGENET.mean, IMAGENET.std, strict=True)):
        expected = (raw[:, channel].numpy() - np.float32(mean)) / np.float32(std)
        np.testing.assert_allclose(normal[:, channel].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(IMAGENET.undo(normal), raw, atol=1e-6, rtol=0)
    assert torch.equal(Normalisation().apply(raw), raw)


def test_bounds_are_black_and_white():
    low, high = IMAGENET.bounds(images(1, 3, 2, 2))
    assert low.shape == high.shape == (1, 3, 1, 1)
    torch.testing.assert_close(low, IMAGENET.apply(torch.zeros(1, 3, 1, 1)))
    torch.testing.assert_close(high, IMAGENET.apply(torch.ones(1, 3, 1, 1)))
    assert IMAGENET.bounds(images(1, 3, 2, 2).double())[0].dtype == torch.float64


def test_rounding_and_truncating_equal_numpys():
    values = torch.cat([images(10_000), torch.tensor([-0.3, 0.0, 0.5 / 255, 1.5 / 255, 0.999, 1.0, 1.7])])
    scaled = np.clip(values.numpy(), 0, 1) * np.float32(255)
    np.testing.assert_array_equal(to_bytes(values).numpy(), np.rint(scaled).astype(np.uint8))
    np.testing.assert_array_equal(to_bytes(values, "truncate").numpy(), scaled.astype(np.uint8))
    assert not torch.equal(to_bytes(values), to_bytes(values, "truncate"))


def test_bytes_survive_the_way_through_floats():
    every = torch.arange(256, dtype=torch.uint8)
    floats = from_bytes(every)
    assert floats.dtype == torch.float32
    assert (floats.min().item(), floats.max().item()) == (0.0, 1.0)
    assert torch.equal(to_bytes(floats), every)


def test_to_bytes_takes_pixels_that_are_being_optimised():
    assert to_bytes(images(1, 3, 2, 2).requires_grad_()).dtype == torch.uint8


@pytest.mark.parametrize(("count", "columns", "rows"), [(6, 3, 2), (7, 3, 3), (2, 5, 1)])
def test_a_grid_holds_every_image_at_its_place(count: int, columns: int, rows: int):
    tiles = to_bytes(images(count, 3, 4, 5)).clamp_max(254)
    sheet = grid(tiles, columns, gap=2)
    columns = min(columns, count)
    assert sheet.shape == (3, rows * 4 + (rows - 1) * 2, columns * 5 + (columns - 1) * 2)
    seen = torch.full_like(sheet, 255)
    for place in range(count):
        row, column = divmod(place, columns)
        top, left = row * 6, column * 7
        assert torch.equal(sheet[:, top : top + 4, left : left + 5], tiles[place])
        seen[:, top : top + 4, left : left + 5] = tiles[place]
    assert torch.equal(sheet, seen)  # all else is white


def test_a_grid_zooms_by_repeating_pixels():
    tiles = to_bytes(images(1, 3, 4, 5))
    sheet = grid(tiles, 1, zoom=3)
    assert sheet.shape == (3, 12, 15)
    for offset in range(3):
        assert torch.equal(sheet[:, offset::3, offset::3], tiles[0])


def test_a_grey_normalisation_is_the_mean_of_the_channels():
    grey = Normalisation((0.3, 0.4, 0.5), (0.1, 0.2, 0.3)).grey()
    assert grey.mean == pytest.approx((0.4, 0.4, 0.4))
    assert grey.std == pytest.approx((0.2, 0.2, 0.2))
