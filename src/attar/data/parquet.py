"""Parquet files in the Hugging Face layout: ``train-*.parquet`` with a column of encoded images and one of labels."""

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.printable import one_line
from attar.data import columns, content, splits
from attar.data.picture import Unreadable, decode
from attar.data.scan import class_folders
from attar.data.source import Found, hashed
from attar.data.splits import Place, Shards

CACHE_BYTES = 512 * 1024**2
"""Encoded images that a process keeps, by whole row groups; a smaller dataset is read once."""

MOST_UNPACKED = 100
"""How much larger than the file its content may be, where it is large."""
_UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file."""

_SPLIT = re.compile(r"[^.-]*?(?=[-.]|_\d|$)")
"""The split in the name of a file, as in val-00000-of-00001.parquet."""


class Rows(columns.Table):
    """Images in the rows of Parquet files, read by row group when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises AttarError when a file is no Parquet file or lacks an image or a label column."""
        self._paths = list(paths)
        self._footers = [_footer(path) for path in paths]
        names = [_columns(path, footer) for path, footer in zip(paths, self._footers, strict=True)]
        self._image_columns = [image for image, _ in names]
        held = [_column(path, label) for path, (_, label) in zip(paths, names, strict=True)]
        self.column = columns.labels(held, [str(path) for path in paths])
        self.labels, self.class_names = self.column.values, named_by_metadata(self._footers[0], names[0][1])
        self._starts = np.cumsum([0, *(footer.num_rows for footer in self._footers)])
        self._group_starts = [
            np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))])
            for footer in self._footers
        ]
        self._cache = _Cache()

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        file, row = self._place(index)
        group = int(np.searchsorted(self._group_starts[file], row, side="right")) - 1
        try:
            images = self._cache.get((file, group), lambda: self._read(file, group))
        except _UNREADABLE as error:
            raise Unreadable(self.where(index), _first_line(error)) from None
        cell = images[row - int(self._group_starts[file][group])].as_py()
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(encoded, bytes):
            raise Unreadable(self.where(index), "the row holds no bytes")
        return encoded

    def where(self, index: int) -> str:
        file, row = self._place(index)
        return f"{self._paths[file]} row {row}"

    def identity(self) -> str:
        """Of the footers and labels, and of what the files hold, as far as ``content`` reads them."""
        return hashed(self.former_identity().encode(), self._content)

    def former_identity(self) -> str:
        return hashed(*(_raw_footer(path) for path in self._paths), self.labels)

    def stamp(self) -> str | None:
        return content.stamps(self._paths)

    @cached_property
    def _content(self) -> bytes:
        return content.of_few(self._paths)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths)

    def blocks(self) -> np.ndarray:
        sizes = np.concatenate([np.diff(starts) for starts in self._group_starts])
        return np.repeat(np.arange(len(sizes)), sizes)

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def _read(self, file: int, group: int) -> pa.ChunkedArray:
        # opened anew each time and read by one thread: the split may have come through a fork
        with pq.ParquetFile(self._paths[file], metadata=self._footers[file]) as opened:
            table = opened.read_row_group(group, columns=[self._image_columns[file]], use_threads=False)
        return table.column(0)


def named_by_metadata(footer: pq.FileMetaData, label: str) -> list[str] | None:
    """The names that a file's metadata give to the labels in its column ``label``; None without any."""
    metadata = footer.schema.to_arrow_schema().metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None


class _Cache:
    """The row groups used last, up to CACHE_BYTES; empty after a journey to another process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, int], read: Any) -> pa.ChunkedArray:
        """The row group ``key``, by ``read()`` when it is not held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            images = self._held[key] = read()
            self._bytes += images.nbytes
            while self._bytes > CACHE_BYTES and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            return images

    def __reduce__(self) -> tuple[type["_Cache"], tuple[()]]:
        return _Cache, ()


def find(path: Path) -> Shards[Path] | None:
    """The files in a folder, in its ``data`` folder, or in a folder for each split.

    None without any Parquet file; raises AttarError as ``grouped`` does.
    """
    every = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    every = [file for file in every if not file.name.startswith(".")]
    if every:
        return grouped(every)
    inner = {name: sorted(folder.glob("*.parquet")) for name, folder in class_folders(path).items()}
    return splits.by_split({name: files for name, files in inner.items() if files and splits.role(name)})


def grouped(files: Sequence[Place], where: str = "", *, joined: bool = False) -> Shards[Place]:
    """What each of these files is for; ``where`` names their folder in errors, by default by the files' paths.

    The split is in a file's name, or in the name of its folder. Without any split all of them are for training; files
    of several names must then be ``joined`` by a pattern. Raises AttarError when all are of other splits.
    """
    by_split: dict[str, list[Place]] = {}
    for file in files:
        name = _SPLIT.match(file.name)[0]  # type: ignore[index]
        by_split.setdefault(name if splits.role(name) else file.parent.name, []).append(file)
    found = splits.by_split(by_split)
    if found is None and splits.validation(by_split):
        raise AttarError(
            f"{where or files[0].parent} has no training files among its Parquet files; name them train-*.parquet "
            f"(and the others val-*.parquet)."
        )
    return found or splits.without_split(files, "Parquet", where or str(files[0].parent), joined=joined)


def read(path: Path, shards: Shards[Path], log: Log) -> Found:
    """The dataset of these files; ``path`` is the folder, where a words.txt may lie.

    The first of the splits to validate on that has labels is validated on.
    """
    shards.tell(log)
    vals = {str(files[0]): partial(Rows, files) for files in shards.vals}
    return columns.dataset(Rows(shards.train), vals, str(path), path, log)


@contextlib.contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn errors of a file at this path or address into AttarError."""
    try:
        yield
    except UnicodeEncodeError:  # pyarrow opens no such file
        raise AttarError(f"{one_line(str(path))} has a name that is no UTF-8 text; rename it.") from None
    except _UNREADABLE as error:
        raise AttarError(f"{path} cannot be read as Parquet ({_first_line(error)}); fetch it again.") from None


def _footer(path: Path) -> pq.FileMetaData:
    with reading(path):
        footer = pq.read_metadata(path)
        refuse_absurd(path, path.stat().st_size, footer)
    return footer


def refuse_absurd(path: object, size: int, footer: pq.FileMetaData) -> None:
    """Raise AttarError for a small file that would fill the memory: encoded images hardly compress or repeat."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    unpacked = sum(
        group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)
    )
    if footer.num_rows > size or (unpacked > CACHE_BYTES and unpacked > MOST_UNPACKED * size):
        raise AttarError(
            f"{path} has {size:,} bytes, and says that it holds {footer.num_rows:,} rows of {unpacked:,} bytes in all; "
            "images do not become so small, so do not use this file."
        )


def _column(path: Path, name: str) -> pa.ChunkedArray:
    with reading(path), pq.ParquetFile(path) as opened:
        return opened.read(columns=[name])[name]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _columns(path: Path, footer: pq.FileMetaData) -> tuple[str, str]:
    with reading(path):
        names = footer.schema.to_arrow_schema().names
    image = columns.find(names, columns.IMAGE, "image", str(path))
    return image, columns.find(names, columns.LABEL, "label", str(path))


def _raw_footer(path: Path) -> bytes:
    """The footer's bytes: sizes, statistics and offsets of every column chunk."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        return file.read(length)
