"""A folder whose layout is found out by looking at it."""

import os
from pathlib import Path

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import braces, folder, hub, parquet, splits, tars
from attar.data.scan import pictures
from attar.data.source import Found


def read(path: Path, log: Log, *, are_classes: bool = False) -> Found:
    """The dataset in an existing folder, in any layout that attar knows; raises AttarError when it is none of them.

    ``are_classes`` says that its folders are classes even if they look like domains.
    """
    if hub.is_saved(path):
        return hub.read_saved(path, log)
    if folder.is_tiny_imagenet(path):
        return folder.read_tiny_imagenet(path, log)
    if files := parquet.find(path):
        return parquet.read(path, files, log)
    if files := tars.find(path):
        return tars.read(path, files, log)
    inner = folder.unwrapped(path)
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
    shards = package.grouped(files)
    shards.refuse_others(pattern)
    return package.read(folder_of_all, shards, log)
