"""WebDataset tar files: ``KEY.jpg`` with its label in ``KEY.cls`` or ``KEY.json``, read by random access."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.printable import one_line
from attar.data import columns, content, splits, tar_index
from attar.data.picture import Unreadable, decode
from attar.data.scan import class_folders, pictures
from attar.data.source import Found, hashed
from attar.data.splits import Place, Shards
from attar.data.tar_index import Index
from attar.data.titles import WORDNET_ID

MOST_BYTES = 2**30
"""Bytes of an image's file that are read, at most."""
CLASS_LISTS = ("classnames.txt", "classes.txt", "class_names.txt", "synsets.txt", "labels.txt")
"""Files beside the shards that name the classes 0, 1, ..., one on each line."""
_WHOLE = r"^-?[0-9]{1,18}$"
_THREADS = 8
File = TypeVar("File")


class Shard(Protocol):
    """A tar file, here or in a store."""

    @property
    def place(self) -> str:
        """Its path or address."""
        ...

    @property
    def fetched_bytes(self) -> int:
        """The bytes that it takes on this disk when it is fetched; 0 for a file that is here."""
        ...

    def stamp(self) -> str | None:
        """Return a text that changes with its content; None if nothing tells."""
        ...

    def read(self, start: int, size: int, whole: bool) -> bytes:
        """Return bytes of it, fewer where it ends; ``whole`` says that many images of it will be read soon.

        Raises OSError when it cannot be opened, and AttarError when a store cannot be reached.
        """
        ...

    def finish(self) -> None:
        """Let what is held of it on this machine be removed before others."""
        ...


@dataclass(frozen=True)
class LocalShard:
    """A tar file of this machine."""

    path: Path

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def fetched_bytes(self) -> int:
        return 0

    def stamp(self) -> str | None:
        found = content.stamps([self.path])
        return None if found is None else f"{self.path.resolve()} {found}"

    def read(self, start: int, size: int, whole: bool) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)

    def finish(self) -> None:
        """Do nothing: the file stays."""


class Tarred(columns.Table):
    """Images in tar files. Keys are kept in one array, which worker processes share with their parent."""

    def __init__(self, shards: Sequence[Shard], indexes: Sequence[Index], names: list[str] | None = None) -> None:
        """``names`` are those of the classes 0, 1, ...; raises AttarError when some images have no label.

        Raises NoLabels when none has. Tar files named by WordNet ids need no labels: each of them is a class.
        """
        self._shards = list(shards)
        self._starts_at = np.cumsum([0, *map(len, indexes)])
        self._starts = np.concatenate([index.starts for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])
        self._keys = pa.concat_arrays([index.keys for index in indexes])
        texts = _labels([PurePosixPath(shard.place) for shard in shards], indexes)
        self.column = columns.labels([pa.chunked_array([_column(texts)])], [shards[0].place])
        self.labels, self.class_names = self.column.values, names
        self._whole = False

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        size = int(self._sizes[index])
        if size > MOST_BYTES:
            raise Unreadable(self.where(index), f"its file has {size:,} bytes, more than attar reads")
        found = self._read(index, 0, size)
        if len(found) < size:
            raise Unreadable(self.where(index), "the tar file became shorter")
        return found

    def where(self, index: int) -> str:
        key = self._keys[int(index)].as_py().decode("utf-8", "surrogateescape")
        return f"{self._shards[self._shard(index)].place} image {key}"

    def identity(self) -> str:
        """Of keys, sizes and labels, and of what the images' files hold, as far as ``content`` reads them."""
        return hashed(self.former_identity().encode(), self._content)

    def former_identity(self) -> str:
        return hashed(*tar_index.parts(self._keys), self._sizes, self.labels)

    def num_bytes(self) -> int:
        return int(self._sizes.sum())

    def blocks(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._shards)), np.diff(self._starts_at))

    def block_bytes(self) -> np.ndarray | None:
        sizes = [shard.fetched_bytes for shard in self._shards]
        return np.array(sizes) if all(sizes) else None

    def swept(self) -> "Tarred":
        found = copy.copy(self)
        found._whole = True
        return found

    def fetch(self, block: int) -> None:
        self._shards[block].read(0, 0, whole=True)

    def finish(self, block: int) -> None:
        self._shards[block].finish()

    def stamp(self) -> str | None:
        stamps = [shard.stamp() for shard in self._shards]
        return None if None in stamps else "\n".join(map(str, stamps))

    @cached_property
    def _content(self) -> bytes:
        stamp = self.stamp()
        made = partial(content.of_items, self._piece, self._sizes)
        return made().sha256 if stamp is None else content.remembered([stamp, hashed(self._starts, self._sizes)], made)

    def _piece(self, index: int, start: int, size: int) -> bytes:
        try:
            return self._read(index, start, size)
        except Unreadable:  # found out when it is decoded
            return b""

    def _read(self, index: int, start: int, size: int) -> bytes:
        shard = self._shards[self._shard(index)]
        try:
            return shard.read(int(self._starts[index]) + start, size, self._whole)
        except OSError as error:
            raise Unreadable(self.where(index), error.strerror or "it cannot be opened") from None

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._starts_at, index, side="right")) - 1


def find(path: Path) -> Shards[Path] | None:
    """The shards in a folder; None without any.

    Shards lie in the folder itself or in its ``data`` folder, with the split in their names, or in a folder for each
    split. Folders with class folders are none of shards.
    """
    folders = class_folders(path)
    inner = {name: sorted(folder.glob("*.tar")) for name, folder in folders.items() if splits.role(name)}
    inner = {name: files for name, files in inner.items() if files and not class_folders(folders[name])}
    if found := splits.by_split(inner):
        return found
    loose = sorted(path.glob("*.tar")) or sorted((path / "data").glob("*.tar"))
    loose = [file for file in loose if not file.name.startswith(".")]
    if loose and not any(pictures(folder) or class_folders(folder) for folder in folders.values()):
        return grouped(loose)
    return None


def grouped(files: Sequence[Place], where: str = "", *, joined: bool = False) -> Shards[Place]:
    """What each of these files is for; ``where`` names their folder in errors, by default by the files' paths.

    The split is in a file's name, or in the name of its folder. Without any split all of them are for training; files
    of several names must then be ``joined`` by a pattern.
    """
    by_name: dict[str, list[Place]] = {}
    by_folder: dict[str, list[Place]] = {}
    for file in files:
        by_name.setdefault(splits.name_of(file), []).append(file)
        by_folder.setdefault(file.parent.name, []).append(file)
    for groups in (by_name, by_folder):
        if found := splits.by_split(groups):
            return found
        if splits.validation(groups):
            raise AttarError(
                f"{where or files[0].parent} has no training files among its tar files; put train into their names, as "
                f"in train-{{0000..0146}}.tar (and val into the others)."
            )
    return splits.without_split(files, "tar", where or str(files[0].parent), joined=joined)


def read(path: Path, shards: Shards[Path], log: Log) -> Found:
    """Return the dataset of these shards; ``path`` is the folder, where a list of classes may lie.

    The first of the splits to validate on that has labels is validated on.
    """
    shards.tell(log)
    every = [*shards.train, *(file for files in shards.vals for file in files)]
    indexes = dict(zip(every, indexed(every, tar_index.of, log), strict=True))
    listed = next((path / name for name in CLASS_LISTS if (path / name).is_file()), None)
    names = class_list(listed.read_bytes(), str(listed)) if listed else None

    def opened(files: Sequence[Path]) -> Tarred:
        return Tarred([LocalShard(file) for file in files], [indexes[file] for file in files], names)

    vals = {str(files[0]): partial(opened, files) for files in shards.vals}
    return columns.dataset(opened(shards.train), vals, str(path), path, log)


def indexed(files: Sequence[File], index_of: Callable[[File], Index], log: Log) -> list[Index]:
    """Return the indexes of these files, in order; processes of one machine begin at different ones."""
    first = len(files) * int(os.environ.get("LOCAL_RANK", "0")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    order = [*range(first, len(files)), *range(first)]
    found: dict[int, Index] = {}
    with ThreadPoolExecutor(_THREADS) as pool, log.progress("indexing", len(files), unit="tar files") as advance:
        for place, index in zip(order, pool.map(index_of, [files[place] for place in order]), strict=True):
            found[place] = index
            advance()
    left_out = sum(index.num_left_out for index in found.values())
    if left_out:
        log.warn(f"left out {left_out} samples of the tar files, which have no image that attar reads")
    return [found[place] for place in range(len(files))]


def _labels(paths: Sequence[PurePosixPath], indexes: Sequence[Index]) -> pa.Array:
    """Return the label of each image as it is written; raises AttarError when some have none."""
    found = pa.concat_arrays([index.labels for index in indexes])
    if not len(found):
        raise AttarError(f"{paths[0]} has no images that attar reads; see the endings of its members.")
    missing = found.null_count
    if not missing:
        return found
    if missing == len(found) and all(WORDNET_ID.fullmatch(path.stem) for path in paths):
        return pa.array(np.repeat([path.stem for path in paths], list(map(len, indexes))), pa.large_string())
    first = next(place for place, index in enumerate(indexes) if index.labels.null_count)
    place = indexes[first].labels.is_null().index(True).as_py()
    key = one_line(indexes[first].keys[place].as_py().decode("utf-8", "surrogateescape"))
    count = "None" if missing == len(found) else f"{len(found) - missing} only"
    raise (columns.NoLabels if missing == len(found) else AttarError)(
        f"{count} of the {len(found)} images in {paths[first].parent} have labels: {paths[first].name} should hold "
        f"{key}.cls with the number or name of the class, or {key}.json with a key 'label'."
    )


def _column(texts: pa.Array) -> pa.Array:
    numbers = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(_WHOLE))
    return texts.cast(pa.int64() if numbers.true_count == len(texts) else pa.string())


def class_list(text: bytes, where: str) -> list[str]:
    """Return the names of the classes 0, 1, ... in a file; raises AttarError when it names one twice or none."""
    try:
        names = [line.strip() for line in text.decode().splitlines()]
    except UnicodeDecodeError:
        raise AttarError(f"{where} is no UTF-8 text; write the name of one class on each line.") from None
    while names and not names[-1]:
        names.pop()
    double, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count != 1:
        what = f"names '{double}' twice" if names else "is empty"
        raise AttarError(f"{where} {what}; write the name of each class on a line of its own, in the order of labels.")
    return names
