"""stages/published_labels.py: published labels give the views and targets of their writer, and fit no other images."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import published_layout
from attar.core.errors import AttarError
from attar.ops import replay
from attar.ops.codec import Codec
from attar.ops.replay import LookChoice
from attar.stages.published_labels import PublishedLabels, views_seen
from attar.store import fkd as fkd_files
from attar.store import labels as label_files
from attar.store.images import ImageSet, decode
from attar.store.labels import EpochLabels, Header, LabelStore
from published_layout import IPC, NUM_CLASSES, NUM_EPOCHS, SIZE, Kind, Shown

KINDS: tuple[Kind, ...] = ("none", "cutmix", "mixup")
COUNT = NUM_CLASSES * IPC
NAMES = [f"new{label:03d}/class{label:03d}_id{slot:03d}.jpg" for slot in range(IPC) for label in range(NUM_CLASSES)]
"""Slot by slot, as attar keeps sets; ImageFolder counts class by class."""
Told = dict[tuple[int, str], Shown]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_layout.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(root: Path) -> ImageSet:
    pictures = torch.stack([decode((root / name).read_bytes()) for name in NAMES])
    return ImageSet(pictures, torch.arange(NUM_CLASSES).repeat(IPC), torch.arange(IPC).repeat_interleave(NUM_CLASSES))


@pytest.fixture(scope="module")
def written(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, tuple[Path, Told]]:
    """A folder of labels of each kind, and what their writer showed."""
    folder = tmp_path_factory.mktemp("labels")
    return {kind: (folder / kind, published_layout.write(root, folder / kind, kind)) for kind in KINDS}


@pytest.fixture
def cutmix(written: dict[Kind, tuple[Path, Told]], tmp_path: Path) -> Path:
    """A copy of labels, to be changed."""
    return Path(shutil.copytree(written["cutmix"][0], tmp_path / "cutmix"))


def assert_as_told(epoch: int, found: EpochLabels, told: Told) -> None:
    """Boxes, flips and logits are exact; shares to float32's precision."""
    view, mix = found.records.look.view, found.records.mix
    for place, name in enumerate(NAMES):
        shown = told[epoch, name]
        assert tuple(view.box[place].tolist()) == shown.crop
        assert bool(view.flip[place]) == shown.flip
        assert torch.equal(found.encoded_logits["logits"][place], shown.logits)
        if mix is None:
            assert shown.partner is None
            continue
        assert NAMES[int(mix.partner[place])] == shown.partner
        assert float(mix.weight[place]) == pytest.approx(shown.share, abs=1e-7)
        if mix.box is None:
            assert shown.box is None
        else:
            assert shown.box is not None
            top, left, bottom, right = shown.box
            assert mix.box[place].tolist() == [top, left, bottom - top, right - left]


@pytest.mark.parametrize("kind", KINDS)
def test_targets_and_views_are_those_that_the_writer_saw(
    images: ImageSet, written: dict[Kind, tuple[Path, Told]], kind: Kind
):
    folder, told = written[kind]
    found = PublishedLabels(folder, images, NUM_CLASSES)
    assert found.num_epochs == NUM_EPOCHS
    assert (found.mix.kind, found.mix.shared_by) == (kind, 0 if kind == "none" else published_layout.BATCH_SIZE)
    for epoch in range(NUM_EPOCHS):
        labels = found.epoch(epoch, Codec())
        assert_as_told(epoch, labels, told)
        shown = replay.show(images.images, torch.arange(COUNT), labels.records).to(torch.float64)
        expected = torch.stack([told[epoch, name].picture for name in NAMES])
        torch.testing.assert_close(shown, expected, rtol=0, atol=1e-6)
        # The proof that pictures and labels belong together: the teacher says the same of what attar shows.
        torch.testing.assert_close(
            published_layout.by_colour(shown), labels.encoded_logits["logits"].double(), rtol=2**-11, atol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_reader_replays_what_the_plain_writer_showed(
    root: Path, written: dict[Kind, tuple[Path, Told]], kind: Kind
):
    """The tests' own two sides agree, so what is compared with them stands on firm ground."""
    folder, told = written[kind]
    seen = 0
    for epoch, name, picture, logits in published_layout.read(root, folder, published_layout.BATCH_SIZE, NUM_EPOCHS):
        assert torch.equal(picture, told[epoch, name].picture)
        assert torch.equal(logits, told[epoch, name].logits)
        seen += 1
    assert seen == NUM_EPOCHS * COUNT


def test_epochs_may_be_asked_for_in_any_order(images: ImageSet, written: dict[Kind, tuple[Path, Told]]):
    folder, told = written["mixup"]
    found = PublishedLabels(folder, images, NUM_CLASSES)
    for epoch in (2, 0, 2, 1, 1, 0):
        assert_as_told(epoch, found.epoch(epoch, Codec()), told)


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_keeps_them(tmp_path: Path, images: ImageSet, written: dict[Kind, tuple[Path, Told]], kind: Kind):
    folder, told = written[kind]
    found = PublishedLabels(folder, images, NUM_CLASSES)
    header = Header(
        codec=Codec(),
        images_sha256=images.sha256(),
        num_images=COUNT,
        num_classes=NUM_CLASSES,
        num_epochs=found.num_epochs,
        epochs_per_file=2,
        height=SIZE,
        width=SIZE,
        views=found.views,
        mix=found.mix,
        teacher=found.layout.identity,
    )
    for name, epochs in header.files().items():
        label_files.write_file(tmp_path, header, name, [found.epoch(epoch, header.codec) for epoch in epochs])
    label_files.write_header(tmp_path, header)
    for epoch in range(NUM_EPOCHS):
        stored = LabelStore(tmp_path).epoch(epoch)
        assert_as_told(epoch, EpochLabels(stored.records, {"logits": stored.logits()}), told)


def test_labels_of_more_images_or_other_classes_are_refused(images: ImageSet, cutmix: Path):
    fewer = ImageSet(images.images[:-40], images.labels[:-40], images.slots[:-40])
    with pytest.raises(AttarError, match="are for 160 images, but there are 120; use the images"):
        PublishedLabels(cutmix, fewer, NUM_CLASSES)
    with pytest.raises(AttarError, match="are for 40 classes, but the data have 41; use labels"):
        PublishedLabels(cutmix, images, NUM_CLASSES + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_in_another_order_are_refused(
    root: Path, images: ImageSet, written: dict[Kind, tuple[Path, Told]], kind: Kind, tmp_path: Path
):
    with pytest.raises(AttarError, match="rank the classes of their images no higher than chance; use the images"):
        PublishedLabels(written[kind][0], images, NUM_CLASSES, seed=43)
    published_layout.write(
        root, tmp_path, kind, lambda pictures: published_layout.by_colour(pictures).roll(11, 1), num_epochs=1
    )
    with pytest.raises(AttarError, match="no higher than chance"):
        PublishedLabels(tmp_path, images, NUM_CLASSES)


@pytest.mark.parametrize(("size", "words"), [(SIZE + 1, "not whole pixels in images of 17x17"), (SIZE // 2, "size")])
def test_labels_of_images_of_another_size_are_refused(images: ImageSet, cutmix: Path, size: int, words: str):
    resized = images.images[:, :, :1, :1].expand(-1, -1, size, size)
    with pytest.raises(AttarError, match=words):
        PublishedLabels(cutmix, ImageSet(resized, images.labels, images.slots), NUM_CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_another_ones_place_is_named(
    tmp_path: Path, images: ImageSet, written: dict[Kind, tuple[Path, Told]], kind: Kind
):
    """Two full batches that changed places are whole and fit in form; only what they say gives them away."""
    folder = tmp_path / kind
    shutil.copytree(written[kind][0], folder)
    first, second = folder / "epoch_1" / "batch_0.tar", folder / "epoch_2" / "batch_1.tar"
    first.rename(folder / "epoch_1" / "kept")
    second.rename(first)
    (folder / "epoch_1" / "kept").rename(second)
    found = PublishedLabels(folder, images, NUM_CLASSES)
    assert len(found.epoch(0, Codec()).encoded_logits["logits"]) == COUNT
    for epoch, path in ((1, r"epoch_1/batch_0\.tar"), (2, r"epoch_2/batch_1\.tar")):
        with pytest.raises(AttarError, match=rf"{path} ranks .* it was swapped with another, so restore the file"):
            found.epoch(epoch, Codec())


def test_logits_that_are_not_finite_are_refused(images: ImageSet, cutmix: Path):
    path = cutmix / "epoch_2" / "batch_1.tar"
    content = torch.load(path, weights_only=False)
    content[5][3, 7] = torch.inf
    torch.save(content, path)
    found = PublishedLabels(cutmix, images, NUM_CLASSES)
    with pytest.raises(AttarError, match=r"batch_1\.tar holds logits that are not finite; copy"):
        found.epoch(2, Codec())


def test_a_file_that_is_changed_after_the_look_through_is_refused(images: ImageSet, cutmix: Path):
    found = PublishedLabels(cutmix, images, NUM_CLASSES)
    (cutmix / "epoch_1" / "batch_1.tar").unlink()
    with pytest.raises(AttarError, match=r"no file .*batch_1\.tar"):
        found.epoch(1, Codec())


@pytest.mark.parametrize(("share", "refused"), [(0.78, False), (0.45, True)])
def test_a_weak_files_ranks_may_be_those_of_a_weak_set(
    images: ImageSet, written: dict[Kind, tuple[Path, Told]], share: float, refused: bool
):
    """Of a set whose images rank at 0.84 +- 0.25, fifty may well rank at 0.78; at chance they do not."""
    found = PublishedLabels(written["none"][0], images, NUM_CLASSES)
    found._usual, found._varies = 0.84, 0.25
    index = torch.arange(50)
    below = round(share * (NUM_CLASSES - 1))
    logits = torch.ones(50, NUM_CLASSES)
    logits[:, :below] = -1
    logits.scatter_(1, images.labels[index][:, None], 0.0)
    batch = dataclasses.replace(fkd_files.read_batch(found.layout.path(0, 0)), logits=logits)
    with pytest.raises(AttarError, match="swapped with another") if refused else contextlib.nullcontext():
        found._refuse_swapped(batch, index, Path("batch_1.tar"))


@pytest.mark.parametrize(
    "choice",
    [
        LookChoice(),
        LookChoice(flip=False),
        LookChoice(min_scale=0.5),
        LookChoice(crop="padded", padding=3),
        LookChoice(crop="none", flip=False),
    ],
)
def test_how_views_were_drawn_is_seen_from_many(choice: LookChoice):
    view = choice.draw(2000, 64, 64, torch.Generator().manual_seed(0))
    found = views_seen(view.box, view.flip, 64, 64)
    assert found.min_scale == pytest.approx(choice.min_scale, abs=0.02)
    assert found.changed(min_scale=choice.min_scale, padding=choice.padding) == choice
    assert found.padding == choice.padding
