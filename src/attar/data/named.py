"""The datasets that have a name: digits, CIFAR and the ImageNet family."""

import functools
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import layout
from attar.data.source import Arrays, Found
from attar.data.titles import IMAGENET_TERMS, titles, wordnet_ids


@dataclass(frozen=True)
class Named:
    """A dataset with a name: what it is, and where its files are expected."""

    about: str
    num_classes: int
    folders: tuple[str, ...] = ()
    """What its folder is called."""
    holds: tuple[str, ...] = ()
    """What is in its folder: any one of these."""
    some_classes: tuple[str, ...] = ()
    """Names of classes that other datasets hardly have; empty: all its classes are WordNet ids."""


_SHARDS = ("train-*.parquet", "data/train-*.parquet", "*train*.tar")

KNOWN = {
    "digits": Named(
        "1,797 handwritten digits, 8x8, grey, 10 classes; ships with scikit-learn", 10, some_classes=tuple("0123456789")
    ),
    "cifar10": Named(
        "50,000 + 10,000 images, 32x32, 10 classes",
        10,
        ("cifar10",),
        ("cifar-10-batches-py",),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Named(
        "50,000 + 10,000 images, 32x32, 100 classes",
        100,
        ("cifar100",),
        ("cifar-100-python",),
        ("aquarium_fish", "lawn_mower", "maple_tree", "pickup_truck", "sweet_pepper", "willow_tree"),
    ),
    "tiny-imagenet": Named(
        "100,000 + 10,000 images, 64x64, 200 classes; the published folder, or Parquet files",
        200,
        ("tiny-imagenet", "tiny-imagenet-200"),
        ("train", *_SHARDS),
    ),
    "imagenet-1k": Named(
        "1,281,167 + 50,000 photographs, 1,000 classes; folders train/ and val/, Parquet or tar files",
        1000,
        ("imagenet-1k", "imagenet"),
        ("train", *_SHARDS),
    ),
    "imagenet-21k-p": Named(
        "about 11 million photographs, 10,450 classes; folders train/ and val/, or imagenet21k_train/ and _val/",
        10450,
        ("imagenet-21k-p", "imagenet21k_resized"),
        ("train", "imagenet21k_train", *_SHARDS),
    ),
}


def available() -> dict[str, str]:
    """Everything that a source can be, with a line on each."""
    return {name: named.about for name, named in KNOWN.items()} | {
        "PATH": "a folder: train/ and val/ with a folder per class, a folder per class, Parquet, tar, save_to_disk",
        "'SHARDS/train-{000..146}.tar'": "WebDataset tar files, or Parquet files, of these names",
        "hf:ORG/NAME": "a dataset of the Hugging Face Hub; needs pip install 'attar[hub]'",
    }


def has_classes_of(name: str, classes: Sequence[str]) -> bool:
    """Return whether these look like the classes of the dataset ``name``: as many, with names as it has."""
    known = KNOWN[name]
    if known.some_classes:
        fitting = set(known.some_classes) <= set(classes)
    else:
        fitting = all(re.fullmatch(r"n\d{8}", one) for one in classes)
    return fitting and len(classes) == known.num_classes


def read(name: str, root: str, log: Log) -> Found:
    """The dataset called ``name``, a key of KNOWN, from the folder ``root`` or where it is expected.

    Raises AttarError when it is not there, is damaged, or has another number of classes than it should.
    """
    if name == "digits":
        return _digits()
    path = _locate(name, root)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, path)
    found = layout.read(path, log)
    if len(found.classes) != (expected := KNOWN[name].num_classes):
        raise AttarError(
            f"{path} has {len(found.classes)} classes and {name} has {expected}; finish extracting it, "
            f"or use it as it is with --data.source {path}."
        )
    if found.classes == tuple(map(str, range(expected))) and (ids := wordnet_ids(name)):
        log.say(f"data      {path} numbers its classes, so they are named in the usual order: 0 is {ids[0]}, ...")
        found = replace(found, classes=ids, titles=titles(None, ids))
    return replace(found, licence=IMAGENET_TERMS)


def _locate(name: str, root: str) -> Path:
    known = KNOWN[name]
    if root:
        base = Path(root).expanduser()
        places = [base, *(base / folder for folder in known.folders)]
    else:
        base = Path(os.environ.get("ATTAR_DATA") or "data").expanduser()
        places = [*(base / folder for folder in known.folders), base]
    for place in places:
        if any(next(place.glob(pattern), None) for pattern in known.holds):
            return place
    raise AttarError(
        f"{name} is not in {_either(places)}; put a folder with {_either(known.holds)} there, "
        f"or name it with --data.root."
    )


def _digits() -> Found:
    images, labels = _digit_arrays()
    split = Arrays(images, labels.copy(), "digits")
    return Found(tuple("0123456789"), split, None, licence="CC BY 4.0 (UCI ML digits)")


@functools.cache
def _digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of scikit-learn's digits, from its file: to import the package takes seconds."""
    package = importlib.util.find_spec("sklearn")
    folder = Path((package.submodule_search_locations or [""])[0] if package else "")
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        table = np.loadtxt(path, delimiter=",")
        values, labels = table[:, :-1], table[:, -1].astype(np.int64)
    else:
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
    grey = np.rint(np.asarray(values).reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images, labels = np.repeat(grey, 3, axis=3), np.asarray(labels)
    for array in (images, labels):
        array.flags.writeable = False
    return images, labels


def _cifar(name: str, path: Path) -> Found:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        train, test = kind(path, train=True), kind(path, train=False)
    except RuntimeError:  # torchvision has compared checksums
        raise AttarError(
            f"{path / kind.base_folder} is incomplete or damaged; extract {kind.filename} of {name} there again."
        ) from None
    return Found(
        tuple(train.classes),
        Arrays(train.data, np.asarray(train.targets), f"{name} train"),
        Arrays(test.data, np.asarray(test.targets), f"{name} test"),
    )


def _either(names: Sequence[object]) -> str:
    return " or ".join(str(name) for name in names)
