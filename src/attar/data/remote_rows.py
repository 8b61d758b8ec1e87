"""Parquet files in an object store or on the Hub: footers and labels are read first, images by row groups."""

import io
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import columns, content, parquet
from attar.data.block_cache import BlockCache, DamagedBlock, Grow
from attar.data.picture import Unreadable, decode
from attar.data.source import hashed
from attar.store import atomic
from attar.store.objects import Entry, Folder

MOST_FOOTER_BYTES = 256 * 1024**2
_SLACK_BYTES = 1024**2
"""Bytes that a row group may take more as an Arrow file."""
_THREADS = 8
Result = TypeVar("Result")


@dataclass(frozen=True)
class Head:
    """What is read of a Parquet file before its images."""

    footer: bytes
    labels: pa.ChunkedArray

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        tail = b"PAR1" + self.footer + len(self.footer).to_bytes(4, "little") + b"PAR1"
        return pq.read_metadata(io.BytesIO(tail))


class RemoteRows(columns.Table):
    """Images in the rows of Parquet files of a store; their row groups are kept as Arrow files in the cache."""

    def __init__(self, folder: Folder, files: Mapping[str, Entry], cache: BlockCache, kept: Path, log: Log) -> None:
        """``kept`` is the folder in which footers and labels are remembered.

        Raises AttarError when a file is no Parquet file, lacks an image or a label column, or cannot be fetched.
        """
        self._folder, self._names, self._entries = folder, list(files), list(files.values())
        self._cache = cache
        self._keys = [f"{self._place(file)} {one.bytes} {one.tag}" for file, one in enumerate(self._entries)]
        heads = self._heads(kept, log)
        self._raw_footers = [head.footer for head in heads]
        self._footers = [head.metadata for head in heads]
        self._image_columns = [
            columns.find(footer.schema.to_arrow_schema().names, columns.IMAGE, "image", self._place(file))
            for file, footer in enumerate(self._footers)
        ]
        self.column = columns.labels([head.labels for head in heads], [self._place(n) for n in range(len(files))])
        label = _label_column(self._footers[0], self._place(0))
        self.labels, self.class_names = self.column.values, parquet.named_by_metadata(self._footers[0], label)
        self._group_rows = [[f.row_group(n).num_rows for n in range(f.num_row_groups)] for f in self._footers]
        self._first_group = np.cumsum([0, *map(len, self._group_rows)])
        self._group_starts = np.cumsum([0, *(rows for groups in self._group_rows for rows in groups)])
        self._file_starts = np.cumsum([0, *(footer.num_rows for footer in self._footers)])

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        block = int(np.searchsorted(self._group_starts, index, side="right")) - 1
        row = index - int(self._group_starts[block])
        cell = self._use(block, row)
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(encoded, bytes):
            raise Unreadable(self.where(index), "the row holds no bytes")
        return encoded

    def where(self, index: int) -> str:
        file = int(np.searchsorted(self._file_starts, index, side="right")) - 1
        return f"{self._place(file)} row {index - int(self._file_starts[file])}"

    def identity(self) -> str:
        """That of the same files on this machine."""
        return hashed(self.former_identity().encode(), self._content)

    def former_identity(self) -> str:
        return hashed(*self._raw_footers, self.labels)

    def stamp(self) -> str | None:
        return "\n".join(self._keys) if all(entry.tag for entry in self._entries) else None

    def num_bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries)

    def blocks(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._group_starts) - 1), np.diff(self._group_starts))

    def block_bytes(self) -> np.ndarray:
        return self._group_bytes

    @cached_property
    def _group_bytes(self) -> np.ndarray:
        return np.array([self._bytes_of(*self._file_and_group(n)) for n in range(len(self._group_starts) - 1)])

    def fetch(self, block: int) -> None:
        self._use(block, None)

    def finish(self, block: int) -> None:
        self._cache.finish(self._key(block))

    @cached_property
    def _content(self) -> bytes:
        sizes, stamp = [entry.bytes for entry in self._entries], self.stamp()

        def made() -> content.Content:
            read = content.of_ranges(lambda file, *place: self._folder.read_range(self._names[file], *place), sizes)
            return content.Content(read, is_whole=True)  # what cannot be read raises an error

        return made().sha256 if stamp is None else content.remembered([stamp], made)

    def _place(self, file: int) -> str:
        return f"{self._folder.address}/{self._names[file]}"

    def _use(self, block: int, row: int | None) -> Any:
        """Return the cell of a row of a row group, which is fetched if it is not here; None without a row."""
        file, group = self._file_and_group(block)

        def make(path: Path, grow: Grow) -> None:
            self._fetch(file, group, path, grow)

        def read(path: Path) -> Any:
            return None if row is None else _cell(path, row, self._group_rows[file][group])

        size, where = self._bytes_of(file, group) + _SLACK_BYTES, f"{self._place(file)} row group {group}"
        return self._cache.use(self._key(block), size, make, read, where)

    def _file_and_group(self, block: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._first_group, block, side="right")) - 1
        return file, block - int(self._first_group[file])

    def _key(self, block: int) -> str:
        file, group = self._file_and_group(block)
        return f"{self._keys[file]} group {group}"

    def _bytes_of(self, file: int, group: int) -> int:
        about, name = self._footers[file].row_group(group), self._image_columns[file]
        parts = [about.column(n) for n in range(about.num_columns)]
        wanted = [part for part in parts if part.path_in_schema.split(".")[0] == name]
        return sum(part.total_uncompressed_size for part in wanted)

    def _fetch(self, file: int, group: int, path: Path, grow: Grow) -> None:
        def rows(opened: pq.ParquetFile) -> pa.Table:
            return opened.read_row_group(group, columns=[self._image_columns[file]], use_threads=False)

        table = self._read(file, self._footers[file], rows).combine_chunks()
        counted = pa.MockOutputStream()
        _write(table, counted)
        grow(counted.size())  # images that occur several times take their place once in a Parquet file
        with pa.OSFile(str(path), "wb") as sink:
            _write(table, sink)

    def _read(self, file: int, footer: pq.FileMetaData, use: Callable[[pq.ParquetFile], Result]) -> Result:
        """Return what ``use`` makes of an opened file; raises AttarError."""

        def read(remote: io.RawIOBase) -> Result:
            with (
                parquet.reading(self._place(file)),
                pq.ParquetFile(pa.PythonFile(remote, "r"), metadata=footer, pre_buffer=True) as opened,
            ):
                return use(opened)

        return self._folder.read_with(self._names[file], read)

    def _heads(self, kept: Path, log: Log) -> list[Head]:
        found: list[Head] = []
        with (
            ThreadPoolExecutor(_THREADS) as pool,
            log.progress("reading labels", len(self._names), unit="files") as advance,
        ):
            for head in pool.map(lambda file: self._head(file, kept), range(len(self._names))):
                found.append(head)
                advance()
        return found

    def _head(self, file: int, kept: Path) -> Head:
        place = kept / f"{sha256(self._keys[file].encode(errors='surrogateescape')).hexdigest()[:32]}.parquet"
        head = _remembered(place) if self._entries[file].tag else None
        if head is None:
            head = self._read_head(file)
            _remember(place, head)
        return head

    def _read_head(self, file: int) -> Head:
        name, size, where = self._names[file], self._entries[file].bytes, self._place(file)
        tail = self._folder.read_range(name, max(0, size - 8), 8)
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < 8 or tail[4:] != b"PAR1" or not 0 < length <= min(size - 12, MOST_FOOTER_BYTES):
            raise AttarError(f"{where} cannot be read as Parquet (it has no footer); send it again.")
        footer = self._folder.read_range(name, size - 8 - length, length)
        with parquet.reading(where):
            metadata = Head(footer, pa.chunked_array([], pa.int64())).metadata
            parquet.refuse_absurd(where, size, metadata)
            label = _label_column(metadata, where)
        labels = self._read(file, metadata, lambda opened: opened.read(columns=[label], use_threads=False)[label])
        columns.labels([labels], [where])  # refuses other values than numbers and names, which are not remembered
        return Head(footer, labels)


def _write(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _cell(path: Path, row: int, num_rows: int) -> Any:
    """Return a cell of the only column of an Arrow file; raises DamagedBlock."""
    with path.open("rb"):  # raises FileNotFoundError, which pyarrow has no number for
        pass
    try:
        with pa.memory_map(str(path)) as mapped:
            column = pa.ipc.open_file(mapped).read_all().column(0)
            if len(column) != num_rows:
                raise DamagedBlock
            column.slice(row, 1).validate(full=True)
            return column[row].as_py()
    except (pa.ArrowException, UnicodeDecodeError):
        raise DamagedBlock from None


def _label_column(footer: pq.FileMetaData, where: str) -> str:
    return columns.find(footer.schema.to_arrow_schema().names, columns.LABEL, "label", where)


def _remembered(place: Path) -> Head | None:
    """Return what was kept of a file; None when there is nothing, or it is damaged."""
    try:
        table = pq.read_table(place)
        about = json.loads((table.schema.metadata or {})[b"attar"])
        head = Head(bytes.fromhex(about["footer"]), table.column(0))
        return head if about["seal"] == _seal(head) else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def _remember(place: Path, head: Head) -> None:
    """Keep what was read of a file; does nothing where the folder cannot be written."""
    about = {"footer": head.footer.hex(), "seal": _seal(head)}
    table = pa.table({"label": head.labels}).replace_schema_metadata({"attar": json.dumps(about)})
    try:
        with atomic.replace(place) as unfinished:
            pq.write_table(table, unfinished)
    except (OSError, AttarError):
        return


def _seal(head: Head) -> str:
    return sha256(head.footer + json.dumps(head.labels.to_pylist()).encode()).hexdigest()
