"""Folders of image files: one sub-folder per class, with or without a split, and the original Tiny-ImageNet."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.picture import Unreadable, decode
from attar.data.source import TRAIN_NAMES, VAL_NAMES, Found, Split, hashed
from attar.data.titles import licence, titles

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
Entries = list[tuple[str, int]]
"""File names and their bytes, sorted by name."""


class Files(Split):
    """Image files in a few folders. Names are kept in one array, which worker processes share with their parent."""

    def __init__(self, folders: Sequence[Path], entries: Sequence[Entries], labels: np.ndarray) -> None:
        """``entries`` holds the files of each folder; ``labels`` those of all files, folder by folder."""
        self.labels = np.asarray(labels, dtype=np.int64)
        self._folders = list(folders)
        self._folder = np.repeat(np.arange(len(entries), dtype=np.int32), [len(files) for files in entries])
        self._names = np.array([os.fsencode(name) for files in entries for name, _ in files], dtype=np.bytes_)
        self._bytes = np.array([size for files in entries for _, size in files], dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        return decode(self._path(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        try:
            return self._path(index).read_bytes()
        except OSError as error:
            raise Unreadable(self.where(index), error.strerror or "it cannot be opened") from None

    def where(self, index: int) -> str:
        return str(self._path(index))

    def identity(self) -> str:
        return hashed(self._names, self._bytes, self.labels)

    def num_bytes(self) -> int:
        return int(self._bytes.sum())

    def _path(self, index: int) -> Path:
        return self._folders[self._folder[index]] / os.fsdecode(bytes(self._names[index]))


def is_tiny_imagenet(path: Path) -> bool:
    """Whether this is Tiny-ImageNet as it was published, with the validation images in one flat folder."""
    return (path / "val" / "val_annotations.txt").is_file() and (path / "val" / "images").is_dir()


def read_tiny_imagenet(path: Path, log: Log) -> Found:
    """Tiny-ImageNet as published: classes are train's folders, sorted; val's labels are in its annotations."""
    classes, train = _read_classes(path / "train", log)
    flat, annotations = path / "val" / "images", path / "val" / "val_annotations.txt"
    sizes = dict(_images(flat))
    rows = sorted(line.split("\t")[:2] for line in annotations.read_text().splitlines() if line.strip())
    index = {name: label for label, name in enumerate(classes)}
    for file, name in rows:
        if file not in sizes:
            raise AttarError(f"{flat / file} is missing, and {annotations} lists it; extract the dataset again.")
        if name not in index:
            raise AttarError(f"{annotations} has the class '{name}', which train lacks; extract the dataset again.")
    labels = np.array([index[name] for _, name in rows])
    val = Files([flat], [[(file, sizes[file]) for file, _ in rows]], labels)
    return Found(classes, train, val, titles(path, classes), licence(classes))


def has_split(path: Path) -> bool:
    """Whether the folder has a training folder of its own."""
    return _first(path, TRAIN_NAMES) is not None


def read_split(path: Path, log: Log) -> Found:
    """A training folder and, where there is one, a validation folder, each with one sub-folder per class."""
    train_path, val_path = _first(path, TRAIN_NAMES) or path, _first(path, VAL_NAMES)
    classes, train = _read_classes(train_path, log)
    if val_path is None:
        return Found(classes, train, None, titles(path, classes), licence(classes))
    names = tuple(class_folders(val_path))
    if not names:
        raise AttarError(
            f"{val_path} has no class folders; sort its images into one folder per class, named as in {train_path}."
        )
    if names != classes:
        _refuse_other_classes(train_path, val_path, classes, names)
    _, val = _read_classes(val_path, log)
    return Found(classes, train, val, titles(path, classes), licence(classes))


def read_unsplit(path: Path, log: Log) -> Found:
    """One sub-folder per class and no split."""
    classes, train = _read_classes(path, log)
    return Found(classes, train, None, titles(path, classes), licence(classes))


def class_folders(path: Path) -> dict[str, Path]:
    """The sub-folders by name, sorted; hidden ones and those of archivers left out."""
    with os.scandir(path) as entries:
        found = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    return {name: path / name for name in sorted(found)}


def _read_classes(path: Path, log: Log) -> tuple[tuple[str, ...], Files]:
    if not path.is_dir() or not (found := class_folders(path)):
        raise AttarError(f"{path} has no class folders; it should hold one folder of images per class.")
    folders, entries = [], []
    with log.progress("scanning", len(found)) as advance:
        for folder in found.values():
            files = _images(folder)
            if not files and (folder / "images").is_dir():  # Tiny-ImageNet's inner folder
                folder = folder / "images"
                files = _images(folder)
            if not files:
                raise AttarError(f"The class folder {folder} holds no images; fill or remove it.")
            folders.append(folder)
            entries.append(files)
            advance()
    labels = np.repeat(np.arange(len(entries)), [len(files) for files in entries])
    return tuple(found), Files(folders, entries, labels)


def _images(folder: Path) -> Entries:
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name, _bytes(entry))
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        )


def _bytes(entry: os.DirEntry[str]) -> int:
    with contextlib.suppress(OSError):  # a link to nowhere: found out when it is decoded
        return entry.stat().st_size
    return 0


def _first(path: Path, names: Iterable[str]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _refuse_other_classes(train_path: Path, val_path: Path, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    first = min(set(train) ^ set(val))
    lacking = val_path if first in train else train_path
    raise AttarError(
        f"{train_path} and {val_path} have different classes: '{first}' is the first that {lacking} lacks; "
        f"give both the same class folders."
    )
