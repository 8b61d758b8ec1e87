"""Datasets that a program hands over: arrays, PyTorch datasets, and datasets of the ``datasets`` package."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import columns, hub
from attar.data.choice import IN_MEMORY
from attar.data.picture import Unreadable, rgb
from attar.data.source import Arrays, Found, Split, hashed
from attar.data.titles import licence, titles

_SAMPLED = 256
"""Images that a lazy dataset's identity is computed from."""
_TWICE = 4
"""Images that are read twice, to find augmentation."""
_HANDED: dict[str, Found] = {}


@contextlib.contextmanager
def handed_over(found: Found, name: str) -> Iterator[str]:
    """Make a dataset known during the block; yields its source, for ``data.source``."""
    source = IN_MEMORY + name
    _HANDED[source] = found
    try:
        yield source
    finally:
        del _HANDED[source]


def read(source: str) -> Found:
    """Return the dataset that is handed over as ``source``; raises AttarError outside ``handed_over``."""
    if source not in _HANDED:
        raise AttarError(
            f"The data of '{source}' are in a program's memory; call attar.distil with them again, or name a folder "
            f"with --data.source."
        )
    return _HANDED[source]


def found_in(dataset: Any, validation: Any = None, classes: Sequence[str] = (), log: Log | None = None) -> Found:
    """Return a dataset of one of these kinds; ``validation`` is of the same kind, None: hold out a part.

    - (images, labels): images as uint8, or floats in [0, 1]; a tensor of image x channel x height x width with 1 or 3
      channels, or an array of image x height x width (x channel).
    - A PyTorch dataset of (image, label) with ``len``: images are PIL images, or as above without the first axis. They
      are read when they are needed.
    - A ``datasets.Dataset`` or ``DatasetDict`` with a column of images and one of labels.

    ``classes`` are the names of the labels 0, 1, ...; default: those that the dataset knows, else the numbers. Raises
    AttarError when images or labels are of another kind, or the images are augmented at random or normalised.
    """
    if type(dataset).__module__.split(".")[0] == "datasets":
        parts = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
        parts |= {} if validation is None else {"validation": validation}
        return hub.found(parts, "dataset", None, log or Log())
    names = tuple(map(str, classes)) or _names_of(dataset)
    train = _split(dataset, names, "dataset")
    val = None if validation is None else _split(validation, names, "validation")
    most = max(int(part.labels.max(initial=0)) for part in (train, val) if part is not None)
    names = names or tuple(str(label) for label in range(most + 1))
    if most >= len(names):
        raise AttarError(f"The labels go up to {most}, but there are {len(names)} classes; name all in classes.")
    return Found(names, train, val, titles(None, names), licence(names))


def _names_of(dataset: Any) -> tuple[str, ...]:
    """Return the class names that a dataset knows, as torchvision's do."""
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None) or getattr(dataset, "class_names", None) or ()
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _split(dataset: Any, names: tuple[str, ...], what: str) -> Split:
    if isinstance(dataset, torch.utils.data.TensorDataset):
        dataset = dataset.tensors
    if isinstance(dataset, tuple | list) and len(dataset) == 2 and getattr(dataset[0], "ndim", 0) > 2:
        images = as_bytes(dataset[0], f"{what} images", batched=True)
        return Arrays(images, _labels(dataset[1], len(images), names, what), what)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise AttarError(
            f"attar cannot use a {type(dataset).__name__} as the {what}; pass (images, labels), a PyTorch dataset with "
            f"len, a datasets.Dataset, or a folder."
        )
    if not len(dataset):
        raise AttarError(f"The {what} is empty.")
    return Items(dataset, _labels(_labels_of(dataset), len(dataset), names, what), what)


class Items(Split):
    """Images of a PyTorch dataset, read when they are needed."""

    def __init__(self, dataset: Any, labels: np.ndarray, name: str) -> None:
        """Raises AttarError when two reads of an image differ."""
        self.labels, self._dataset, self._name = labels, dataset, name
        for index in _spread(len(labels), _TWICE):
            if not np.array_equal(np.asarray(self.image(index)), np.asarray(self.image(index))):
                raise AttarError(
                    f"Two reads of {self.where(index)} differ, so its transform augments at random; pass the dataset "
                    f"without augmentation, which attar adds itself."
                )

    def image(self, index: int) -> Image.Image:
        try:
            found = _item(self._dataset[int(index)])[0]
            if isinstance(found, Image.Image):
                return rgb(found)
            return Image.fromarray(as_bytes(found, self.where(index), batched=False))
        except AttarError:
            raise
        except Exception as error:  # somebody's own code
            raise Unreadable(self.where(index), f"{type(error).__name__}: {error}") from None

    def where(self, index: int) -> str:
        return f"{self._name} image {index}"

    def identity(self) -> str:
        parts = [np.asarray(self.image(index)) for index in _spread(len(self), _SAMPLED)]
        return hashed(self.labels, *parts)

    def num_bytes(self) -> int:
        """About: as bytes of pixels, from a few images."""
        sizes = [np.asarray(self.image(index)).size for index in _spread(len(self), _TWICE)]
        return int(np.mean(sizes) * len(self))


def as_bytes(images: Any, where: str, batched: bool) -> UInt8[np.ndarray, "*image height width 3"]:
    """Return images as bytes in RGB; raises AttarError, which calls them ``where``, when they are something else."""
    channels_first = isinstance(images, torch.Tensor)
    pixels = images.detach().cpu().numpy() if channels_first else np.asarray(images)
    if pixels.ndim == 2 + batched:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 + batched:
        first, last = pixels.shape[batched] in (1, 3), pixels.shape[-1] in (1, 3)
        pixels = np.moveaxis(pixels, batched, -1) if first and (channels_first or not last) else pixels
    if pixels.ndim != 3 + batched or pixels.shape[-1] not in (1, 3):
        raise AttarError(f"{where} of shape {tuple(np.shape(images))} are no grey or RGB images; 1 or 3 channels are.")
    if pixels.dtype != np.uint8:
        pixels = _scaled(pixels, where)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)


def _scaled(pixels: np.ndarray, where: str) -> UInt8[np.ndarray, "*shape"]:
    """Return floats in [0, 1] as bytes."""
    if pixels.dtype.kind != "f":
        raise AttarError(f"{where} hold {pixels.dtype}; pass uint8, or floats in [0, 1].")
    if pixels.size and not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise AttarError(
            f"{where} have values outside [0, 1] (from {pixels.min():.3g} to {pixels.max():.3g}); pass them as uint8 "
            f"or in [0, 1], without Normalize, which attar does itself."
        )
    return np.rint(pixels * 255).astype(np.uint8)


def _labels(values: Any, count: int, names: tuple[str, ...], what: str) -> Int[np.ndarray, " image"]:
    """Return labels as numbers from 0; raises AttarError when they are none, or not one for each image."""
    found = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 1 and found.dtype.kind in "US" and names:
        place = {name: label for label, name in enumerate(names)}
        unknown = next((name for name in found.tolist() if name not in place), None)
        if unknown is not None:
            raise AttarError(f"The {what} has a label '{unknown}' that is not in classes.")
        found = np.array([place[name] for name in found.tolist()])
    if found.ndim != 1 or found.dtype.kind not in "iub":
        raise AttarError(
            f"The labels of the {what} must be one whole number for each image, from 0 (or names, with classes=...); "
            f"these are {found.dtype} of shape {found.shape}."
        )
    if len(found) != count:
        raise AttarError(f"The {what} has {count} images and {len(found)} labels; pass one label for each image.")
    if len(found) and found.min() < 0:
        raise AttarError(f"The {what} has the label {found.min()}; labels count from 0.")
    return found.astype(np.int64)


def _labels_of(dataset: Any) -> Any:
    """Return all labels of a PyTorch dataset: those that it lists, if they are the items' own, else from all items."""
    listed = _listed(dataset)
    if listed is not None and len(listed) == len(dataset):
        places = _spread(len(dataset), 16)
        if all(int(_item(dataset[place])[1]) == int(listed[place]) for place in places):
            return listed
    return [int(_item(dataset[place])[1]) for place in range(len(dataset))]


def _listed(dataset: Any) -> Any:
    if isinstance(dataset, torch.utils.data.Subset):
        inner = _listed(dataset.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(dataset.indices, dtype=np.int64)]
    found = getattr(dataset, "targets", None)
    return getattr(dataset, "labels", None) if found is None else found


def _item(item: Any) -> tuple[Any, Any]:
    """Return the image and the label of an item."""
    if isinstance(item, Mapping):
        keys = list(item)
        return item[columns.find(keys, columns.IMAGE, "image", "dataset")], item[
            columns.find(keys, columns.LABEL, "label", "dataset")
        ]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise AttarError(f"Items of the dataset are {type(item).__name__}; they must be (image, label).")
    return item[0], item[1]


def _spread(count: int, most: int) -> list[int]:
    """Return up to ``most`` places, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)).tolist()
