"""A folder whose layout is found out by looking at it."""

import os
from pathlib import Path

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import braces, folder, hub, parquet, splits, tars
from attar.data.scan import class_folders, is_results, pictures
from attar.data.source import Found
from attar.data.splits import Shards

_MOST_FOLDERS = 50
"""Folders in which shards are looked for; classes are often more."""


def read(path: Path, log: Log, *, are_classes: bool = False) -> Found:
    """The dataset in an existing folder, in any layout that attar knows; raises AttarError when it is none of them.

    ``are_classes`` says that its folders are classes even if they look like domains.
    """
    if hub.is_saved(path):
        return hub.read_saved(path, log)
    if folder.is_tiny_imagenet(path):
        return folder.read_tiny_imagenet(path, log)
    for package in (parquet, tars):
        if files := package.find(path):
            if not {file.parent for file in _in_folders(path, files.train[0].suffix)} <= _parents(files):
                log.say(f"data      attar reads the files in {path}, and not those in folders below it")
            return package.read(path, files, log)
    inner = _only_home(path) or folder.unwrapped(path)
    if inner != path:
        log.say(f"data      {path} holds nothing but {inner.relative_to(path)}, which is read")
        return read(inner, log, are_classes=are_classes)
    if found := folder.read(path, log, are_classes=are_classes):
        return found
    if pictures(path):
        raise AttarError(
            f"{path} holds images without class folders; sort them into CLASS/{folder.labels_in(path)}, "
            f"see 'Labels in a table' in docs/data.md."
        )
    raise AttarError(
        f"{path} holds no dataset that attar knows; it should have train/ and val/ with one folder of images per "
        f"class, or one folder of images per class, or train-*.parquet or train-*.tar files."
    )


def _parents(files: Shards[Path]) -> set[Path]:
    every = [*files.train, *files.others, *(file for val in files.vals for file in val)]
    return {file.parent for file in every}


def _in_folders(path: Path, *endings: str) -> list[Path]:
    """The files with these endings in the folders in a folder, and in their ``data`` folders."""
    places = [f"{within}*{ending}" for ending in endings for within in ("", "data/")]
    return [file for inner in class_folders(path).values() for place in places for file in sorted(inner.glob(place))]


def _only_home(path: Path) -> Path | None:
    """The folder, one or two levels below, of the only dataset of shards; None if pictures lie there, or no shards.

    Raises AttarError when there are several such datasets.
    """
    folders = list(class_folders(path).values())
    if is_results(path) or not 0 < len(folders) <= _MOST_FOLDERS or any(map(pictures, [path, *folders])):
        return None
    inner = [folder for outer in folders for folder in class_folders(outer).values()]
    if len(inner) > _MOST_FOLDERS or any(map(is_results, folders)) or any(map(pictures, inner)):
        return None
    files = [file for outer in (path, *folders) for file in _in_folders(outer, ".parquet", ".tar")]
    homes = sorted({_home(file.parent, path) for file in files} - {path})
    splits.refuse_several(str(path), [home.relative_to(path) for home in homes], str(next(iter(homes), "")))
    return homes[0] if homes else None


def _home(folder: Path, within: Path) -> Path:
    """The folder of the dataset whose shards lie here: without ``data`` and folders of splits at its end."""
    while folder != within and (folder.name == "data" or splits.role(folder.name)):
        folder = folder.parent
    return folder


def read_pattern(pattern: str, log: Log) -> Found:
    """The dataset in the tar or Parquet files that a pattern names, such as shards/train-{000..146}.tar."""
    files = braces.paths(pattern)
    folder_of_all = Path(os.path.commonpath([file.parent for file in files]))
    endings = {file.suffix for file in files}
    if endings not in ({".tar"}, {".parquet"}):
        raise AttarError(
            f"'{pattern}' names files other than .tar, or other than .parquet; name files of one of the two."
        )
    splits.tell_homes([file.relative_to(folder_of_all) for file in files], log)
    package = tars if endings == {".tar"} else parquet
    shards = package.grouped(files, joined=True)
    shards.refuse_others(pattern)
    return package.read(folder_of_all, shards, log)
