"""Copies of a run's finished stages in an object store, to continue or use the run on another machine."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pydantic

from attar.core import ranks
from attar.core.config import Config
from attar.core.errors import AttarError
from attar.core.log import Log, readable_bytes
from attar.stages.folder import MANIFEST, PLAN
from attar.store import sealed
from attar.store.objects import Folder, refuse_outside
from attar.store.sealed import SealedFile

INDEX = "attar-run.json"
"""File of the copy that lists the finished stages with their files; written after them."""
LOOSE = "the run itself"
"""Name of the part that holds the files outside stages."""
_LOOSE_FILES = ("*.yaml", "*.json", "*.jsonl", "report/**/*")
_SKIPPED = {"checkpoints"}
"""Folders of unfinished work."""
NOTED_BYTES = 64 * 2**20
"""Bytes that are sent between two notes of what has been sent."""

Files = dict[str, SealedFile]
"""Files of a part by their paths relative to the run, with slashes."""


class _Index(Config):
    """What a copy holds."""

    format: int = 1
    parts: dict[str, Files] = pydantic.Field(default_factory=dict)
    """Whole parts: folders of finished stages, relative to the run, and ``LOOSE``."""
    pending: dict[str, Files] = pydantic.Field(default_factory=dict)
    """What has been sent of parts that are not whole."""


class Mirror:
    """The copy of one run at one address. In a launch of several processes the first one sends and fetches."""

    def __init__(self, run: Path, address: str, log: Log) -> None:
        """Raises AttarError when the address is malformed, or the package for its store is missing."""
        self._run, self._store, self._log = run, Folder(address), log

    def push(self) -> int:
        """Send the finished stages that the copy lacks; returns the number of bytes sent.

        Files that were sent before are not sent again, also when an earlier push was interrupted. A stage is listed in
        the copy when all of its files are there. Raises AttarError when the address holds files of others.
        """
        stages = stages_of(self._run)
        if not stages:
            raise AttarError(f"{self._run} has no finished stage to send; name the --out folder of a run.")
        index = self._index()
        if index is None:
            if self._store.files():
                raise AttarError(f"{self._store.address} holds files that attar did not write; choose another folder.")
            index = _Index()
            self._note(index)
        with tempfile.TemporaryDirectory(prefix="attar-push-") as made:  # the log grows while it is sent
            whole = {part: (self._run, files) for part, files in stages.items()}
            if loose := _copied(self._run, Path(made)):
                whole[LOOSE] = Path(made), loose
            waiting = (_missing(index, part, files) for part, (_, files) in whole.items())
            total = sum(entry.bytes for missing in waiting for entry in missing.values())
            with self._log.progress("sending", _megabytes(total), unit="MB") as advance:
                for part, (folder, files) in whole.items():
                    self._push_part(index, part, folder, files, lambda size: advance(size / 1e6))
        return total

    def _push_part(self, index: _Index, part: str, folder: Path, files: Files, advance: Callable[[int], None]) -> None:
        known = index.parts.get(part)
        if known == files:
            return
        missing = _missing(index, part, files)
        if known is not None:  # until the new files are there, the stage is absent
            index.pending[part] = {name: entry for name, entry in known.items() if files.get(name) == entry}
            del index.parts[part]
            self._note(index)
        pending, since_note = index.pending.setdefault(part, {}), 0

        def sent(name: str, size: int) -> None:
            nonlocal since_note
            pending[name], since_note = files[name], since_note + size
            advance(size)
            if since_note >= NOTED_BYTES:
                self._note(index)
                since_note = 0

        self._store.send({name: folder / name for name in missing}, sent)
        del index.pending[part]
        index.parts[part] = files
        self._note(index)
        self._store.remove(name for name in known or () if name not in files)

    def pull(self) -> int:
        """Fetch the finished stages that the run lacks; returns the number of bytes fetched, 0 without a copy.

        Every file is checked. A stage's manifest comes last, so an unfinished pull leaves no stage that looks whole.
        Raises AttarError when a stage of the run differs from the one in the copy.
        """
        index = self._index()
        if index is None:
            return 0
        wanted = {part: self._wanted(part, files) for part, files in index.parts.items()}
        total = sum(entry.bytes for files in wanted.values() for entry in files.values())
        with self._log.progress("fetching", _megabytes(total), unit="MB") as advance:
            for part, files in wanted.items():
                last = {name: entry for name, entry in files.items() if Path(name).name == MANIFEST}
                first = {name: entry for name, entry in files.items() if name not in last}
                for some in filter(None, (first, last)):
                    self._store.fetch(some, self._run, lambda _, size: advance(size / 1e6))
                if part != LOOSE:
                    (self._run / part / PLAN).unlink(missing_ok=True)
        return total

    def _wanted(self, part: str, files: Files) -> Files:
        """Return the files of a part that must be fetched."""
        if part == LOOSE:
            return {name: entry for name, entry in files.items() if not (self._run / name).exists()}
        manifest = f"{part}/{MANIFEST}" if part != "." else MANIFEST
        if manifest not in files:
            raise AttarError(f"{self._store.address} lists no {manifest}; push the run again to another folder.")
        if (self._run / manifest).is_file() and not self._has(manifest, files[manifest]):
            raise AttarError(
                f"{self._run / part} differs from that stage in {self._store.address}; choose another folder "
                f"or address."
            )
        return {name: entry for name, entry in files.items() if not self._has(name, entry)}

    def _has(self, name: str, entry: SealedFile) -> bool:
        path = self._run / name
        return path.is_file() and path.stat().st_size == entry.bytes and sealed.sha256_of(path) == entry.sha256

    def _index(self) -> _Index | None:
        content = self._store.read(INDEX)
        if content is None:
            return None
        where = f"{self._store.address}/{INDEX}"
        try:
            index = _Index.of(json.loads(content), where)
        except ValueError as error:
            raise AttarError(f"{where} is damaged ({error}); push the run again to another folder.") from None
        refuse_outside([part for part in index.parts if part != "."], where)
        refuse_outside([name for files in index.parts.values() for name in files], where)
        return index

    def _note(self, index: _Index) -> None:
        self._store.write(INDEX, json.dumps(index.plain(), indent=1).encode())


def stages_of(run: Path) -> dict[str, Files]:
    """Return the files of every finished stage by its folder, relative to the run."""
    manifests = [path.parent for path in sorted(run.rglob(MANIFEST))]
    begun = {path.parent for path in run.rglob(PLAN)}
    apart = {*manifests, *begun}
    return {
        folder.relative_to(run).as_posix(): _entries(run, _files(folder, apart))
        for folder in manifests
        if folder not in begun
    }


def _copied(run: Path, into: Path) -> Files:
    """Copy the files outside stages, and return them."""
    found = sorted({path for pattern in _LOOSE_FILES for path in run.glob(pattern) if path.is_file()})
    if (run / MANIFEST) in found:  # a stage's folder, not a run's
        return {}
    for path in found:
        (into / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, into / path.relative_to(run))
    return _entries(into, (into / path.relative_to(run) for path in found))


def _files(folder: Path, apart: set[Path]) -> Iterator[Path]:
    """Yield the files of a stage, without those of stages inside it and of unfinished work."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path not in apart and path.name not in _SKIPPED:
                yield from _files(path, apart)
        elif not path.name.startswith("."):
            yield path


def _entries(run: Path, paths: Iterable[Path]) -> Files:
    return {
        path.relative_to(run).as_posix(): SealedFile(bytes=path.stat().st_size, sha256=sealed.sha256_of(path))
        for path in paths
    }


def _missing(index: _Index, part: str, files: Mapping[str, SealedFile]) -> Files:
    """Return the files of a part that the copy lacks or has with other content."""
    known = index.parts.get(part) or index.pending.get(part) or {}
    return {name: entry for name, entry in files.items() if known.get(name) != entry}


def _megabytes(count: int) -> int:
    return max(1, round(count / 1e6)) if count else 0


class Following:
    """Keeps the copy of a run up to date while the run goes on; does nothing without an address."""

    def __init__(self, run: Path, address: str, log: Log) -> None:
        """Raises AttarError when the address is malformed, or the package for its store is missing."""
        self._mirror = Mirror(run, address, log) if address else None
        self._address, self._log = address, log

    def pull(self) -> None:
        """Fetch finished stages before the run begins; all processes wait for the first one."""
        if self._mirror is not None and ranks.is_first() and (fetched := self._mirror.pull()):
            self._log.say(f"mirror    {readable_bytes(fetched)} of finished stages fetched from {self._address}")
        ranks.wait()

    def push(self, last: bool = False) -> None:
        """Send what is finished. If that fails, the run goes on with a warning, except after its ``last`` stage."""
        if self._mirror is None or not ranks.is_first():
            return
        try:
            if sent := self._mirror.push():
                self._log.say(f"mirror    {readable_bytes(sent)} sent to {self._address}")
        except AttarError as error:
            if last:
                raise
            self._log.warn(f"{str(error).rstrip('.')}; the run goes on, and sends it after the next stage")
