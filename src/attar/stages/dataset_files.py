"""Files that relabel takes over into the dataset as they are: recover's images, and labels that the method made."""

import os
import shutil
from pathlib import Path

from attar.store import atomic, learned_labels
from attar.store.images import ImageSet


def copy_given(recovered: Path, out: Path, images: ImageSet, images_sha256: str, num_classes: int) -> int:
    """Write the soft labels that the method made into the dataset; returns their bytes."""
    shape = (len(images.images), num_classes)
    probabilities = learned_labels.load(recovered / learned_labels.FILE, images_sha256, shape)
    return learned_labels.save(out / "labels" / learned_labels.FILE, probabilities, images_sha256)


def link_images(source: Path, target: Path) -> None:
    """Put recover's images into the dataset: as hard links if the file system allows, else as copies."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("train-*.parquet")):
        with atomic.replace(target / file.name) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, without temporary ones of processes that write or were killed."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not atomic.is_temporary(file))
