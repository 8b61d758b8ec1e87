"""Real data in an object store: fetched once into a folder of this machine, and kept there."""

import json
import os
from hashlib import sha256
from pathlib import Path

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.store import atomic
from attar.store.cache import cache_folder, usable
from attar.store.objects import Entry, Folder

LISTING = ".attar-listing.json"
"""File that lists what was fetched, and what the store said of it."""
NOTED_BYTES = 64 * 2**20
"""Bytes that are fetched between two notes of what has been fetched."""


def cached(address: str, log: Log) -> Path:
    """Return a local folder with the files at an address such as s3://bucket/folder; fetches those that changed.

    The folder is in attar's cache, under ``data``. An interrupted call continues. In a launch
    of several processes one on each machine fetches, and all must call it at the same point. Raises AttarError when the
    store cannot be reached, holds no files, or the disk is too small.
    """
    folder = folder_of(address)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        with usable(folder.parent), atomic.one_at_a_time(folder):  # workers of a cluster on one machine
            _update(folder, Folder(address), log)
    ranks.wait()
    return folder


def folder_of(address: str) -> Path:
    """Return the folder in which the files of an address are kept."""
    plain = address.rstrip("/")
    return cache_folder() / "data" / sha256(plain.encode()).hexdigest()[:16] / plain.rpartition("/")[2]


def _update(folder: Path, store: Folder, log: Log) -> None:
    found = {name: entry for name, entry in store.files().items() if name != LISTING}
    if not found:
        raise AttarError(f"{store.address} holds no files; check the address.")
    known = _known(folder)
    same = {name for name, entry in found.items() if known.get(name) == entry and _has(folder / name, entry)}
    wanted = {name: entry for name, entry in found.items() if name not in same}
    for name in known.keys() - found.keys():
        (folder / name).unlink(missing_ok=True)
    if not wanted and known == found:
        return
    kept, since_note = {name: found[name] for name in same}, 0

    def fetched(name: str, size: int) -> None:
        nonlocal since_note
        kept[name], since_note = found[name], since_note + size
        advance(size / 1e6)
        if since_note >= NOTED_BYTES:
            _note(folder, kept)
            since_note = 0

    atomic.sweep(folder)
    total = sum(entry.bytes for entry in wanted.values())
    with log.progress("fetching", max(1, round(total / 1e6)) if total else 0, unit="MB") as advance:
        store.fetch(wanted, folder, fetched)
    _note(folder, kept)


def _known(folder: Path) -> dict[str, Entry]:
    try:
        listing = json.loads((folder / LISTING).read_text())
        return {name: Entry(int(size), str(tag)) for name, (size, tag) in listing.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _note(folder: Path, kept: dict[str, Entry]) -> None:
    atomic.write_json(folder / LISTING, {name: [entry.bytes, entry.tag] for name, entry in sorted(kept.items())})


def _has(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes
