"""Data in memory: what each kind of dataset becomes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import given
from attar.data.choice import DataChoice
from attar.data.load import load

LABELS = [0, 1, 2, 0, 1, 2]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


class Pictures(Dataset):
    """Images of any kind with labels; counts how often it is read."""

    classes = ("ant", "bee", "cat")

    def __init__(self, images, labels=LABELS):
        self.images, self.labels_of, self.num_reads = images, labels, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.num_reads += 1
        return self.images[index], self.labels_of[index]


def test_arrays_and_tensors_become_the_same_bytes(pixels):
    chw = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for images in (pixels, chw, chw.float() / 255, chw.double() / 255, np.moveaxis(pixels, 3, 1)):
        found = given.found_in((images, LABELS))
        assert found.classes == ("0", "1", "2")
        assert np.array_equal(np.asarray(found.train.image(4)), pixels[4])
    grey = given.found_in((pixels[..., 0], torch.tensor(LABELS))).train
    assert np.array_equal(np.asarray(grey.image(1)), np.repeat(pixels[1, ..., :1], 3, axis=2))
    assert (
        given.found_in(TensorDataset(chw, torch.tensor(LABELS))).train.identity()
        == given.found_in((pixels, LABELS)).train.identity()
    )


def test_a_pytorch_dataset_is_read_when_it_is_needed(pixels):
    pictures = [Image.fromarray(image) for image in pixels]
    data = Pictures(pictures)
    found = given.found_in(data, validation=Subset(data, [1, 2]))
    assert found.classes == ("ant", "bee", "cat")
    assert found.train.labels.tolist() == LABELS
    assert found.val.labels.tolist() == [1, 2]
    assert np.array_equal(np.asarray(found.train.image(3)), pixels[3])
    as_dicts = given.found_in([{"image": image, "label": label} for image, label in zip(pictures, LABELS, strict=True)])
    assert as_dicts.train.identity() == found.train.identity()
    assert given.found_in(Pictures(pictures[::-1])).train.identity() != found.train.identity()


def test_labels_that_a_dataset_lists_are_not_read_one_by_one(pixels):
    many = Pictures([Image.fromarray(pixels[0])] * 300, LABELS * 50)
    many.targets = LABELS * 50
    given.found_in(Subset(many, range(0, 300, 2)))
    assert many.num_reads < 60
    many.targets = [0] * 300  # a dataset that changes its labels
    assert given.found_in(many).train.labels.tolist() == LABELS * 50


def test_names_of_classes_and_labels(pixels):
    assert given.found_in((pixels, LABELS), classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    named = given.found_in((pixels, np.array(["b", "a", "b", "a", "b", "a"])), classes=["a", "b"])
    assert named.train.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_a_dataset_of_the_datasets_package(pixels):
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": LABELS}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})
    table = datasets.Dataset.from_dict(rows, features=features)
    found = given.found_in(table, validation=table.select([0, 1, 2]))
    assert found.classes == ("x", "y", "z")
    assert len(found.val) == 3
    assert np.array_equal(np.asarray(found.train.image(5)), pixels[5])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: (images / 127.5 - 1, LABELS), "values outside \\[0, 1\\].*without Normalize"),
        (lambda images: (images.astype(np.int32), LABELS), "hold int32; pass uint8"),
        (lambda images: (images[..., :2], LABELS), "are no grey or RGB images"),
        (lambda images: (images, LABELS[:5]), "6 images and 5 labels"),
        (lambda images: (images, [0.5] * 6), "one whole number for each image"),
        (lambda images: (images, [-1] * 6), "labels count from 0"),
        (lambda images: (images, np.eye(6)), "one whole number for each image"),
        (lambda images: 3, "cannot use a int as the dataset"),
        (lambda images: [], "is empty"),
        (lambda images: Pictures([Image.fromarray(one) for one in images], [0, 1, 2, 3, 4, 5]), "3 classes"),
    ],
)
def test_other_data_are_refused(pixels, change, words):
    with pytest.raises(AttarError, match=words):
        given.found_in(change(pixels))


def test_augmentation_is_noticed(pixels):
    class Noisy(Pictures):
        def __getitem__(self, index):
            noise = np.random.default_rng().integers(0, 9, self.images[index].shape, dtype=np.uint8)
            return np.minimum(self.images[index], 240) + noise, self.labels_of[index]

    with pytest.raises(AttarError, match="its transform augments at random"):
        given.found_in(Noisy(pixels))


def test_data_are_known_only_while_they_are_handed_over(pixels):
    found = given.found_in((np.repeat(pixels, 4, axis=0), np.repeat(LABELS, 4)))
    with given.handed_over(found, "mine") as source:
        real = load(DataChoice(source=source, size=4), 0, Log(quiet=True))
        assert (real.name, len(real.classes), len(real.train) + len(real.val)) == ("mine", 3, 24)
    with pytest.raises(AttarError, match="'python:mine' are in a program's memory; call attar.distil"):
        load(DataChoice(source=source), 0, Log(quiet=True))
