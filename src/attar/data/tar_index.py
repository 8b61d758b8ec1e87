"""The index of a tar file of images: where each image lies and its label; made once, then kept on this machine.

An index is a Parquet file in attar's cache, under ``indexes``. It is used while the tar file keeps its size, inode and
times, and made again when it is damaged.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attar.core.errors import AttarError
from attar.core.printable import one_line
from attar.data import columns, content
from attar.data.members import Member, members
from attar.data.scan import ENDINGS
from attar.data.source import hashed
from attar.store import atomic
from attar.store.cache import cache_folder

LABEL_BYTES = 1024 * 1024
"""Bytes of a member with a label, at most."""
_LABEL_ENDINGS = ("cls", "json")
_JSON_LABELS = (*columns.LABEL, "cls", "class_name")
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", flags=re.DOTALL)
_VERSION = 2


@dataclass(frozen=True)
class Index:
    """The images of a tar file, in its order."""

    keys: pa.Array
    """Large binary: names of the images' members, without their endings."""
    starts: np.ndarray
    """int64: the place of each image's first byte in the tar file."""
    sizes: np.ndarray
    """int64, bytes."""
    labels: pa.Array
    """Large string: what KEY.cls or KEY.json say; null where an image has neither."""
    num_left_out: int
    """Samples without an image."""

    def __len__(self) -> int:
        return len(self.starts)

    def seal(self) -> str:
        """Return a SHA-256 of all of it."""
        return hashed(*parts(self.keys), *parts(self.labels), self.starts, self.sizes, b"%d" % self.num_left_out)


def parts(texts: pa.Array) -> tuple[np.ndarray, bytes]:
    """Return the lengths of texts, -1 for nulls, and their bytes, for hashing."""
    if not len(texts):
        return np.zeros(0, dtype=np.int64), b""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    lengths[texts.is_null().to_numpy(zero_copy_only=False)] = -1
    return lengths, data[int(ends[0]) : int(ends[-1])].to_pybytes() if data else b""


@dataclass
class _Sample:
    """The members of one key."""

    images: list[tuple[str, Member]]
    """With their endings."""
    labels: dict[str, str | None]
    """What each file with a label says, by its ending."""


def make(file: IO[bytes], size: int, where: str) -> Index:
    """Read the headers and labels of a tar file; raises AttarError, calling it ``where``, as ``members`` does.

    Also when a member's name occurs twice, an image's key has several images, or a label cannot be read.
    """
    samples = _samples(file, size, where)
    kept = {key: sample for key, sample in samples.items() if sample.images}
    places: list[Member] = []
    labels: list[str | None] = []
    for sample in kept.values():
        plain = [member for ending, member in sample.images if "." not in ending]
        images = plain or [member for _, member in sample.images]
        if len(images) > 1:
            names = " and ".join(one_line(member.name) for member in images[:2])
            raise AttarError(f"{where} has several images of one sample ({names}); attar needs one image per sample.")
        places.append(images[0])
        labels.append(next(filter(None, map(sample.labels.get, _LABEL_ENDINGS)), None))
    return Index(
        pa.array([key.encode("utf-8", "surrogateescape") for key in kept], pa.large_binary()),
        np.array([member.start for member in places], dtype=np.int64),
        np.array([member.bytes for member in places], dtype=np.int64),
        pa.array(labels, pa.large_string()),
        len(samples) - len(kept),
    )


def of(path: Path) -> Index:
    """Return the index of a tar file of this machine, the kept one if the file did not change."""
    try:
        tag = content.stamp(path)
        place = kept_at(str(path.resolve()))
        found = read(place, tag)
        if found is None:
            with _alone(place):
                found = read(place, tag)  # another process may have made it meanwhile
                if found is None:
                    with path.open("rb", buffering=2**16) as file:
                        found = make(file, path.stat().st_size, str(path))
                    write(place, tag, found)
    except OSError as error:
        raise AttarError(f"{path} cannot be read ({error.strerror or error}); check its permissions.") from None
    return found


def kept_at(name: str) -> Path:
    """Return where the index of the tar file with this full name is kept."""
    return cache_folder() / "indexes" / f"{sha256(name.encode(errors='surrogateescape')).hexdigest()[:32]}.parquet"


def read(place: Path, tag: str) -> Index | None:
    """Return a kept index; None when there is none, it is damaged, or it was made for another ``tag``."""
    try:
        table = pq.read_table(place)
        about = json.loads((table.schema.metadata or {})[b"attar"])
        if about["version"] != _VERSION or about["tag"] != tag:
            return None
        index = Index(
            table["key"].cast(pa.large_binary()).combine_chunks(),
            table["start"].to_numpy(),
            table["bytes"].to_numpy(),
            table["label"].cast(pa.large_string()).combine_chunks(),
            int(about["left_out"]),
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    return index if about.get("seal") == index.seal() else None


def write(place: Path, tag: str, index: Index) -> None:
    """Keep an index; does nothing where the folder cannot be written, because it can be made again."""
    about = {"version": _VERSION, "tag": tag, "left_out": index.num_left_out, "seal": index.seal()}
    columns_of = {"key": index.keys, "start": index.starts, "bytes": index.sizes, "label": index.labels}
    table = pa.table(columns_of).replace_schema_metadata({"attar": json.dumps(about)})
    try:
        with atomic.replace(place) as unfinished:
            pq.write_table(table, unfinished)
    except (OSError, AttarError):
        return


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Let one process of this machine at a time make an index; all of them where its folder cannot be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a read-only disk
            stack.enter_context(atomic.locked(place.parent / f"{place.name[:2]}.lock"))
        yield


def _samples(file: IO[bytes], size: int, where: str) -> dict[str, _Sample]:
    found: dict[str, _Sample] = {}
    seen: set[str] = set()
    for member in members(file, size, where):
        if member.name in seen:
            raise AttarError(
                f"{where} has the member '{one_line(member.name)}' twice; remove one, because only one can be read."
            )
        seen.add(member.name)
        named = _KEY.fullmatch(member.name)
        if named is None or named[1].rpartition("/")[2].startswith("__") or "__MACOSX/" in member.name:
            continue
        key, ending = named[1], named[2].lower()
        sample = found.setdefault(key, _Sample([], {}))
        last = ending.rpartition(".")[2]
        if f".{last}" in ENDINGS:
            sample.images.append((ending, member))
        elif ending in _LABEL_ENDINGS:
            sample.labels[ending] = _label(file, member, ending, f"{where}/{one_line(member.name)}")
    return found


def _label(file: IO[bytes], member: Member, ending: str, where: str) -> str | None:
    if member.bytes > LABEL_BYTES:
        raise AttarError(f"{where} has {member.bytes:,} bytes, too many for a label; write the label only.")
    file.seek(member.start)
    text = file.read(member.bytes)
    return _of_json(text, where) if ending == "json" else _of_text(text, where)


def _of_text(text: bytes, where: str) -> str | None:
    try:
        return text.decode().strip() or None
    except UnicodeDecodeError:
        raise AttarError(f"{where} is no text; write the number or the name of the class into it.") from None


def _of_json(text: bytes, where: str) -> str | None:
    try:
        about: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AttarError(f"{where} cannot be read as JSON ({error}); write the tar file again.") from None
    if not isinstance(about, dict):
        return None
    for key in _JSON_LABELS:
        value = about.get(key)
        if isinstance(value, int | str) and not isinstance(value, bool):
            columns.refuse_broken(str(value), where)
            return str(value).strip() or None
    return None
