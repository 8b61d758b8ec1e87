"""ops/replay.py: a student sees the very pixels that the teacher labelled, whatever the batches."""

import pytest
import torch
from torch import Tensor

from attar.ops import mixing, replay, views
from attar.ops.mixing import Mix, MixChoice
from attar.ops.pixels import from_bytes
from attar.ops.views import View, ViewChoice

CROPS = {"resized": ViewChoice(), "padded": ViewChoice(crop="padded"), "none": ViewChoice(crop="none")}


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_set(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=stream(0), dtype=torch.uint8)


def shown_in_batches(images: Tensor, order: Tensor, batch_size: int, view: View, mix: Mix | None) -> Tensor:
    """What ``show`` yields for batches of an order, put back into the set's own order."""
    seen = torch.empty(images.shape)
    for index in order.split(batch_size):
        seen[index] = replay.show(images, index, view, mix)
    return seen


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("side", [8, 28, 64])
def test_another_batch_size_and_order_show_the_very_same_pixels(kind: str, crop: str, side: int):
    """Bit by bit on the CPU: each image is its own pair of matrix products, whoever shares the batch."""
    images = small_set(40, side)
    view, mix = replay.draw(
        40, (side, side), CROPS[crop], MixChoice.of({"kind": kind, "alpha": 0.8}, "the test"), stream(1)
    )
    labelled = shown_in_batches(images, torch.arange(40), 40, view, mix)
    for seed, batch_size in enumerate((1, 3, 16, 40)):
        order = torch.randperm(40, generator=stream(seed))
        assert torch.equal(shown_in_batches(images, order, batch_size, view, mix), labelled)


def test_a_mixed_view_is_the_two_views_mixed():
    images = small_set(12, 16)
    view, mix = replay.draw(12, (16, 16), ViewChoice(), MixChoice(kind="cutmix"), stream(1))
    assert mix is not None
    every = views.apply(from_bytes(images), view)
    assert torch.equal(replay.show(images, torch.arange(12), view, mix), mixing.apply(every, every[mix.partner], mix))
    assert torch.equal(replay.show(images, torch.arange(12), view, None), every)


def test_an_image_may_come_twice_in_a_batch():
    images = small_set(6, 16)
    view, mix = replay.draw(6, (16, 16), ViewChoice(), MixChoice(kind="mixup"), stream(1))
    twice = replay.show(images, torch.tensor([4, 2, 4]), view, mix)
    assert torch.equal(twice[0], twice[2])


def test_draws_follow_from_the_generator_and_differ_from_image_to_image():
    choices = (ViewChoice(), MixChoice(kind="cutmix"))
    (view, mix), (again, mix_again), (other, _) = (replay.draw(50, (32, 32), *choices, stream(s)) for s in (1, 1, 2))
    assert mix is not None
    assert mix_again is not None
    assert torch.equal(view.box, again.box)
    assert torch.equal(mix.partner, mix_again.partner)
    assert not torch.equal(view.box, other.box)
    assert len(view) == len(mix) == 50
    assert len({tuple(box) for box in view.box.tolist()}) > 40
