"""Images on disk: Parquet in the Hugging Face ``Image`` layout, which ``datasets.load_dataset`` opens as it is."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import atomic, sealed

SHARD_BYTES = 256 * 2**20
ROWS_PER_GROUP = 256
COLUMNS = ["image", "label", "slot"]
T = TypeVar("T")


@dataclass(frozen=True)
class ImageSet:
    """Images as bytes, with the class and slot of each."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, " image"]
    slots: Int[Tensor, " image"]

    def sha256(self) -> str:
        """The set's identity: its pixels and labels, however they are stored."""
        total = _begun(tuple(self.images.shape), self.labels.tolist())
        for image in self.images:
            total.update(image.contiguous().numpy().tobytes())
        return total.hexdigest()


def encode(image: UInt8[Tensor, "3 height width"], image_format: Literal["png", "jpeg"], quality: int) -> bytes:
    """One image as the bytes of a PNG (lossless) or of a JPEG of this quality."""
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    if image_format == "png":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """The pixels of an encoded image."""
    with Image.open(io.BytesIO(data)) as picture:
        return tensor_of(picture)


def tensor_of(picture: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """The pixels of a picture."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def save_picture(path: Path, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Write a picture for people to look at, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, encode(picture, "png", 0))


def write(
    folder: Path,
    images: Iterator[tuple[UInt8[Tensor, "3 height width"] | bytes, int, int]],
    classes: tuple[str, ...],
    image_format: Literal["png", "jpeg"] = "png",
    quality: int = 75,
) -> int:
    """Write (image, label, slot) rows into ``folder/train-*.parquet``; returns the bytes of the files.

    An image that comes as the bytes of a PNG or JPEG is kept as it is.

    Shards are closed at about 256 MiB and named once their number is known, so a reader never sees a part of a set;
    nothing is left of them when ``images`` fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = _schema(classes)
    parts: list[Path] = []
    rows: list[dict[str, object]] = []
    size = 0

    def close() -> None:
        nonlocal rows, size
        part = folder / f".part-{len(parts):05d}"
        with atomic.replace(part) as temporary:
            table = pa.Table.from_pylist(rows, schema=schema)
            pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="none")
        parts.append(part)
        rows, size = [], 0

    try:
        for image, label, slot in images:
            data = image if isinstance(image, bytes) else encode(image, image_format, quality)
            path = f"{classes[label]}_{slot:05d}.{suffix(data)}"
            rows.append({"image": {"bytes": data, "path": path}, "label": label, "slot": slot})
            size += len(data)
            if size >= SHARD_BYTES:
                close()
        if rows or not parts:
            close()
        for old in folder.glob("train-*.parquet"):  # all of them first: old and new shards never pass for one set
            old.unlink()
        names = [folder / name for name in _names(len(parts))]
        for part, name in zip(parts, names, strict=True):
            part.replace(name)
    finally:
        for part in folder.glob(".part-*"):
            part.unlink()
    return sum(name.stat().st_size for name in names)


def read(folder: Path) -> ImageSet:
    """Read a set that ``write`` wrote, into memory.

    Raises AttarError when files are missing or damaged, or the images differ in size.
    """
    images, labels, slots = [], [], []
    for image, label, slot in _rows(folder):
        images.append(image)
        labels.append(label)
        slots.append(slot)
    return ImageSet(torch.stack(images), torch.tensor(labels), torch.tensor(slots))


def identity(folder: Path) -> tuple[str, int]:
    """The SHA-256 of a set, as of ``ImageSet``, and how many images it has; read one by one, never all in memory.

    Raises AttarError as ``read`` does.
    """
    labels, _ = numbers(folder)
    return stream(folder, labels, lambda _: None), len(labels)


def stream(folder: Path, labels: list[int], use: Callable[[bytes], object]) -> str:
    """Hand the pixels of every image to ``use``, one after the other, and return the SHA-256 of the set.

    Pixels come channel by channel, row by row. Raises AttarError as ``read`` does.
    """
    total = None
    for image, _, _ in _rows(folder):
        if total is None:
            total = _begun((len(labels), *image.shape), labels)
        pixels = image.contiguous().numpy().tobytes()
        total.update(pixels)
        use(pixels)
    assert total is not None  # _rows refuses an empty set
    return total.hexdigest()


def first(folder: Path) -> UInt8[Tensor, "3 height width"]:
    """The first image of a set; raises AttarError as ``read`` does."""
    return next(_rows(folder))[0]


def numbers(folder: Path) -> tuple[list[int], list[int]]:
    """Class and slot of every image, without decoding one; raises AttarError as ``read`` does."""
    labels, slots = [], []
    for file in files_of(folder):
        with _damage_told(file):
            table = _opened(file).read(columns=["label", "slot"])
            labels += table["label"].to_pylist()
            slots += table["slot"].to_pylist()
    return labels, slots


def encoded(folder: Path) -> Iterator[tuple[bytes, int, int]]:
    """The rows of a set that ``write`` wrote, images as the bytes of their files. Raises AttarError as ``read``."""
    return _stored(folder, bytes)


def suffix(data: bytes) -> Literal["png", "jpg"]:
    """What a file of these bytes is called: images are stored as PNG or JPEG."""
    return "png" if data.startswith(b"\x89PNG") else "jpg"


def num_bytes(folder: Path) -> int:
    """Bytes of the files of a set."""
    return sum(file.stat().st_size for file in folder.glob("train-*.parquet"))


def _begun(shape: tuple[int, ...], labels: list[int]) -> "hashlib._Hash":
    """What is hashed before the pixels."""
    return hashlib.sha256(repr((shape, labels)).encode())


def _rows(folder: Path) -> Iterator[tuple[UInt8[Tensor, "3 height width"], int, int]]:
    """Every image with its class and slot; all are of one size."""
    shape = None
    for image, label, slot in _stored(folder, decode):
        shape = shape or image.shape
        if image.shape != shape:
            raise AttarError(
                f"{folder} holds images of different sizes; attar's own sets never do, so take another copy."
            )
        yield image, label, slot
    if shape is None:
        raise AttarError(f"{folder} holds no images; {sealed.MEND}.")


def _stored(folder: Path, opened: Callable[[bytes], T]) -> Iterator[tuple[T, int, int]]:
    """Every row, a group of them in memory at a time."""
    for file in files_of(folder):
        with _damage_told(file):
            for batch in _opened(file).iter_batches(ROWS_PER_GROUP, columns=COLUMNS):
                for row in batch.to_pylist():
                    yield opened(row["image"]["bytes"]), row["label"], row["slot"]


def files_of(folder: Path) -> list[Path]:
    """The files of a set, in order; raises AttarError when some are missing."""
    files = sorted(folder.glob("train-*.parquet"))
    if not files or [file.name for file in files] != _names(len(files)):
        raise AttarError(f"{folder} holds no complete set of images (train-*.parquet); {sealed.AGAIN}.")
    return files


def _opened(file: Path) -> pq.ParquetFile:
    table = pq.ParquetFile(file)
    absent = [column for column in COLUMNS if column not in table.schema_arrow.names]
    if absent:
        raise AttarError(f"{file} lacks attar's column '{absent[0]}'; {sealed.MEND}.")
    return table


@contextlib.contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SyntaxError) as error:  # Pillow's, too
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise AttarError(f"{file} is damaged ({reason}); {sealed.MEND}.") from None


def _names(num_shards: int) -> list[str]:
    return [f"train-{place:05d}-of-{num_shards:05d}.parquet" for place in range(num_shards)]


def _schema(classes: tuple[str, ...]) -> pa.Schema:
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(classes)},
        "slot": {"_type": "Value", "dtype": "int64"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field("image", image), pa.field("label", pa.int64()), pa.field("slot", pa.int64())]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
