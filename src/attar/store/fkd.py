"""Soft labels in the layout that SRe2L, CDA and their successors publish (FKD): one file ``epoch_E/batch_B.tar`` per
batch.

A file is a list written by ``torch.save``: crops, flips, the mixing of the batch, and the teacher's logits, for the
images that a seeded sampler put into that batch. It does not name the images; ``ops.replay.published_orders`` repeats
the sampling. Code in a file is never run: reading accepts only tensors and plain numbers.
"""

import hashlib
import io
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import atomic, pickles

Kind = Literal["none", "cutmix", "mixup"]
_IGNORED_FILES = ("sampler_indices_epoch.json",)
"""Other files that LPLD's code writes into the folder."""


@dataclass(frozen=True)
class FkdBatch:
    """The content of one file, for the images of a batch in the sampler's order."""

    coords: Float[Tensor, "image 4"]
    """Top, left, height, width of the crop, as fractions of the image's height and width, float32."""
    flip: Bool[Tensor, " image"]
    """Whether the crop is mirrored left to right."""
    partner: Int[Tensor, " image"] | None
    """Index in this batch of the image mixed in; None without mixing."""
    share: float | None
    """Mixup: weight of the image itself. CutMix: its share before the box was clipped at the image border."""
    box: tuple[int, int, int, int] | None
    """CutMix: first row, first column, end row, end column of the box that every image takes from its partner."""
    logits: Float[Tensor, "image class"]
    """The teacher's outputs, float16 or float32."""

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def kind(self) -> Kind:
        """The kind of mixing of the batch."""
        if self.partner is None:
            return "none"
        return "mixup" if self.box is None else "cutmix"


@dataclass(frozen=True)
class Layout:
    """Facts about a folder of such labels."""

    folder: Path
    num_epochs: int
    num_batches: int
    """Batches per epoch."""
    batch_size: int
    """Images per batch; the last batch of an epoch may be smaller."""
    num_images: int
    num_classes: int
    kind: Kind
    identity: str = ""
    """A SHA-256 of all crops, flips and mixes and of some logits, independent of paths."""

    def path(self, epoch: int, batch: int) -> Path:
        """Return the file of a batch."""
        return batch_path(self.folder, epoch, batch)

    def rows(self, batch: int) -> slice:
        """Return the positions of a batch in the order of its epoch."""
        return slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.num_images))


def batch_path(folder: Path, epoch: int, batch: int) -> Path:
    """Return the file of a batch."""
    return folder / f"epoch_{epoch}" / f"batch_{batch}.tar"


def read_batch(path: Path) -> FkdBatch:
    """Read one file; tensors are mapped into memory and read when they are used.

    Raises AttarError when the file is missing or damaged, contains anything but tensors and plain numbers, or is not in
    this layout.
    """
    content = pickles.read(path, _BATCH, _STAND_INS)
    if not isinstance(content, list | tuple) or len(content) != 6:
        raise _foreign(path, f"{_described(content)} instead of a list of six")
    coords, flip, partner, share, box, logits = content
    _check_tensor(path, "crops", coords, (None, 4), torch.float32)
    count = len(coords)
    if isinstance(flip, Tensor) and flip.ndim == 2:
        raise _foreign(path, "cut-outs instead of flips, which attar cannot replay")
    _check_tensor(path, "flips", flip, (count,), torch.bool)
    _check_tensor(path, "logits", logits, (count, None), torch.float16, torch.float32)
    if count == 0 or not coords.isfinite().all() or (coords[:, 2:] <= 0).any() or (coords.abs() > 1.001).any():
        raise _foreign(path, "crops that are not fractions of an image")
    if partner is None:
        if share is not None or box is not None:
            raise _foreign(path, "a mixing share or box but no partners")
        return FkdBatch(coords, flip, None, None, None, logits)
    _check_tensor(path, "partners", partner, (count,), torch.int64)
    if partner.min() < 0 or partner.max() >= count:
        raise _foreign(path, f"partners outside its {count} images")
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise _foreign(path, f"{_described(share)} instead of a mixing share, 0 to 1")
    return FkdBatch(coords, flip, partner, float(share), _checked_box(path, box), logits)


def write_batch(path: Path, batch: FkdBatch) -> None:
    """Write one file atomically; equal batches give equal bytes."""
    box = None if batch.box is None else list(batch.box)
    content = [batch.coords, batch.flip, batch.partner, batch.share, box, batch.logits]
    content = [part.contiguous().clone() if isinstance(part, Tensor) else part for part in content]
    buffer = io.BytesIO()  # torch.save stores the file's name, and temporary names differ
    torch.save(content, buffer)
    atomic.write_bytes(path, buffer.getvalue())


def scan(folder: Path, advance: Callable[[int], object] = lambda _: None) -> Layout:
    """Check a folder: every epoch and batch must exist, be complete and fit the others.

    Calls ``advance`` after each file. Reads almost no logits. Raises AttarError naming the first faulty file.
    """
    epochs = _numbered(folder, r"epoch_(\d+)", "epoch_{}", _IGNORED_FILES)
    batches = _numbered(folder / "epoch_0", r"batch_(\d+)\.tar", "batch_{}.tar")
    first = read_batch(batch_path(folder, 0, 0))
    last = read_batch(batch_path(folder, 0, batches - 1))
    layout = Layout(
        folder=folder,
        num_epochs=epochs,
        num_batches=batches,
        batch_size=len(first),
        num_images=len(first) * (batches - 1) + len(last),
        num_classes=first.logits.shape[1],
        kind=first.kind,
    )
    digest = hashlib.sha256()
    for epoch in range(epochs):
        found = _numbered(folder / f"epoch_{epoch}", r"batch_(\d+)\.tar", "batch_{}.tar")
        if found != batches:
            fewer = 0 if found > batches else epoch
            raise AttarError(
                f"{folder / f'epoch_{epoch}'} has {found} batches, but epoch_0 has {batches}; copy epoch_{fewer} "
                f"again, or remove it if it was never finished."
            )
        for batch in range(batches):
            content = read_batch(layout.path(epoch, batch))
            check(layout, epoch, batch, content)
            _add(digest, content)
            advance(1)
    return replace(layout, identity=digest.hexdigest())


def fingerprint(folder: Path) -> str:
    """Return a quick fingerprint: a SHA-256 of the file names, their sizes and the content of the first file.

    It does not depend on the folder's path. Raises AttarError when the folder holds no such labels.
    """
    first = batch_path(folder, 0, 0)
    if not first.is_file():
        raise AttarError(f"{folder} holds no labels in the FKD layout: {first} is missing; check the path.")
    files = sorted((path.parent.name, path.name, path.stat().st_size) for path in folder.glob("epoch_*/batch_*.tar"))
    return hashlib.sha256(repr((files, atomic.sha256_of(first))).encode()).hexdigest()


def _add(digest: "hashlib._Hash", batch: FkdBatch) -> None:
    parts = (batch.coords, batch.flip, batch.partner, batch.logits[0])
    digest.update(repr((len(batch), batch.share, batch.box)).encode())
    for part in parts:
        if part is not None:
            digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())


def check(layout: Layout, epoch: int, batch: int, content: FkdBatch) -> None:
    """Raise AttarError when a file does not fit the others of its folder."""
    path, rows = layout.path(epoch, batch), layout.rows(batch)
    due = rows.stop - rows.start
    if len(content) != due:
        raise AttarError(
            f"{path} is for {len(content)} images and should be for {due}: batches have {layout.batch_size} images, "
            f"the last one {layout.num_images - (layout.num_batches - 1) * layout.batch_size}; copy the file of that "
            f"name from the original set."
        )
    if content.logits.shape[1] != layout.num_classes:
        raise AttarError(
            f"{path} has logits of {content.logits.shape[1]} classes, but the first file has {layout.num_classes}; it "
            f"belongs to another set, so copy the file of that name from the original set."
        )
    if content.kind != layout.kind:
        raise AttarError(
            f"{path} uses the mixing '{content.kind}', but the first file uses '{layout.kind}'; it belongs to another "
            f"set, so copy the file of that name from the original set."
        )


def _numbered(folder: Path, pattern: str, name: str, ignored: tuple[str, ...] = ()) -> int:
    """Return the number of entries of a folder, numbered from 0; raises AttarError on gaps and on other files."""
    if not folder.is_dir():
        raise AttarError(f"There is no folder {folder}; name the folder that holds epoch_0, epoch_1 and so on.")
    numbers = set()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in ignored:
            continue
        matched = re.fullmatch(pattern, entry.name)
        if matched is None or entry.name != name.format(int(matched[1])):
            inner = next(entry.glob("epoch_0"), None) if entry.is_dir() else None
            fix = f"name {entry}" if inner else "remove it, or name the folder that holds epoch_0, epoch_1 and so on"
            raise AttarError(f"{entry} is not part of the FKD layout; {fix}.")
        numbers.add(int(matched[1]))
    missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
    if missing < len(numbers) or not numbers:
        raise AttarError(f"{folder / name.format(missing)} is missing; copy it there, or copy the whole folder again.")
    return len(numbers)


class _Kind:
    """Stand-in for NumPy's ``dtype`` in the pickle of a NumPy number."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: object, raw: object) -> int | float:
    """Stand-in for NumPy's ``scalar``: the boxes in published files are NumPy integers."""
    codes = {"i8": "q", "i4": "i", "i2": "h", "u8": "Q", "u4": "I", "u2": "H", "f8": "d", "f4": "f"}
    if not isinstance(kind, _Kind) or kind.code not in codes or kind.order not in ("<", ">") or type(raw) is not bytes:
        raise pickle.UnpicklingError("a NumPy object that is not a plain number")
    try:
        return struct.unpack(kind.order + codes[str(kind.code)], raw)[0]
    except struct.error:
        raise pickle.UnpicklingError("a NumPy number with the wrong number of bytes") from None


_STAND_INS = (
    (_Kind, "numpy.dtype"),
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),
)


_BATCH = pickles.Kind(
    missing="There is no file {path}; copy it there, or copy the whole folder again.",
    code="{path} contains '{name}', which is code and not a tensor or plain number; attar ran none of it; get the "
    "labels from another source.",
    damaged="{path} is not a complete batch of the FKD layout ({reason}); copy or download it again.",
    not_readable="not a list of tensors and plain numbers; attar ran none of it",
)


def _foreign(path: Path, holds: str) -> AttarError:
    return AttarError(f"{path} is not a batch of the FKD layout: it holds {holds}; remove it, or name another folder.")


def _described(value: object) -> str:
    if type(value) in (int, float):
        return str(value)
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")


def _check_tensor(path: Path, what: str, value: object, shape: tuple[int | None, ...], *kinds: torch.dtype) -> None:
    """Raise AttarError unless the value is a plain tensor of this shape (None: any length) and one of these types."""
    due = f"[{', '.join('any' if length is None else str(length) for length in shape)}]"
    if type(value) is not Tensor or value.layout != torch.strided:
        raise _foreign(path, f"{_described(value)} instead of {what} of shape {due}")
    fits = len(shape) == value.ndim and all(want in (None, has) for want, has in zip(shape, value.shape, strict=True))
    if not fits or value.dtype not in kinds:
        raise _foreign(path, f"{what} of {value.dtype} and shape {list(value.shape)}, not {kinds[0]} and {due}")
    if (
        value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):  # an expanded view of few bytes could claim any size
        raise _foreign(path, f"{what} whose values are mostly not stored")


def _checked_box(path: Path, box: object) -> tuple[int, int, int, int] | None:
    if box is None:
        return None
    if not isinstance(box, list | tuple) or len(box) != 4 or any(type(edge) is not int for edge in box):
        raise _foreign(path, f"{_described(box)} instead of a box of four whole numbers")
    top, left, bottom, right = box
    if not (0 <= top <= bottom and 0 <= left <= right):
        raise _foreign(path, f"the box {list(box)}, whose end is before its start")
    return top, left, bottom, right
