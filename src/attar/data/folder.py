"""Folders of image files: one sub-folder per class, with or without a split, and the original Tiny-ImageNet."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import content, nesting, splits
from attar.data.picture import Unreadable, decode
from attar.data.scan import Entries, Scanned, class_folders, counted, is_results, pictures, scan, tell
from attar.data.source import Found, Split, hashed
from attar.data.titles import licence, titles

REMEMBERED_FILES = 5000
"""Files from which what they hold is remembered, to open the folder faster the next time."""
_TABLES = ("*.csv", "*.tsv", "*.xlsx")


class Files(Split):
    """Image files in a few folders. Names are kept in one array, which worker processes share with their parent."""

    def __init__(
        self, folders: Sequence[Path], entries: Sequence[Entries], labels: np.ndarray, stamps: Sequence[str] = ()
    ) -> None:
        """``entries`` holds the files of each folder; ``labels`` those of all files, folder by folder.

        ``stamps`` change with any file on this machine; with them, what the files hold is remembered.
        """
        self._stamps = list(stamps)
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
        """Of names, sizes and labels, and of what the files hold, as far as ``content`` reads them."""
        return hashed(self._names, self._bytes, self.labels, self._content)

    def former_identity(self) -> str:
        return hashed(self._names, self._bytes, self.labels)

    def stamp(self) -> str | None:
        if len(self._stamps) >= len(self._folders):
            return "\n".join(self._stamps)
        return content.stamps(map(self._path, range(len(self))))

    def num_bytes(self) -> int:
        return int(self._bytes.sum())

    @cached_property
    def _content(self) -> bytes:
        if len(self) < REMEMBERED_FILES or len(self._stamps) < len(self._folders):
            return content.of_many(self._path, self._bytes).sha256
        return content.remembered(self._stamps, lambda: content.of_many(self._path, self._bytes))

    def _path(self, index: int) -> Path:
        return self._folders[self._folder[index]] / os.fsdecode(bytes(self._names[index]))


def is_tiny_imagenet(path: Path) -> bool:
    """Whether this is Tiny-ImageNet as it was published, with the validation images in one flat folder."""
    return (path / "val" / "val_annotations.txt").is_file() and (path / "val" / "images").is_dir()


def read_tiny_imagenet(path: Path, log: Log) -> Found:
    """Tiny-ImageNet as published: classes are train's folders, sorted; val's labels are in its annotations."""
    classes, train, faults = _read_classes(path / "train", log)
    flat, annotations = path / "val" / "images", path / "val" / "val_annotations.txt"
    sizes = dict(pictures(flat))
    rows = sorted(line.split("\t")[:2] for line in annotations.read_text().splitlines() if line.strip())
    index = {name: label for label, name in enumerate(classes)}
    for file, name in rows:
        if file not in sizes:
            raise AttarError(f"{flat / file} is missing, and {annotations} lists it; extract the dataset again.")
        if name not in index:
            raise AttarError(f"{annotations} has the class '{name}', which train lacks; extract the dataset again.")
    labels = np.array([index[name] for _, name in rows])
    val = Files([flat], [[(file, sizes[file]) for file, _ in rows]], labels)
    return Found(classes, train, val, titles(path, classes), licence(classes), faults)


def unwrapped(path: Path, *, within_split: bool = False) -> Path:
    """The folder itself or, where nothing but one folder of folders is in it, as archives leave it, that one.

    Not one that is named as a split, but ``within_split``, as in seg_train/seg_train.
    """
    folders = class_folders(path)
    if len(folders) != 1 or pictures(path):
        return path
    name, inner = next(iter(folders.items()))
    if (splits.role(name) and not within_split) or not class_folders(inner) or is_results(inner):
        return path
    return unwrapped(inner, within_split=within_split)


def read(path: Path, log: Log, *, are_classes: bool = False) -> Found | None:
    """A folder per class, in a training and perhaps a validation folder or without a split; None without folders.

    ``are_classes`` says that the folders are the classes even if they look like domains. Raises AttarError where
    folders named as splits hold no classes, the validation folder has other classes, or the folders are domains.
    """
    folders = class_folders(path)
    trains, vals = splits.training(folders), splits.validation(folders)
    rest = [name for name in folders if name not in trains + vals]
    sorted_trains = [name for name in trains if class_folders(folders[name])]
    if sorted_trains:
        return _read_split(path, folders, sorted_trains[0], vals, log)
    if trains and (vals or not rest or not pictures(folders[trains[0]])):
        raise AttarError(_unsorted(path, folders[trains[0]], vals))
    if vals and not rest:
        raise AttarError(f"{path} has {' and '.join(vals)} and no folder train/; put the training images there.")
    if trains or vals:
        log.warn(f"{path} has no folder train/ with class folders, so {', '.join(trains + vals)} is taken as a class")
    if not folders:
        return None
    if inner := nesting.only_one_with_classes(folders):
        log.say(f"data      of the folders in {path}, only {inner.name} holds class folders with images, and is read")
        return read(inner, log, are_classes=are_classes)
    if halves := nesting.split_classes(folders):
        log.say(f"data      the class folders in {path} hold {_halves_in_words(halves)}, which are used as splits")
        return _read_halves(path, halves, log)
    if not are_classes:
        nesting.refuse_domains(path, folders)
    classes, train, faults = _read_classes(path, log)
    return Found(classes, train, None, titles(path, classes), licence(classes), faults)


def _halves_in_words(halves: nesting.SplitClasses) -> str:
    train, val = (next(iter(half.values())).name for half in (halves.train, halves.val))
    return f"{train}/ and {val}/"


def _read_halves(path: Path, halves: nesting.SplitClasses, log: Log) -> Found:
    """Classes whose folders hold the splits."""
    found = [{name: scan(folder) for name, folder in half.items()} for half in (halves.train, halves.val)]
    for half, scanned in zip((halves.train, halves.val), found, strict=True):
        tell(path, {str(folder.relative_to(path)): scanned[name] for name, folder in half.items()}, log)
    classes = tuple(halves.train)
    train, val = (_files(list(enumerate(half.values()))) for half in found)
    faults = {name: _fault(halves.train[name], one) for name, one in found[0].items() if not one.parts}
    return Found(classes, train, val if len(val) else None, titles(path, classes), licence(classes), faults)


def _files(scanned: Sequence[tuple[int, Scanned]]) -> Files:
    """The pictures of scanned folders, each with its label."""
    parts = [(label, part) for label, one in scanned for part in one.parts]
    labels = np.repeat([label for label, _ in parts], [len(files) for _, (_, files) in parts])
    stamps = [stamp for _, one in scanned for stamp in one.stamps]
    return Files([folder for _, (folder, _) in parts], [entries for _, (_, entries) in parts], labels, stamps)


def _read_split(path: Path, folders: Mapping[str, Path], train_name: str, vals: Sequence[str], log: Log) -> Found:
    train_path = unwrapped(folders[train_name], within_split=True)
    classes, train, faults = _read_classes(train_path, log)
    val_name = next((name for name in vals if _is_sorted(path, name, train_path, log)), None)
    val = None
    if val_name is not None:
        val = _read_val(unwrapped(folders[val_name], within_split=True), classes, train_path, log)
    passed = [name for name in folders if name not in (train_name, val_name) and not splits.is_test(name)]
    passed = [name for name in passed if not is_results(folders[name])]
    if passed:
        used = f"{train_name} and {val_name}" if val_name else train_name
        log.say(f"data      of the folders in {path}, attar reads {used}, and not {', '.join(passed)}")
    return Found(classes, train, val, titles(path, classes), licence(classes), faults)


def _is_sorted(path: Path, name: str, train_path: Path, log: Log) -> bool:
    """Whether a validation folder has class folders; a test set without them is left out, another one is refused."""
    if class_folders(path / name):
        return True
    if splits.is_test(name):
        log.warn(
            f"{path / name} has no class folders, so its images have no labels and are left out; "
            f"another split is validated on, or a part of the training images is held out"
        )
        return False
    raise AttarError(
        f"{path / name} has no class folders; sort its images into one folder per class, named as in {train_path}, "
        f"or move it elsewhere to have a part of the training images held out."
    )


def _read_val(path: Path, classes: tuple[str, ...], train_path: Path, log: Log) -> Files:
    """Validation images under the labels of the training classes; those of some classes may be lacking."""
    place = {unicodedata.normalize("NFC", name): label for label, name in enumerate(classes)}
    folders, entries, labels, stamps = [], [], [], []
    for name, one in _scanned(path, log).items():
        label = place.get(unicodedata.normalize("NFC", name))
        if label is None and one.parts:
            raise AttarError(
                f"{train_path} and {path} have different classes: '{name}' is the first that {train_path} lacks; "
                f"name the folders of both alike, or remove {path / name}."
            )
        for folder, files in one.parts:
            folders.append(folder)
            entries.append(files)
            labels += [label] * len(files)
        stamps += one.stamps
    if not labels:
        raise AttarError(f"{path} holds no images; add some, or remove it to have training images held out.")
    return Files(folders, entries, np.array(labels), stamps)


def _read_classes(path: Path, log: Log) -> tuple[tuple[str, ...], Files, dict[str, str]]:
    """Classes by their folders, sorted by name as torchvision does; their images; and what is wrong with empty ones."""
    found = _scanned(path, log)
    if not found:
        raise AttarError(f"{path} has no class folders; it should hold one folder of images per class.")
    _tell_order(list(found), log)
    files = _files(list(enumerate(found.values())))
    return tuple(found), files, {name: _fault(path / name, one) for name, one in found.items() if not one.parts}


def _scanned(path: Path, log: Log) -> dict[str, Scanned]:
    """What the class folders hold; results of runs are no classes."""
    folders, found = class_folders(path) if path.is_dir() else {}, {}
    with log.progress("scanning", len(folders)) as advance:
        for name, folder in folders.items():
            found[name] = scan(folder)
            advance()
    results = [name for name, one in found.items() if one.holds_results and not one.parts]
    if results:
        log.say(f"data      {path / results[0]} holds results of attar and is no class")
    if folders and (loose := pictures(path)):
        log.warn(f"left out {len(loose)} of the images, which lie in {path} itself; move them into their class folders")
    kept = {name: one for name, one in found.items() if name not in results}
    tell(path, kept, log)
    return kept


def _tell_order(names: Sequence[str], log: Log) -> None:
    """Say that numbers are in the order of text: a network from elsewhere may have been trained in another."""
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        shown = ", ".join(names[:4])
        log.say(f"data      the class folders are numbers, in the order of text, as in torchvision: {shown}, ...")


def _fault(folder: Path, one: Scanned) -> str:
    shard = next((file for ending in ("tar", "parquet") for file in sorted(folder.glob(f"*.{ending}"))), None)
    if shard is not None:
        return (
            f"The class folder {folder} holds no images, but {shard.name}; if that is a dataset of its own, choose it "
            f"with --data.source {folder}."
        )
    if one.others:
        return (
            f"The class folder {folder} holds no images that attar reads, only {counted(one.others)}; "
            f"convert them to .jpg or .png."
        )
    return f"The class folder {folder} holds no images; add some, remove it, or choose the others with --data.classes."


def _unsorted(path: Path, train_path: Path, vals: Sequence[str]) -> str:
    """A training folder without class folders: what to do, also where the labels are in a table."""
    if not pictures(train_path):
        return f"{train_path} has no class folders; it should hold one folder of images per class."
    beside = f", as does {' and '.join(vals)}" if vals else ""
    return (
        f"{train_path} holds images without class folders{beside}; sort them into train/CLASS/{labels_in(path)}, "
        f"see 'Labels in a table' in docs/data.md."
    )


def labels_in(path: Path) -> str:
    """The table that may hold the labels of unsorted images, in words; "" where there is none."""
    table = next((file for pattern in _TABLES for file in sorted(path.glob(pattern))), None)
    return f" by the labels in {table.name}" if table else ""
