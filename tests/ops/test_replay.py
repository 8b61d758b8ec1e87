"""ops/replay.py: a student sees the very pixels that the teacher labelled, whatever the batches."""

import pytest
import torch
from torch import Tensor

from attar.ops import augment, dsa, mixing, mosaic, replay, views
from attar.ops.choices import AUGMENTATIONS, Storage
from attar.ops.mixing import MixChoice
from attar.ops.pixels import from_bytes, to_bytes
from attar.ops.replay import LookChoice, Records

CROPS = {"resized": LookChoice(), "padded": LookChoice(crop="padded"), "none": LookChoice(crop="none")}
BEFORE = LookChoice(randaugment_ops=2, randaugment_place="before-crop")


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_set(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=stream(0), dtype=torch.uint8)


def shown_in_batches(images: Tensor, order: Tensor, batch_size: int, records: Records) -> Tensor:
    """What ``show`` yields for batches of an order, put back into the set's own order."""
    seen = torch.empty(images.shape)
    for index in order.split(batch_size):
        seen[index] = replay.show(images, index, records)
    return seen


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("side", [8, 28, 64])
def test_another_batch_size_and_order_show_the_very_same_pixels(kind: str, crop: str, side: int):
    """Bit by bit on the CPU: each pixel is its own few sums, whoever shares the batch."""
    images = small_set(40, side)
    records = replay.draw(
        40, (side, side), CROPS[crop], MixChoice.of({"kind": kind, "alpha": 0.8}, "the test"), stream(1)
    )
    labelled = shown_in_batches(images, torch.arange(40), 40, records)
    for seed, batch_size in enumerate((1, 3, 16, 40)):
        order = torch.randperm(40, generator=stream(seed))
        assert torch.equal(shown_in_batches(images, order, batch_size, records), labelled)


def test_a_mixed_view_is_the_two_views_mixed():
    images = small_set(12, 16)
    records = replay.draw(12, (16, 16), LookChoice(), MixChoice(kind="cutmix"), stream(1))
    mix = records.mix
    assert mix is not None
    every = views.apply(from_bytes(images), records.look.view)
    expected = mixing.apply(every, every[mix.partner], mix)
    torch.testing.assert_close(replay.show(images, torch.arange(12), records), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(replay.show(images, torch.arange(12), Records(records.look)), every, atol=1e-6, rtol=0)


def test_a_partner_may_be_looked_at_as_it_is_not_itself():
    """As in a pool, where an image's record and its partner's may be of different epochs."""
    images = small_set(12, 16)
    records, other = (replay.draw(12, (16, 16), LookChoice(), MixChoice(kind="mixup"), stream(seed)) for seed in (1, 2))
    mix, partner_look = records.mix, other.look
    assert mix is not None
    own = views.apply(from_bytes(images), records.look.view)
    partners = views.apply(from_bytes(images[mix.partner]), partner_look.view)
    shown = replay.show(images, torch.arange(12), Records(records.look, mix, partner_look))
    torch.testing.assert_close(shown, mixing.apply(own, partners, mix), atol=1e-6, rtol=0)


def test_patches_are_shuffled_before_and_colours_changed_after_cropping():
    images = small_set(10, 16)
    choice = LookChoice(patch_shuffle=2, randaugment_ops=2)
    look = replay.draw(10, (16, 16), choice, MixChoice(), stream(1)).look
    assert look.patches is not None
    assert look.randaugment is not None
    shuffled = augment.shuffle(images, look.patches)
    expected = augment.change(views.apply_to_bytes(shuffled, torch.arange(10), look.view), look.randaugment)
    assert torch.equal(replay.show(images, torch.arange(10), Records(look)), expected)
    assert not torch.equal(expected, views.apply(from_bytes(images), look.view))


@pytest.mark.parametrize("operations", ["torchvision", "timm"])
@pytest.mark.parametrize("factor", [1, 2])
def test_randaugment_before_the_crop_changes_the_stored_image(operations: str, factor: int):
    images, storage = small_set(30, 16), Storage(factor=factor)
    choice = BEFORE.changed(patch_shuffle=2, randaugment_set=operations)
    look = replay.draw(30, (16, 16), choice, MixChoice(), stream(1), storage=storage).look
    assert look.patches is not None
    assert look.randaugment is not None
    decoded = images if look.part is None else to_bytes(mosaic.show(images, torch.arange(30), look.part))
    changed = augment.change(augment.shuffle(decoded, look.patches), look.randaugment)
    assert changed.dtype == torch.uint8
    expected = views.apply(from_bytes(changed), look.view)
    shown = replay.show(images, torch.arange(30), Records(look))
    torch.testing.assert_close(shown, expected, atol=1e-6, rtol=0)
    after = replay.draw(30, (16, 16), choice.changed(randaugment_place="after-crop"), MixChoice(), stream(1)).look
    assert not torch.equal(shown, replay.show(images, torch.arange(30), Records(after)))


@pytest.mark.parametrize("choice", ["torchvision", "timm"])
@pytest.mark.parametrize("place", ["before-crop", "after-crop"])
@pytest.mark.parametrize("kind", ["none", "cutmix"])
def test_randaugment_is_shown_alike_in_any_batch(choice: str, place: str, kind: str):
    images, looks = small_set(24, 16), BEFORE.changed(randaugment_set=choice, randaugment_place=place)
    records = replay.draw(24, (16, 16), looks, MixChoice.of({"kind": kind}, "it"), stream(1))
    labelled = shown_in_batches(images, torch.arange(24), 24, records)
    assert torch.equal(shown_in_batches(images, torch.randperm(24, generator=stream(3)), 5, records), labelled)
    epoch = replay.ShownEpoch(images, records)
    assert torch.equal(torch.cat([epoch.show(index) for index in torch.arange(24).split(7)]), labelled)


@pytest.mark.parametrize("enlarge", ["nearest", "bilinear"])
def test_the_part_is_enlarged_first_and_siamese_augmentation_comes_last(enlarge: str):
    images, choice = small_set(20, 16), LookChoice(dsa=AUGMENTATIONS, dsa_combine="warp")
    storage = Storage.of({"factor": 2, "enlarge": enlarge}, "the test")
    look = replay.draw(20, (16, 16), choice, MixChoice(), stream(1), storage=storage).look
    assert look.part is not None
    assert look.siamese is not None
    assert set(look.part.number.tolist()) == {0, 1, 2, 3, 4}
    parts = mosaic.decoded(images, storage).unflatten(0, (20, 4))
    every = torch.cat([from_bytes(images)[:, None], parts], 1)
    decoded = every[torch.arange(20), look.part.number.long()]
    seen = (views.apply(decoded, look.view) - 0.45) / 0.225
    expected = dsa.apply(seen, look.siamese.levels, AUGMENTATIONS) * 0.225 + 0.45
    torch.testing.assert_close(replay.show(images, torch.arange(20), Records(look)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("kind", ["none", "cutmix"])
def test_parts_and_siamese_augmentation_are_shown_alike_in_any_batch(crop: str, kind: str):
    images, storage = small_set(24, 16), Storage(factor=2)
    choice = CROPS[crop].changed(dsa=AUGMENTATIONS, dsa_combine="one", flip=False)
    records = replay.draw(24, (16, 16), choice, MixChoice.of({"kind": kind}, "it"), stream(1), storage=storage)
    labelled = shown_in_batches(images, torch.arange(24), 24, records)
    assert torch.equal(shown_in_batches(images, torch.randperm(24, generator=stream(3)), 5, records), labelled)
    epoch = replay.ShownEpoch(images, records)
    assert torch.equal(torch.cat([epoch.show(index) for index in torch.arange(24).split(7)]), labelled)


def test_parts_of_partners_are_looked_at_as_drawn():
    images, storage = small_set(12, 16), Storage(factor=2)
    records = replay.draw(12, (16, 16), LookChoice(), MixChoice(kind="cutmix"), stream(1), storage=storage)
    assert records.mix is not None
    every = replay.show(images, torch.arange(12), Records(records.look))
    expected = mixing.apply(every, every[records.mix.partner], records.mix)
    assert torch.equal(replay.show(images, torch.arange(12), records), expected)


def test_further_augmentation_leaves_other_draws_alone():
    plain, more = LookChoice(), LookChoice(patch_shuffle=2, randaugment_ops=1, dsa=AUGMENTATIONS)
    first, second = (
        replay.draw(20, (16, 16), choice, MixChoice(kind="cutmix"), stream(1), storage=storage)
        for choice, storage in ((plain, Storage()), (more, Storage(factor=2)))
    )
    assert torch.equal(first.look.view.box, second.look.view.box)
    assert first.mix is not None
    assert second.mix is not None
    assert torch.equal(first.mix.partner, second.mix.partner)


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("room", [0, 2**30])
def test_an_epoch_shows_what_its_batches_show(kind: str, pooled: bool, room: int, monkeypatch: pytest.MonkeyPatch):
    images, choice = small_set(30, 16), LookChoice(patch_shuffle=2, randaugment_ops=1)
    mix = MixChoice.of({"kind": kind}, "the test")
    records, other = (replay.draw(30, (16, 16), choice, mix, stream(seed)) for seed in (1, 2))
    if pooled and records.mix is not None:
        records = Records(records.look, records.mix, other.look)
    epoch, num_made = replay.ShownEpoch(images, records, room_bytes=room), []
    made = replay._augmented
    monkeypatch.setattr(replay, "_augmented", lambda *given: num_made.append(len(given[1])) or made(*given))
    batches = torch.randperm(30, generator=stream(3)).split(7)
    shown = [epoch.show(index) for index in batches]
    assert sum(num_made) == (60 if kind != "none" and (pooled or not room) else 30)
    assert all(
        torch.equal(batch, replay.show(images, index, records)) for batch, index in zip(shown, batches, strict=True)
    )


def test_the_published_order_is_that_of_torchs_sampler():
    generator = torch.Generator().manual_seed(42)
    sampler = torch.utils.data.RandomSampler(range(11), generator=generator)
    for epoch in range(4):
        assert replay.published_order(torch.zeros(11), torch.arange(11), epoch).tolist() == list(sampler)


def test_the_published_order_counts_images_class_by_class():
    labels, slots = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([3, 3, 3, 4, 4, 4])  # as recover leaves a set
    counted = torch.tensor([0, 3, 1, 4, 2, 5])
    plain = replay.published_orders(torch.zeros(6), torch.arange(6))
    for epoch in range(3):
        assert torch.equal(replay.published_order(labels, slots, epoch), counted[next(plain)])


def test_an_image_may_come_twice_in_a_batch():
    images = small_set(6, 16)
    records = replay.draw(6, (16, 16), LookChoice(), MixChoice(kind="mixup"), stream(1))
    twice = replay.show(images, torch.tensor([4, 2, 4]), records)
    assert torch.equal(twice[0], twice[2])


def test_draws_follow_from_the_generator_and_differ_from_image_to_image():
    choices = (LookChoice(), MixChoice(kind="cutmix"))
    first, again, other = (replay.draw(50, (32, 32), *choices, stream(seed)) for seed in (1, 1, 2))
    assert first.mix is not None
    assert again.mix is not None
    assert torch.equal(first.look.view.box, again.look.view.box)
    assert torch.equal(first.mix.partner, again.mix.partner)
    assert not torch.equal(first.look.view.box, other.look.view.box)
    assert len(first) == len(first.mix) == 50
    assert len({tuple(box) for box in first.look.view.box.tolist()}) > 40


@pytest.mark.gpu
@pytest.mark.parametrize(
    "choice",
    [LookChoice(), LookChoice(patch_shuffle=2), BEFORE, BEFORE.changed(randaugment_set="timm")],
    ids=["plain", "patches", "torchvision", "timm"],
)
def test_images_on_the_cpu_are_shown_on_a_gpu_as_those_on_it(choice: LookChoice):
    images = small_set(12, 16)
    records = replay.draw(12, (16, 16), choice, MixChoice(kind="cutmix"), stream(1))
    index, gpu = torch.randperm(12, generator=stream(2)), torch.device("cuda", 0)
    sent, there = replay.show(images, index, records, gpu), replay.show(images.to(gpu), index, records)
    assert sent.device == there.device == gpu
    assert torch.equal(sent, there)
    level = 1 / 255 if choice.randaugment_ops else 0  # bytes are cut off, and sums differ in the last bit
    torch.testing.assert_close(sent.cpu(), replay.show(images, index, records), atol=level + 1e-6, rtol=0)
