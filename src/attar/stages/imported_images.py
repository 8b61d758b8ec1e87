"""Import images from a folder, a table or a Hub dataset, and write them as recover writes its images."""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from attar.core import ranks
from attar.core.elapsed import Clock
from attar.core.errors import AttarError
from attar.data import hub, layout
from attar.data.picture import Unreadable
from attar.data.source import Found, Split
from attar.stages import members, teacher_check
from attar.stages.folder import MANIFEST, StageFolder
from attar.stages.run import IMPORTED, ImagesMade, images_in
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.synthesis.method import MethodConfig

_NUMBER = re.compile(r"(?:new|class)?0*(\d+)")
"""SRe2L and CDA call the folder of class 7 new007 or new00007, RDED 00007; tables without names have 7."""


@dataclass(frozen=True)
class Import:
    """Images made elsewhere, sorted into the data's classes."""

    split: Split
    rows: Int[np.ndarray, "class slot"]
    """Index in the split of each class's first, second, ... image: sorted by name in a folder, by row in a table."""

    @property
    def ipc(self) -> int:
        """Images per class."""
        return self.rows.shape[1]

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield row, label and slot of every image, slot by slot, in recover's order."""
        for slot in range(self.ipc):
            for label, row in enumerate(self.rows[:, slot].tolist()):
                yield row, label, slot


def run(
    space: Workspace, source: str, config: MethodConfig, folder: Path | None = None, *, teachers_label: bool = True
) -> ImagesMade:
    """Make ``<out>/recover`` from the images in ``source``; returns its manifest.

    ``source`` is a folder (one sub-folder per class, Parquet files, or the output of ``save_to_disk``) or hf:ORG/NAME.
    ``config.ipc`` must equal the images per class; the ``accept_...`` settings apply to the teacher, and
    ``teachers_label`` is as in ``recover.run``. Raises AttarError
    when classes, size or counts of the images do not fit the data, when the teacher fails its check, or when the
    folder holds other images.
    """
    out = folder or space.out / "recover"
    if space.num_teachers:
        members.made(space, 0)  # raises where there is none
    parents = {"data": space.real.fingerprint}
    if (out / MANIFEST).is_file() and not source.startswith(hub.PREFIX) and not Path(source).expanduser().exists():
        asked = images_in(out).settings
        finished = StageFolder(out, "recover", space.request(method=IMPORTED, recover=asked), parents).finished()
        if finished is not None:
            space.log.warn(f"the folder {source} no longer exists; the images that were imported from it are used")
            return images_in(out)
    found = find(space, source)
    _check_count(found, source, config)
    request = space.request(method=IMPORTED, recover={"ipc": found.ipc, "images": _identity(found)})
    stage = StageFolder(out, "recover", request, parents, space.log.warn, lambda: image_files.files_of(out / "data"))
    if stage.finished() is not None:
        return images_in(out)
    if space.num_teachers:
        teacher_check.check(members.teacher(space, 0), space, "random", config, used=teachers_label)
    stage.begin()
    if ranks.is_first():
        clock = Clock()
        result = _write(space, found, out)
        files = image_files.files_of(out / "data")
        stage.finish(result, clock.elapsed(), space.device.describe(), files)
    ranks.wait()
    return images_in(out)


def check(space: Workspace, source: str, config: MethodConfig) -> None:
    """Raise AttarError, before a teacher is trained, for images that ``run`` would refuse."""
    _check_count(find(space, source), source, config)


def find(space: Workspace, source: str) -> Import:
    """Find the images of a source by class; raises AttarError when classes differ from the data's, or counts vary."""
    path = Path(source).expanduser()
    if source.startswith(hub.PREFIX):
        if "/" not in source:
            raise AttarError(f"--images {source} is not a dataset of the Hub; write hf:ORG/NAME.")
        found = hub.read_hub(source, space.log)
    elif path.is_dir():
        if (path / "images").is_dir() and (path / "labels").is_dir():
            raise AttarError(f"{path} holds images/ and labels/; use --images {path / 'images'}.")
        found = layout.read(path, space.log)
    else:
        raise AttarError(f"There is no folder of images {path}; check the path, or write hf:ORG/NAME.")
    labels = _labels(found, source, space.real.classes)
    counts = np.bincount(labels, minlength=len(space.real.classes))
    fewest, most = int(counts.argmin()), int(counts.argmax())
    if counts[fewest] != counts[most]:
        raise AttarError(
            f"{source} has {counts[most]} images of the class '{space.real.classes[most]}' and {counts[fewest]} of "
            f"'{space.real.classes[fewest]}'; every class needs the same number, so add or remove images."
        )
    order = np.argsort(labels, kind="stable")
    return Import(found.train, order.reshape(len(space.real.classes), -1))


def _labels(found: Found, source: str, classes: tuple[str, ...]) -> Int[np.ndarray, " image"]:
    """Return each image's label among the data's classes, matched by class name, else by class number."""
    place = {name: label for label, name in enumerate(classes)}
    if not set(found.classes) <= set(classes):
        numbers = [_NUMBER.fullmatch(name) for name in found.classes]
        if all(numbers):
            place = {name: int(number[1]) for name, number in zip(found.classes, numbers, strict=True) if number}
        stranger = next((name for name in found.classes if place.get(name, len(classes)) >= len(classes)), None)
        if stranger is not None:
            what = f"class number {place[stranger]}" if stranger in place else f"the class '{stranger}'"
            raise AttarError(
                f"{source} has {what}, but the data have {len(classes)} classes, from '{classes[0]}' to "
                f"'{classes[-1]}'; import images of these classes, or choose other --data."
            )
    labels = np.array([place[name] for name in found.classes], dtype=np.int64)
    if len(set(labels.tolist())) < len(labels):
        raise AttarError(f"{source} has two folders with the same class number; remove or rename one.")
    return labels[found.train.labels]


def _check_count(found: Import, source: str, config: MethodConfig) -> None:
    if found.ipc == 0:
        raise AttarError(f"{source} holds no images; give the folder that contains them.")
    if (config.ipc_start, config.ipc) != (0, found.ipc):
        raise AttarError(
            f"{source} has {found.ipc} images per class, but the recipe asks for {config.ipc - config.ipc_start}; "
            f"use --recover.ipc {found.ipc}" + (" --recover.ipc-start 0." if config.ipc_start else ".")
        )


def _identity(found: Import) -> str:
    """Return a SHA-256 of the stored images and their labels; paths do not matter."""
    total = hashlib.sha256(repr(found.rows.shape).encode())
    for row, _, _ in found:
        total.update(hashlib.sha256(_encoded(found.split, row)).digest())
    return total.hexdigest()


def _write(space: Workspace, found: Import, out: Path) -> dict[str, Any]:
    log, classes, size = space.log.beside(out), space.real.classes, space.choice.size
    with log.progress("images", found.rows.size, unit="images") as advance:

        def rows() -> Iterator[tuple[Any, int, int]]:
            for row, label, slot in found:
                yield _fitting(found.split, row, size), label, slot
                advance()

        image_bytes = image_files.write(out / "data", rows(), classes)
    images_sha256, count = image_files.identity(out / "data")
    return {
        "images_sha256": images_sha256,
        "num_images": count,
        "image_bytes": image_bytes,
        "method": IMPORTED,
        "size": size,
        "classes": list(classes),
    }


def _fitting(split: Split, row: int, size: int) -> Any:
    """Return an image's file bytes if it is a plain JPEG, PNG or WebP file, else its pixels; refuses other sizes."""
    try:
        picture = split.image(row)
    except Unreadable as error:
        raise _unreadable(error) from None
    if picture.size != (size, size):
        width, height = picture.size
        fix = f"use --data.size {width}" if width == height else "attar's images are square, so crop them"
        raise AttarError(f"{split.where(row)} has {width}x{height} pixels, but the data are prepared at {size}; {fix}.")
    encoded = split.encoded(row)
    if encoded is not None and _is_plain(encoded):
        return encoded
    return image_files.tensor_of(picture)


def _is_plain(encoded: bytes) -> bool:
    with Image.open(io.BytesIO(encoded)) as picture:
        if picture.format not in ("JPEG", "PNG", "WEBP") or getattr(picture, "is_animated", False):
            return False
        return picture.mode == "RGB" and "transparency" not in picture.info


def _encoded(split: Split, row: int) -> bytes:
    try:
        encoded = split.encoded(row)
        return encoded if encoded is not None else split.image(row).tobytes()
    except Unreadable as error:
        raise _unreadable(error) from None


def _unreadable(error: Unreadable) -> AttarError:
    return AttarError(f"{error.where} cannot be read as an image ({error.reason}); fetch the set again.")
