import numpy as np
import torch

from attar.core.randomness import generator
from attar.data.order import shuffled, spread

BLOCKS = np.repeat(np.arange(20), 5)


def test_without_a_window_it_is_a_permutation() -> None:
    expected = torch.randperm(100, generator=generator(1))
    assert torch.equal(shuffled(100, BLOCKS, 0, generator(1)), expected)
    assert torch.equal(shuffled(100, None, 10, generator(1)), expected)


def test_with_a_window_few_blocks_are_needed_at_a_time() -> None:
    order = shuffled(100, BLOCKS, 20, generator(1))
    assert sorted(order.tolist()) == list(range(100))
    windows = [set(BLOCKS[order[start : start + 20]].tolist()) for start in range(0, 100, 20)]
    assert [len(window) for window in windows] == [4] * 5
    assert len(set.union(*windows)) == 20
    assert windows[0] != {0, 1, 2, 3}  # blocks are shuffled
    assert np.abs(np.diff(BLOCKS[order[:20]])).astype(bool).sum() > 10  # and mixed
    assert torch.equal(order, shuffled(100, BLOCKS, 20, generator(1)))
    assert not torch.equal(order, shuffled(100, BLOCKS, 20, generator(2)))


def test_blocks_without_images_and_uneven_ones() -> None:
    blocks = np.array([3, 0, 3, 7, 0, 7, 7])
    assert sorted(shuffled(7, blocks, 3, generator(0)).tolist()) == list(range(7))


def test_spread() -> None:
    assert spread(10, None, 4) == [0, 3, 6, 9]
    assert spread(3, None, 10) == [0, 1, 2]
    many = np.repeat(np.arange(1000), 3)
    chosen = spread(3000, many, 100)
    assert len(set(chosen)) == 100
    assert chosen == sorted(chosen)
    assert len({many[place] for place in chosen}) <= 64
    assert spread(100, BLOCKS, 100) == list(range(100))
