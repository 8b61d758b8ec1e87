"""Folders in object stores (s3://, gs://, others that fsspec opens): list, send, fetch; errors are one sentence.

Access is that of the store's own client, from its environment variables and files. attar never prints or stores keys.
"""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from attar.core.errors import AttarError, disk_full
from attar.store import atomic
from attar.store.sealed import SealedFile

EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs"), "hf": ("huggingface_hub", "hub")}
"""Package and extra of attar that a scheme needs."""
NUM_THREADS = 8
"""Files that are sent or fetched at the same time."""
RETRY_SECONDS = (1.0, 4.0)
"""Pauses before something is read from a store again."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", flags=re.IGNORECASE)
_AGAIN = "repeat the command, which continues where it stopped"

Sent = Callable[[str, int], None]
"""Called with the name and the bytes of a file that was sent or fetched."""
Result = TypeVar("Result")


class UnreachableError(AttarError):
    """A store that did not answer as it should; it may the next time."""


@dataclass(frozen=True)
class Entry:
    """A file in a store."""

    bytes: int
    tag: str
    """Changes with the content: the store's checksum or the time of the last change; empty if the store gives none."""


def is_address(text: str) -> bool:
    """Return whether a text is the address of a folder in an object store, such as s3://bucket/folder."""
    return _ADDRESS.match(text) is not None


class Folder:
    """A folder in an object store."""

    def __init__(self, address: str) -> None:
        """Raises AttarError when there is no client for the address's scheme, or the address names no folder."""
        self.address = address.rstrip("/")
        self._held: tuple[int, Any, str] | None = None
        scheme, _, place = self.address.partition("://")
        package, extra = EXTRAS.get(scheme.lower(), ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise AttarError(f"{scheme}:// needs the package {package}; pip install 'attar[{extra}]'.")
        if not place.strip("/") or ".." in PurePosixPath(place).parts:
            raise AttarError(f"'{address}' names no folder; write {scheme}://BUCKET/FOLDER.")

    @property
    def _opened(self) -> tuple[Any, str]:
        """The store's client and the folder's path in it; opened anew in a forked process, where clients cannot go."""
        if self._held is None or self._held[0] != os.getpid():
            self._held = (os.getpid(), *self._open())
        return self._held[1:]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}

    def _open(self) -> tuple[Any, str]:
        import fsspec

        options = {"auto_mkdir": True} if self.address.startswith("file:") else {}
        with self._explained():
            files, root = fsspec.core.url_to_fs(self.address, use_listings_cache=False, **options)
        return files, root.rstrip("/")

    def files(self) -> dict[str, Entry]:
        """Return all files of the folder and its subfolders by their relative paths; none if it does not exist."""
        files, root = self._opened

        def find() -> dict[str, Any]:
            try:
                return files.find(root, detail=True)
            except FileNotFoundError:
                return {}

        found = self._tried(find)
        return {
            name: Entry(int(about.get("size") or 0), _tag(about))
            for path, about in sorted(found.items())
            if (name := path.removeprefix(root).lstrip("/")) and not name.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if it does not exist."""
        files, root = self._opened

        def read() -> bytes | None:
            try:
                return files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None

        return self._tried(read)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return ``size`` bytes of a file from ``start``, fewer where it ends; raises AttarError if it is missing."""
        files, root = self._opened
        path = f"{root}/{name}"

        def read() -> bytes:
            if getattr(files, "async_impl", False):
                return files.cat_file(path, start=start, end=start + size)
            with files.open(path, "rb", cache_type="none") as file:  # other caches read megabytes ahead
                file.seek(start)
                return file.read(size)

        return self._tried(read)

    def read_with(self, name: str, use: Callable[[io.RawIOBase], Result]) -> Result:
        """Return what ``use`` makes of an opened file, of which only the bytes that it reads are fetched.

        Raises AttarError when the store fails, in whatever way ``use`` passes that on; else what ``use`` raises.
        """
        files, root = self._opened

        def read() -> Result:
            with _Watched(files.open(f"{root}/{name}", "rb", cache_type="none")) as file:
                try:
                    return use(file)
                except Exception:
                    if file.fault is not None:
                        raise file.fault from None
                    raise

        return self._tried(read)

    def fetch_to(self, name: str, path: Path, size: int) -> None:
        """Fetch one file to a path; raises AttarError when it does not have ``size`` bytes."""

        def get() -> None:
            self._get(name, path)
            try:
                _check(path, Entry(size, ""), f"{self.address}/{name}")
            except AttarError as error:  # perhaps the connection broke
                raise UnreachableError(str(error)) from None

        self._tried(get)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file. Object stores show it whole or not at all."""
        files, root = self._opened
        with self._explained():
            files.pipe_file(f"{root}/{name}", content)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that do not exist are left out."""
        files, root = self._opened
        for name in names:
            with self._explained(), contextlib.suppress(FileNotFoundError):
                files.rm_file(f"{root}/{name}")

    def send(self, paths: Mapping[str, Path], sent: Sent) -> None:
        """Send files to these names, several at a time; ``sent`` is called in this thread after each."""
        files, root = self._opened

        def put(name: str) -> tuple[str, int]:
            files.put_file(str(paths[name]), f"{root}/{name}")
            return name, paths[name].stat().st_size

        self._each(put, paths, sent)

    def fetch(self, names: Mapping[str, SealedFile | Entry], into: Path, fetched: Sent) -> None:
        """Fetch files into a folder, several at a time; ``fetched`` is called in this thread after each.

        A file appears under its name when it is complete. Raises AttarError when its size, or its SHA-256 if that is
        known, is not as expected.
        """
        refuse_outside(names, self.address)
        _refuse_full(into, sum(entry.bytes for entry in names.values()), self.address)

        def get(name: str) -> tuple[str, int]:
            path, entry = into / name, names[name]
            with atomic.replace(path) as unfinished:
                self._get(name, unfinished)
                _check(unfinished, entry, f"{self.address}/{name}")
            return name, entry.bytes

        self._each(get, names, fetched)

    def _get(self, name: str, path: Path) -> None:
        files, root = self._opened
        with self._explained():
            try:
                files.get_file(f"{root}/{name}", str(path))
            except OSError as error:
                if error.errno is not None:  # the disk's; naming a file would replace the words of a client's own
                    error.filename = error.filename or str(path.parent)
                raise

    def _tried(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` reads from the store; tries it again where the store cannot be reached."""
        for wait in RETRY_SECONDS:
            with contextlib.suppress(UnreachableError), self._explained():
                return work()
            time.sleep(wait)
        with self._explained():
            return work()

    def _each(self, work: Callable[[str], tuple[str, int]], names: Iterable[str], done: Sent) -> None:
        pool = ThreadPoolExecutor(NUM_THREADS)
        waiting: list[Future[tuple[str, int]]] = []
        try:
            with self._explained():
                waiting = [pool.submit(work, name) for name in names]
                for one in as_completed(waiting):
                    done(*one.result())
        finally:
            pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the store's client into AttarError."""
        try:
            yield
        except AttarError:
            raise
        except Exception as error:  # clients, their libraries and the operating system raise errors of many kinds
            raise _explained(error, self.address) from None


class _Watched(io.RawIOBase):
    """A file of a store that keeps the error of its store, which a library that reads from it may hide."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.fault = error
            raise

    def close(self) -> None:
        self._file.close()
        super().close()


def _tag(about: Mapping[str, Any]) -> str:
    if about.get("ino"):  # a file of a folder on this machine
        return f"{about.get('mtime')} {about.get('created')} {about['ino']}"
    for key in ("ETag", "etag", "md5Hash", "crc32c", "LastModified", "mtime", "created", "blob_id"):
        if about.get(key):
            return str(about[key]).strip('"')
    return ""


def _check(path: Path, entry: SealedFile | Entry, where: str) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise AttarError(f"{where} has {size} bytes in place of {entry.bytes}; send it again, or {_AGAIN}.")
    if isinstance(entry, SealedFile) and atomic.sha256_of(path) != entry.sha256:
        raise AttarError(f"{where} is damaged (its SHA-256 differs from the recorded one); send it again.")


def refuse_outside(names: Iterable[str], address: str) -> None:
    """Raise AttarError for a name that would lie outside the folder that files are fetched into."""
    for name in names:
        place = PurePosixPath(name)
        if not place.parts or place.is_absolute() or ".." in place.parts or set(name) & set("\\:\0"):
            raise AttarError(f"{address} lists '{name}', which would lie outside the folder; nothing is fetched.")


def _refuse_full(into: Path, needed: int, address: str) -> None:
    existing = next(folder for folder in (into, *into.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise AttarError(
            f"{address} has {needed / 1e9:.3g} GB to fetch, and {existing} has {free / 1e9:.3g} GB free; make room "
            f"there, or choose another folder."
        )


def _explained(error: Exception, address: str) -> AttarError:
    name, text = type(error).__name__, next(iter(str(error).strip().splitlines()), "").rstrip(".")
    if isinstance(error, OSError) and (full := disk_full(error)):
        return AttarError(full)
    if isinstance(error, PermissionError) or "Credentials" in name or "AccessDenied" in text:
        return AttarError(
            f"Access to {address} is refused ({text or name}); check the address and the store's access keys."
        )
    if isinstance(error, FileNotFoundError):
        return AttarError(f"{address} does not exist ({text or name}); check the address.")
    if isinstance(error, ValueError | ImportError) and "rotocol" in text:
        return AttarError(f"There is no client for {address} ({text}); use s3://, gs:// or a folder of this machine.")
    return UnreachableError(
        f"{address} cannot be reached ({text or name}); check the network and the store's settings, then {_AGAIN}."
    )
