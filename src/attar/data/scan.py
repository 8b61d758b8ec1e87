"""Folders of pictures: which files are read, and which are left out and reported."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.store import sealed

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".avif", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx"),
)
"""Endings, in any case, of the files that are read."""
_BESIDE = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".log", ".pdf"),
    *(".db", ".ini", ".lnk", ".url", ".py", ".ipynb", ".sh", ".mat", ".npz", ".pkl", ".zip", ".tar", ".gz"),
)
"""Endings of files that often accompany pictures and are ignored silently; other files left out are reported."""
_NO_CLASSES = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
_STAGES = ("squeeze", "recover", "relabel", "distilled", "evaluate")
Entries = list[tuple[str, int]]
"""File names and their bytes, sorted by name."""


@dataclass
class Scanned:
    """The pictures of a class folder and of all folders below it."""

    parts: list[tuple[Path, Entries]] = field(default_factory=list)
    """Each folder that holds pictures, the class folder first, and then by path."""
    stamps: list[str] = field(default_factory=list)
    """A hash of each part that changes with any of its files on this machine: names, sizes, inodes and times."""
    others: Counter[str] = field(default_factory=Counter)
    """How many files of each ending are no pictures that are read."""
    holds_results: bool = False
    """Whether a folder below is the result of a run, which is left out."""

    @property
    def count(self) -> int:
        """The number of pictures."""
        return sum(len(files) for _, files in self.parts)


def class_folders(path: Path) -> dict[str, Path]:
    """The sub-folders by name, sorted; hidden ones and those of archivers and systems left out.

    Raises AttarError on a link that leads nowhere, and on a name that is not UTF-8.
    """
    found = []
    for entry in listed(path):
        if not _is_folder(entry):
            if entry.is_symlink() and not Path(entry.path).exists() and _ending(entry.name) not in ENDINGS + _BESIDE:
                raise AttarError(f"{entry.path} is a link that leads nowhere; repair or remove it.")
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise AttarError(
                f"The folder {entry.path} has a name that is not UTF-8, so it cannot name a class; rename it."
            ) from None
        found.append(entry.name)
    return {name: path / name for name in sorted(found)}


def scan(folder: Path) -> Scanned:
    """All pictures in a folder and below it, as torchvision's ImageFolder finds them; links are followed once."""
    found = Scanned()
    _walk(folder, found, frozenset())
    return found


def pictures(folder: Path) -> Entries:
    """The pictures that lie in a folder itself."""
    return sorted((entry.name, _bytes(entry)) for entry in listed(folder) if _is_picture(entry))


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds but for hidden files; raises AttarError when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise AttarError(f"{folder} cannot be read ({error.strerror}); fix its permissions.") from None


def is_results(folder: Path) -> bool:
    """Whether a run of attar has written into this folder, or into one inside it."""
    inside = [folder, *(folder / entry.name for entry in listed(folder) if _is_folder(entry))]
    return any(_is_run(place) for place in inside)


def tell(path: Path, classes: Mapping[str, Scanned], log: Log) -> None:
    """Say what is read from sub-folders of class folders, and what is left out."""
    below = {name: one for name, one in classes.items() if any(folder != path / name for folder, _ in one.parts)}
    if below:
        _tell_below(path, classes, below, log)
    others: Counter[str] = Counter()
    for one in classes.values():
        others += one.others
    if others:
        log.warn(
            f"left out {others.total()} of the files in {path}, which attar does not read as images: "
            f"{counted(others)}; convert them to .jpg or .png if they are images"
        )


def counted(others: Counter[str]) -> str:
    """Numbers of files by ending, in words."""
    shown = [f"{count} {ending or 'without an ending'}" for ending, count in others.most_common(3)]
    return ", ".join(shown) + (f" and {len(others) - 3} more kinds" if len(others) > 3 else "")


def _tell_below(path: Path, classes: Mapping[str, Scanned], below: Mapping[str, Scanned], log: Log) -> None:
    inner = {name: [folder for folder, _ in one.parts if folder != path / name] for name, one in below.items()}
    names = {folder.name for folders in inner.values() for folder in folders}
    every = all(path / name != folder for name, one in classes.items() for folder, _ in one.parts)
    example = next(folder for folders in inner.values() for folder in folders)
    if every and len(names) > 1:
        log.warn(
            f"all images in {path} lie in sub-folders, as in {example.relative_to(path)}; the {len(classes)} folders "
            f"above them are taken as the classes; if the sub-folders are the classes, name one of these folders "
            f"as the data ({path / next(iter(classes))}), or move the sub-folders into one folder"
        )
    elif len(names) > 1 or not every:  # else each class has the one inner folder, as in Tiny-ImageNet
        total = sum(one.count for one in classes.values())
        count = sum(len(files) for name, one in below.items() for folder, files in one.parts if folder != path / name)
        log.say(f"data      {count} of {total} images lie in sub-folders of classes, as in {example.relative_to(path)}")


def _walk(folder: Path, found: Scanned, above: frozenset[tuple[int, int]]) -> None:
    with contextlib.suppress(OSError):
        state = folder.stat()
        place = state.st_dev, state.st_ino
        if place in above:  # a link to a folder that it lies in
            return
        above |= {place}
    files, states, inner = [], [], []
    for entry in listed(folder):
        if _is_folder(entry):
            inner.append(entry.name)
        elif _ending(entry.name) in ENDINGS:
            state = _state(entry)
            files.append((entry.name, state[0]))
            states.append((entry.name, *state))
        elif _is_file(entry) and (ending := _ending(entry.name)) not in _BESIDE:
            found.others[ending] += 1
    if any(stage in inner for stage in _STAGES) and _is_run(folder):
        found.holds_results = True
        return
    if files:
        found.parts.append((folder, sorted(files)))
        found.stamps.append(sha256(repr(sorted(states)).encode(errors="surrogateescape")).hexdigest())
    for name in sorted(inner):
        _walk(folder / name, found, above)


def _is_run(folder: Path) -> bool:
    """Whether a run of attar was begun here."""
    return any((folder / stage / name).is_file() for stage in _STAGES for name in ("plan.json", "manifest.json"))


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return _ending(entry.name) in ENDINGS and not _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir() and entry.name.lower() not in _NO_CLASSES
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_file()
    return False


def _ending(name: str) -> str:
    stem, _, ending = name.lower().rpartition(".")
    return f".{ending}" if stem else ""


def _bytes(entry: os.DirEntry[str]) -> int:
    return _state(entry)[0]


def _state(entry: os.DirEntry[str]) -> tuple[int, int, int, int]:
    """Bytes, inode and times of a file; zeros for a link to nowhere, which is found out when it is decoded."""
    with contextlib.suppress(OSError):
        state = entry.stat()
        sealed.settle(state)
        return state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns
    return 0, 0, 0, 0
