"""Images on disk: Parquet files in the Hugging Face ``Image`` layout, readable by ``datasets.load_dataset``."""

import contextlib
import hashlib
import io
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int, UInt8
from PIL import Image, features
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.choices import ImageFormat
from attar.store import atomic, sealed

SHARD_BYTES = 256 * 2**20
ROWS_PER_GROUP = 256
COLUMNS = ["image", "label", "slot"]
_DAMAGE = (
    *(pa.ArrowException, OSError, KeyError, TypeError, ValueError),
    *(SyntaxError, Image.DecompressionBombError),  # Pillow's errors for broken and for huge images
)
T = TypeVar("T")
_WEBP_EFFORT = 6
"""Of 0 to 6; the highest takes longest and makes the smallest files."""


@dataclass(frozen=True)
class ImageSet:
    """Images in uint8, with the class and slot of each."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, " image"]
    slots: Int[Tensor, " image"]

    def sha256(self) -> str:
        """Return the set's identity: a hash of its pixels and labels, independent of the file format."""
        total = _begun(tuple(self.images.shape), self.labels.tolist())
        for image in self.images:
            total.update(image.contiguous().numpy().tobytes())
        return total.hexdigest()


def encode(image: UInt8[Tensor, "3 height width"], image_format: ImageFormat, quality: int) -> bytes:
    """Return an image as the bytes of a PNG file (lossless), or of a JPEG or WebP file of this quality, 1 to 100.

    Raises AttarError for WebP when Pillow was built without it.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    if image_format == "png":
        picture.save(buffer, "PNG", optimize=True)
    elif image_format == "jpeg":
        picture.save(buffer, "JPEG", quality=quality)
    elif features.check("webp"):
        picture.save(buffer, "WEBP", quality=quality, method=_WEBP_EFFORT)
    else:
        raise AttarError("This Pillow cannot write WebP; install another build, or use --recover.image-format jpeg.")
    return buffer.getvalue()


def decode(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """Return the pixels of an encoded image."""
    with Image.open(io.BytesIO(data)) as picture:
        return tensor_of(picture)


def tensor_of(picture: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """Return the pixels of a Pillow image."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def save_picture(path: Path, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Write a picture as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, encode(picture, "png", 0))


def write(
    folder: Path,
    images: Iterator[tuple[UInt8[Tensor, "3 height width"] | bytes, int, int]],
    classes: tuple[str, ...],
    image_format: ImageFormat = "png",
    quality: int = 75,
) -> int:
    """Write (image, label, slot) rows into ``folder/train-*.parquet``; returns the size of the files in bytes.

    An image given as the bytes of a PNG, JPEG or WebP file is stored unchanged.

    A shard has about 256 MiB. Shards get their names after all are written, so a reader never sees part of a set. If
    ``images`` raises an error, all shards are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema, own = _schema(classes), secrets.token_hex(4)  # another run may write the same set at the same time
    parts: list[Path] = []
    rows: list[dict[str, object]] = []
    size = 0

    def close() -> None:
        nonlocal rows, size
        part = folder / f".part-{own}-{len(parts):05d}.tmp"
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
        names, written = [folder / name for name in _names(len(parts))], sum(part.stat().st_size for part in parts)
        for old in folder.glob("train-*.parquet"):  # before new shards appear, so that the two never mix
            if old not in names or len(names) > 1:
                old.unlink(missing_ok=True)
        for part, name in zip(parts, names, strict=True):
            part.replace(name)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return written


def read(folder: Path) -> ImageSet:
    """Read a set written by ``write`` into memory.

    Raises AttarError when files are missing or damaged, or when images differ in size.
    """
    images, labels, slots = [], [], []
    for image, label, slot in _rows(folder):
        images.append(image)
        labels.append(label)
        slots.append(slot)
    return ImageSet(torch.stack(images), torch.tensor(labels), torch.tensor(slots))


def identity(folder: Path) -> tuple[str, int]:
    """Return ``ImageSet.sha256`` of a set and its number of images; reads one image at a time.

    Raises AttarError as ``read`` does.
    """
    labels, _ = numbers(folder)
    return stream(folder, labels, lambda _: None), len(labels)


def stream(folder: Path, labels: list[int], use: Callable[[bytes], object]) -> str:
    """Pass the pixels of every image to ``use``, one image at a time; returns the SHA-256 of the set.

    Pixels are ordered by channel, then row. Raises AttarError as ``read`` does.
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
    """Return the first image of a set; raises AttarError as ``read`` does."""
    return next(_rows(folder))[0]


def numbers(folder: Path) -> tuple[list[int], list[int]]:
    """Return the class and slot of every image without decoding images; raises AttarError as ``read`` does."""
    labels, slots = [], []
    for file in files_of(folder):
        with _damage_explained(file):
            table = _open(file).read(columns=["label", "slot"])
            labels += table["label"].to_pylist()
            slots += table["slot"].to_pylist()
    return labels, slots


def encoded(folder: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield the rows of a set written by ``write``, with encoded images; raises AttarError as ``read`` does."""
    return _stored(folder, bytes)


def suffix(data: bytes) -> Literal["png", "webp", "jpg"]:
    """Return the file suffix of an encoded image: PNG, WebP or JPEG."""
    if data.startswith(b"RIFF"):
        return "webp"
    return "png" if data.startswith(b"\x89PNG") else "jpg"


def num_bytes(folder: Path) -> int:
    """Return the size of the files of a set in bytes."""
    return sum(file.stat().st_size for file in folder.glob("train-*.parquet"))


def _begun(shape: tuple[int, ...], labels: list[int]) -> "hashlib._Hash":
    """Return the hash of shape and labels, to which the pixels are added."""
    return hashlib.sha256(repr((shape, labels)).encode())


def _rows(folder: Path) -> Iterator[tuple[UInt8[Tensor, "3 height width"], int, int]]:
    """Yield every image with its class and slot; raises AttarError when sizes differ."""
    shape = None
    for image, label, slot in _stored(folder, decode):
        shape = shape or image.shape
        if image.shape != shape:
            raise AttarError(f"{folder} holds images of different sizes, which attar never writes; use another copy.")
        yield image, label, slot
    if shape is None:
        raise AttarError(f"{folder} holds no images; {sealed.FIX_DAMAGED}.")


def _stored(folder: Path, read_image: Callable[[bytes], T]) -> Iterator[tuple[T, int, int]]:
    """Yield every row; only one row group is in memory at a time."""
    for file in files_of(folder):
        with _damage_explained(file):
            for batch in _open(file).iter_batches(ROWS_PER_GROUP, columns=COLUMNS):
                for row in batch.to_pylist():
                    yield read_image(row["image"]["bytes"]), row["label"], row["slot"]


def files_of(folder: Path) -> list[Path]:
    """Return the files of a set, in order; raises AttarError when some are missing."""
    files = sorted(folder.glob("train-*.parquet"))
    if not files or [file.name for file in files] != _names(len(files)):
        raise AttarError(f"{folder} holds no complete set of images (train-*.parquet); {sealed.FIX_MISSING}.")
    return files


def _open(file: Path) -> pq.ParquetFile:
    table = pq.ParquetFile(file)
    absent = [column for column in COLUMNS if column not in table.schema_arrow.names]
    if absent:
        raise AttarError(f"{file} has no column '{absent[0]}'; {sealed.FIX_DAMAGED}.")
    return table


@contextlib.contextmanager
def _damage_explained(file: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise AttarError(f"{file} is damaged ({reason}); {sealed.FIX_DAMAGED}.") from None


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
