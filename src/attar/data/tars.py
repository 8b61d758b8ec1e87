"""WebDataset tar files: ``KEY.jpg`` with its label in ``KEY.cls`` or ``KEY.json``, read by random access."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import columns, content, splits, tar_index
from attar.data.picture import Unreadable, decode
from attar.data.scan import class_folders
from attar.data.source import Found, hashed
from attar.data.tar_index import Index
from attar.data.titles import WORDNET_ID, licence, titles

MOST_BYTES = 2**30
"""Bytes of an image's file that are read, at most."""
CLASS_LISTS = ("classnames.txt", "classes.txt", "class_names.txt", "synsets.txt", "labels.txt")
"""Files beside the shards that name the classes 0, 1, ..., one on each line."""
_NUMBER = re.compile(r"([-_.]?(\d+|of))+$")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_THREADS = 8


class Tarred(columns.Table):
    """Images in tar files. Keys are kept in one array, which worker processes share with their parent."""

    def __init__(self, paths: Sequence[Path], indexes: Sequence[Index], names: list[str] | None = None) -> None:
        """``names`` are those of the classes 0, 1, ...; raises AttarError when some images have no label.

        Raises NoLabels when none has. Tar files named by WordNet ids need no labels: each of them is a class.
        """
        self._paths = list(paths)
        self._starts_at = np.cumsum([0, *(len(index.keys) for index in indexes)])
        self._starts = np.concatenate([index.starts for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])
        self._keys = np.array([key.encode("utf-8", "surrogateescape") for index in indexes for key in index.keys])
        texts = _labels(self._paths, indexes)
        self.column = columns.labels([pa.chunked_array([_column(texts)])], [str(paths[0])])
        self.labels, self.class_names = self.column.values, names

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        path, size = self._paths[self._shard(index)], int(self._sizes[index])
        if size > MOST_BYTES:
            raise Unreadable(self.where(index), f"its file has {size:,} bytes, more than attar reads")
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(self._starts[index]))
                found = file.read(size)
        except OSError as error:
            raise Unreadable(self.where(index), error.strerror or "it cannot be opened") from None
        if len(found) < size:
            raise Unreadable(self.where(index), "the tar file became shorter")
        return found

    def where(self, index: int) -> str:
        key = bytes(self._keys[index]).decode("utf-8", "surrogateescape")
        return f"{self._paths[self._shard(index)]} image {key}"

    def identity(self) -> str:
        """Of keys, sizes and labels, and of what the images' files hold, as far as ``content`` reads them."""
        return hashed(self.former_identity().encode(), self._content)

    def former_identity(self) -> str:
        return hashed(self._keys, self._sizes, self.labels)

    def num_bytes(self) -> int:
        return int(self._sizes.sum())

    @cached_property
    def _content(self) -> bytes:
        return content.of_items(self._encoded_or_empty, self._sizes)

    def _encoded_or_empty(self, index: int) -> bytes:
        try:
            return self.encoded(index)
        except Unreadable:  # found out when it is decoded
            return b""

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._starts_at, index, side="right")) - 1


def find(path: Path) -> tuple[list[Path], list[list[Path]]] | None:
    """Return the training shards in a folder, and those of each split to validate on, best first; None without any.

    Shards lie in the folder itself, with the split in their names, or in a folder for each split. Folders with class
    folders are none of shards.
    """
    folders = class_folders(path)
    loose = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
    if loose and not folders:
        return grouped(loose)
    inner = {name: sorted(folder.glob("*.tar")) for name, folder in folders.items() if splits.role(name)}
    inner = {name: files for name, files in inner.items() if files and not class_folders(folders[name])}
    if not splits.training(inner):
        return None
    return inner[splits.training(inner)[0]], [inner[name] for name in splits.validation(inner)]


def grouped(files: Sequence[Path]) -> tuple[list[Path], list[list[Path]]]:
    """Return the training shards among files, and those of each split to validate on, best first.

    The split is in a file's name, or in the name of its folder. Without any split all of them are for training.
    """
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_NUMBER.sub("", file.stem), []).append(file)
    trains, vals = splits.training(by_split), splits.validation(by_split)
    if not trains and not vals:
        by_split = {}
        for file in files:
            by_split.setdefault(file.parent.name, []).append(file)
        trains, vals = splits.training(by_split), splits.validation(by_split)
    if not trains and not vals:
        return list(files), []
    if not trains:
        raise AttarError(
            f"{files[0].parent} has no training files among its tar files; put train into their names, as in "
            f"train-{{0000..0146}}.tar (and val into the others)."
        )
    return by_split[trains[0]], [by_split[name] for name in vals]


def read(path: Path, train_files: Sequence[Path], val_files: Sequence[Sequence[Path]], log: Log) -> Found:
    """Return the dataset of these shards; ``path`` is the folder, where a list of classes may lie.

    ``val_files`` are those of each split that may be validated on, the best first: the first with labels is.
    """
    every = [*train_files, *(file for files in val_files for file in files)]
    indexes = dict(zip(every, _indexed(every, log), strict=True))
    names = _class_list(path)

    def opened(files: Sequence[Path]) -> Tarred:
        return Tarred(files, [indexes[file] for file in files], names)

    train = opened(train_files)
    val = columns.first_labelled({str(files[0]): partial(opened, files) for files in val_files}, log)
    classes, labelled_train, labelled_val = columns.together(train, val, str(path))
    return Found(classes, labelled_train, labelled_val, titles(path, classes), licence(classes))


def _indexed(files: Sequence[Path], log: Log) -> list[Index]:
    """Return the indexes of these files, in order; processes of one machine begin at different ones."""
    first = len(files) * int(os.environ.get("LOCAL_RANK", "0")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    order = [*files[first:], *files[:first]]
    found: dict[Path, Index] = {}
    with ThreadPoolExecutor(_THREADS) as pool, log.progress("indexing", len(files), unit="tar files") as advance:
        for file, index in zip(order, pool.map(tar_index.of, order), strict=True):
            found[file] = index
            advance()
    left_out = sum(index.num_left_out for index in found.values())
    if left_out:
        log.warn(f"left out {left_out} samples of the tar files, which have no image that attar reads")
    return [found[file] for file in files]


def _labels(paths: Sequence[Path], indexes: Sequence[Index]) -> list[str]:
    """Return the label of each image as it is written; raises AttarError when some have none."""
    found = [label for index in indexes for label in index.labels]
    if not found:
        raise AttarError(f"{paths[0]} has no images that attar reads; see the endings of its members.")
    missing = found.count(None)
    if not missing:
        return [label for label in found if label is not None]
    if missing == len(found) and all(WORDNET_ID.fullmatch(path.stem) for path in paths):
        return [path.stem for path, index in zip(paths, indexes, strict=True) for _ in index.keys]
    kind = columns.NoLabels if missing == len(found) else AttarError
    path, key = next(
        (path, key)
        for path, index in zip(paths, indexes, strict=True)
        for key, label in zip(index.keys, index.labels, strict=True)
        if label is None
    )
    count = "None" if missing == len(found) else f"{len(found) - missing} only"
    raise kind(
        f"{count} of the {len(found)} images in {path.parent} have labels: {path.name} should hold {key}.cls with "
        f"the number or name of the class, or {key}.json with a key 'label'."
    )


def _column(texts: Sequence[str]) -> pa.Array:
    if not all(map(_WHOLE.fullmatch, texts)):
        return pa.array(texts, pa.string())
    return pa.array([int(text) for text in texts], pa.int64())


def _class_list(path: Path) -> list[str] | None:
    """Return the names in the list of classes that lies beside the shards; None without one."""
    file = next((path / name for name in CLASS_LISTS if (path / name).is_file()), None)
    if file is None:
        return None
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise AttarError(f"{file} is no UTF-8 text; write the name of one class on each line.") from None
    names = names[: len(names) - next((place for place, name in enumerate(reversed(names)) if name), 0)]
    double, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count != 1:
        what = f"names '{double}' twice" if names else "is empty"
        raise AttarError(f"{file} {what}; write the name of each class on a line of its own, in the order of labels.")
    return names
