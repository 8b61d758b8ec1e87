"""Tar and Parquet files in an object store or on the Hub, read in parts within a bounded cache of this machine.

Labels, offsets and footers are read first and remembered; of the images only the blocks in use are here: whole tar
files, or row groups of Parquet files. What cannot change is remembered by the store's own listing.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import braces, columns, parquet, splits, tar_index, tars
from attar.data.block_cache import BlockCache, DamagedBlock, Grow
from attar.data.remote_rows import RemoteRows
from attar.data.source import Found
from attar.data.tar_index import Index
from attar.data.tars import Tarred
from attar.store import hub
from attar.store.cache import cache_folder
from attar.store.objects import Entry, Folder

CONVERTED = "@refs/convert/parquet"
"""Revision in which the Hub keeps the Parquet files that it makes of datasets in other formats."""


@dataclass(frozen=True)
class RemoteShard:
    """A tar file in a store."""

    folder: Folder
    name: str
    entry: Entry
    cache: BlockCache

    @property
    def place(self) -> str:
        return f"{self.folder.address}/{self.name}"

    @property
    def key(self) -> str:
        """Names this content of the file."""
        return f"{self.place} {self.entry.bytes} {self.entry.tag}"

    @property
    def fetched_bytes(self) -> int:
        return self.entry.bytes

    def stamp(self) -> str | None:
        return self.key if self.entry.tag else None

    def read(self, start: int, size: int, whole: bool) -> bytes:
        """As in Shard: from the cache, into which the whole file is fetched if many of its images are read."""
        piece = partial(self._piece, start=start, size=size)
        if whole:
            return self.cache.use(self.key, self.entry.bytes, self._fetch, piece, self.place)
        found = self.cache.read_if_there(self.key, piece)
        return self.folder.read_range(self.name, start, size) if found is None else found

    def index(self) -> Index:
        """Return its index, the kept one if the file did not change; fetches the file to make one."""
        place, tag = tar_index.kept_at(self.place), f"{self.entry.bytes} {self.entry.tag}"
        found = tar_index.read(place, tag) if self.entry.tag else None
        if found is None:
            found = self.cache.use(self.key, self.entry.bytes, self._fetch, self._made, self.place)
            tar_index.write(place, tag, found)
        return found

    def finish(self) -> None:
        self.cache.finish(self.key)

    def _fetch(self, path: Path, _grow: Grow) -> None:
        self.folder.fetch_to(self.name, path, self.entry.bytes)

    def _piece(self, path: Path, start: int, size: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self.entry.bytes:
                raise DamagedBlock
            file.seek(start)
            return file.read(size)

    def _made(self, path: Path) -> Index:
        with path.open("rb", buffering=2**16) as file:
            return tar_index.make(file, self.entry.bytes, self.place)


@dataclass(frozen=True)
class _Listed:
    """The files that a source names."""

    folder: Folder
    files: dict[str, Entry]
    named: Callable[[PurePath], str] | None
    """Returns the source of the dataset in a folder; None for a pattern, which says which files belong together."""


def read(source: str, limit: int, log: Log) -> Found:
    """Return the dataset of the shards at an address, or of the Hub, of which ``limit`` bytes may be on this disk.

    ``source`` is s3://BUCKET/FOLDER, s3://BUCKET/FOLDER/train-{000..146}.tar, or hf:ORG/NAME with or without
    :CONFIGURATION. Raises AttarError when the store cannot be reached, holds neither tar nor Parquet files, or holds
    several datasets.
    """
    listed = _listed(source)
    store = _Store(listed.folder, {PurePosixPath(name): entry for name, entry in listed.files.items()}, limit, log)
    rows, chosen = _chosen(list(store.entries), listed, log)
    shards = (parquet if rows else tars).grouped(chosen, listed.folder.address, joined=listed.named is None)
    if listed.named is None:
        shards.refuse_others(source)
    shards.tell(log)
    opened = store.rows if rows else store.tars([*shards.train, *(file for files in shards.vals for file in files)])
    vals = {str(files[0]): partial(opened, files) for files in shards.vals}
    return columns.dataset(opened(shards.train), vals, listed.folder.address, None, log)


class _Store:
    """The files of a folder in a store, of which parts are kept on this disk."""

    def __init__(self, folder: Folder, entries: dict[PurePosixPath, Entry], limit: int, log: Log) -> None:
        self.entries = entries
        self._folder, self._log = folder, log
        self._cache = BlockCache(cache_folder() / "blocks", limit)

    def rows(self, files: Sequence[PurePosixPath]) -> RemoteRows:
        """Return the table of some Parquet files."""
        entries = {str(file): self.entries[file] for file in files}
        return RemoteRows(self._folder, entries, self._cache, cache_folder() / "rows", self._log)

    def tars(self, every: Sequence[PurePosixPath]) -> Callable[[Sequence[PurePosixPath]], Tarred]:
        """Index all tar files; returns the function that makes the table of some of them."""
        shards = {file: RemoteShard(self._folder, str(file), self.entries[file], self._cache) for file in every}
        made = tars.indexed([shards[file] for file in every], RemoteShard.index, self._log)
        indexes = dict(zip(every, made, strict=True))
        listed = next((name for name in tars.CLASS_LISTS if PurePosixPath(name) in self.entries), None)
        named = f"{self._folder.address}/{listed}"
        names = tars.class_list(self._folder.read(listed) or b"", named) if listed else None
        return lambda files: Tarred([shards[file] for file in files], [indexes[file] for file in files], names)


def _listed(source: str) -> _Listed:
    """Return the folder that a source names, and its files; those that fit a pattern, if it is one."""
    if source.startswith(hub.PREFIX) and not source.startswith(f"{hub.PREFIX}//"):
        return _listed_on_hub(source)
    base, pattern = parted(source)
    folder = Folder(base)
    files = folder.files()
    if not files:
        raise AttarError(f"{folder.address} holds no files; check the address.")
    if not pattern:
        return _Listed(folder, files, lambda home: f"{folder.address}/{home.as_posix()}")
    chosen: dict[str, Entry] = {}
    for wanted, fitting in braces.fitting(pattern, files):
        if not fitting:
            raise AttarError(f"There is no file {folder.address}/{wanted}, which '{source}' names; check the range.")
        chosen |= {name: files[name] for name in fitting}
    return _Listed(folder, chosen, None)


def _listed_on_hub(source: str) -> _Listed:
    name, _, configuration = source.removeprefix(hub.PREFIX).partition(":")
    inside = f"{source}/" if configuration else f"{source}:"
    for address in (f"hf://datasets/{name}", f"hf://datasets/{name}{CONVERTED}"):
        folder = Folder(f"{address}/{configuration}" if configuration else address)
        files = folder.files()
        if any(file.endswith((".tar", ".parquet")) for file in files):
            return _Listed(folder, files, lambda home: f"{inside}{home.as_posix()}")
    raise AttarError(
        f"'{source}' has no tar or Parquet files that can be read in parts; leave out --data.cache-bytes to fetch all "
        f"of it, or check the name."
    )


def parted(source: str) -> tuple[str, str]:
    """Return the folder and the pattern of an address; no pattern where it names a folder."""
    scheme, mark, place = source.partition("://")
    if not braces.names_files(place) and not place.endswith((".tar", ".parquet")):
        return source, ""
    plain = re.split(r"[{*?]", place)[0].rpartition("/")[0]
    return f"{scheme}{mark}{plain}", place.removeprefix(plain).lstrip("/")


def _chosen(names: Sequence[PurePosixPath], listed: _Listed, log: Log) -> tuple[bool, list[PurePosixPath]]:
    """Return whether the dataset is one of Parquet files, and its files; raises AttarError when there are several."""
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    fitting = next(filter(None, ([name for name in shown if name.suffix == one] for one in (".parquet", ".tar"))), None)
    if fitting is None:
        raise AttarError(
            f"{listed.folder.address} holds no tar or Parquet files, which alone can be read in parts; leave out "
            f"--data.cache-bytes to fetch all of it."
        )
    is_table = fitting[0].suffix == ".parquet"
    if listed.named is None:
        splits.tell_homes(fitting, log)
        return is_table, fitting
    homes = sorted({splits.home(name) for name in fitting})
    first, *others = [home for home in homes if len(home.parts) == min(len(one.parts) for one in homes)]
    splits.refuse_several(listed.folder.address, [first, *others], listed.named(first))
    if len(homes) > 1:
        named = listed.named(first) if first.parts else listed.folder.address
        log.say(f"data      attar reads the files in {named}, and not those in folders below it")
    return is_table, [name for name in fitting if splits.home(name) == first]
