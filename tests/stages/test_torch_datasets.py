"""Distilled sets as PyTorch datasets: the items of ``batches``, through any DataLoader."""

import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

import attar
from attar.core.errors import AttarError
from attar.ops import mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import from_bytes
from attar.stages.dataset_info import read_info, write_info
from attar.stages.distilled import Distilled


@pytest.fixture(scope="module")
def distilled(mini_run) -> Distilled:
    return attar.load(mini_run)


def test_hard_items_are_images_and_classes(distilled):
    data = distilled.hard_dataset()
    assert len(data) == 20
    image, label = data[3]
    assert torch.equal(image, distilled.normalisation.apply(from_bytes(distilled.images[3:4]))[0])
    assert label == int(distilled.labels[3])
    raw, _ = distilled.hard_dataset(transform=lambda one: one)[-1]
    assert torch.equal(raw, distilled.images[-1])
    assert len(list(data)) == 20
    with pytest.raises(IndexError):
        data[20]


def test_soft_items_are_those_of_batches(distilled):
    data = distilled.soft_dataset(temperature=2.0)
    for epoch in (1, 4, 1):
        data.set_epoch(epoch)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))  # unlike that of batches
        found = {index: data[index] for index in order.tolist()}
        views = distilled.epoch(epoch)
        shown, targets = views.take(torch.arange(20))
        for index, (image, soft) in found.items():
            assert torch.equal(image, distilled.normalisation.apply(shown)[index])
            torch.testing.assert_close(soft, torch.softmax(targets.logits[index].float() / 2, dim=0))


def test_workers_that_are_kept_see_the_epoch(distilled):
    data = distilled.soft_dataset()
    own = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size=8, num_workers=2, persistent_workers=True, generator=own)
    for epoch in range(2):
        data.set_epoch(epoch)
        images = torch.cat([images for images, _ in loader])
        shown, _ = distilled.epoch(epoch).take(torch.arange(20))
        assert torch.equal(images, distilled.normalisation.apply(shown))


def test_sets_are_sent_to_processes_that_share_nothing(distilled):
    data = pickle.loads(pickle.dumps(distilled.hard_dataset()))
    assert torch.equal(data[5][0], distilled.hard_dataset()[5][0])


def test_every_part_of_a_stored_image_is_an_item(mini_run, tmp_path):
    shutil.copytree(mini_run / "distilled", tmp_path / "set")
    info, storage = read_info(tmp_path / "set"), Storage(factor=2, enlarge="nearest")
    labels = info.labels.changed(mode="online")
    write_info(tmp_path / "set", info.changed(storage=storage, labels=labels))
    distilled = attar.load(tmp_path / "set")
    data = distilled.hard_dataset()
    assert len(data) == 80
    parts = mosaic.decoded(distilled.images, storage)
    image, label = data[4 * 7 + 2]
    assert torch.allclose(image, distilled.normalisation.apply(parts)[4 * 7 + 2])
    assert label == int(distilled.labels[7])


def test_labels_of_whole_batches_are_refused(mini_run, tmp_path):
    shutil.copytree(mini_run / "distilled", tmp_path / "set")
    info = read_info(tmp_path / "set")
    committee = info.labels.committee.changed(batchnorm="train")
    write_info(tmp_path / "set", info.changed(labels=info.labels.changed(mode="online", committee=committee)))
    with pytest.raises(AttarError, match="belong to whole batches"):
        attar.load(tmp_path / "set").soft_dataset()
