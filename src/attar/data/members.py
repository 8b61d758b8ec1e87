"""The members of a tar file: where their bytes lie, found from the headers alone. Nothing is ever extracted.

Headers are parsed by the standard library; what a hostile file may state (a path out of the folder, a link, a size
beyond the file) is refused before anything of that size is read.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from attar.core.errors import AttarError
from attar.core.printable import one_line

BLOCK = tarfile.BLOCKSIZE
LONGEST_NAME = 64 * 1024
"""Bytes of a long name or of the extended header that holds it, at most."""
MOST_PADDING = 1024 * 1024
"""Bytes from the end mark on, at most."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
"""Members that hold a name, or more, of the next one."""
_FAULTS = (tarfile.HeaderError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file."""

    name: str
    start: int
    """Place of its first byte in the tar file."""
    bytes: int


def members(file: IO[bytes], size: int, where: str) -> Iterator[Member]:
    """Yield the files in an uncompressed tar file of ``size`` bytes; ``file`` is read at the headers only.

    Raises AttarError, calling the tar file ``where``, when it is compressed, damaged or cut short, and for members that
    are links or devices or would lie outside the folder into which the tar file is extracted.
    """
    place, name, real_bytes = 0, "", None
    while place < size:
        file.seek(place)
        header = file.read(BLOCK)
        if not place and (kind := next((kind for mark, kind in _COMPRESSED.items() if header.startswith(mark)), "")):
            raise AttarError(
                f"{where} is compressed with {kind}, so single images cannot be read from it; decompress it to .tar."
            )
        if len(header) < BLOCK:
            raise AttarError(f"{where} is cut short: it ends inside a header; fetch it again.")
        if not any(header):
            _refuse_rest(file, size - place, where)
            return
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except _FAULTS as error:
            raise AttarError(_no_tar(where, place, error)) from None
        start, length = place + BLOCK, found.size if real_bytes is None else real_bytes
        shown = one_line(name or found.name)[:200]
        if length < 0 or found.size < 0 or start + max(found.size, length) > size:
            raise AttarError(
                f"{where} is cut short or damaged: its member '{shown}' should have {max(found.size, length):,} bytes, "
                f"and the file has {max(0, size - start):,} left; fetch it again."
            )
        place = start + -(-length // BLOCK) * BLOCK
        if found.type in _EXTENSIONS:
            if length > LONGEST_NAME:
                raise AttarError(
                    f"{where} has a name or extended header of {length:,} bytes; attar refuses such files."
                )
            file.seek(start)
            content = file.read(length)
            if found.type == tarfile.GNUTYPE_LONGNAME:
                name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif found.type != tarfile.GNUTYPE_LONGLINK:
                named, real_bytes = _extended(content, where)
                name = named or name
            continue
        if found.type == tarfile.XGLTYPE:
            continue
        if found.isdir():
            name, real_bytes = "", None
            continue
        _refuse(found, name or found.name, where)
        yield Member(name or found.name, start, length)
        name, real_bytes = "", None
    lacks = "the end mark of a tar file, so it was probably cut short" if size else "content"
    raise AttarError(f"{where} lacks {lacks}; fetch it again.")


def _refuse_rest(file: IO[bytes], count: int, where: str) -> None:
    """Raise AttarError when more than padding follows the end mark, as in tar files that were joined."""
    if count > MOST_PADDING or any(file.read(count)):
        raise AttarError(
            f"{where} has {count:,} bytes from its end mark on, as tar files that were joined with cat have; write one "
            f"tar file anew, or keep several."
        )


def _refuse(found: tarfile.TarInfo, name: str, where: str) -> None:
    shown = one_line(name)[:200]
    if found.issym() or found.islnk():
        raise AttarError(f"{where} has the member '{shown}', which is a link; attar reads plain files only.")
    if not found.isreg() or found.type == tarfile.GNUTYPE_SPARSE:
        raise AttarError(f"{where} has the member '{shown}', which is no plain file; attar reads plain files only.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or set(name) & set("\\\0"):
        raise AttarError(
            f"{where} has the member '{shown}', which would lie outside the folder of its images; attar refuses such "
            f"files."
        )


def _extended(content: bytes, where: str) -> tuple[str, int | None]:
    """Return the name and the size that an extended (pax) header gives to the next member; '' and None without."""
    name, size = "", None
    while content.strip(b"\0"):
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not len(length) + 2 < int(length) <= len(content):
            raise AttarError(f"{where} is damaged (an extended header cannot be read); fetch it again.")
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise AttarError(f"{where} has a sparse member; attar reads tar files of plain files only.")
        content = content[int(length) :]
    return name, size


def _no_tar(where: str, place: int, error: Exception) -> str:
    if not place:
        return f"{where} is no tar file ({error}); fetch it again."
    return f"{where} is damaged at byte {place:,} ({error}); fetch it again."
