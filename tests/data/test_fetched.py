import numpy as np
import pytest
import torch

from attar.core.randomness import generator
from attar.data.fetched import Fetched
from attar.data.order import shuffled


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize(
    ("window", "limit", "fits"), [(20, 80, True), (20, 65, False), (100, 100, False), (0, 9, False)]
)
def test_blocks_are_fetched_before_their_first_image_and_fit(window: int, limit: int, fits: bool, behind: int) -> None:
    blocks = np.repeat(np.arange(20), 5)
    order = shuffled(100, blocks, window, generator(0))
    batches = order.split(5)
    fetched = Fetched(batches, blocks, np.full(20, 10), limit, window, behind)
    started: list[int] = list(fetched.wanted(-1))
    finished: list[int] = []
    for number, batch in enumerate(batches):
        assert set(blocks[batch.numpy()].tolist()) <= set(started) - set(finished)
        finished += fetched.finished(number)
        started += fetched.wanted(number)
        assert not fits or 10 * (len(started) - len(finished)) <= limit
    assert sorted(started) == list(range(20))
    assert sorted(set(finished)) == sorted(finished)


def test_a_window_is_fetched_ahead_where_it_fits() -> None:
    blocks = np.repeat(np.arange(6), 10)
    batches = torch.arange(60).split(10)
    roomy, tight = (Fetched(batches, blocks, np.full(6, 7), limit, 20, 1) for limit in (100, 21))
    assert list(roomy.wanted(-1)) == [0, 1]
    assert list(roomy.wanted(0)) == [2]
    assert list(tight.wanted(-1)) == [0, 1]
    assert list(tight.wanted(0)) == [2]
    assert list(tight.wanted(1)) == []  # until another is finished
    assert list(tight.finished(1)) == [0]
    assert list(tight.wanted(1)) == [3]
    assert list(roomy.finished(1)) == [0]
