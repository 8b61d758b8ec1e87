"""Soft labels on disk, addressed by (epoch, image): the view that the teacher saw and its logits.

A store is a folder of memory-mapped safetensors files with a few epochs each, and ``labels.json``, which describes them
and is written last. The labels do not depend on batch size, sampler or number of processes. A pool holds fewer epochs
than students train; each time round, every image goes through its records in a new order.
"""

import functools
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import pydantic
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attar.core.config import Config, digest
from attar.core.errors import AttarError
from attar.core.legacy import legacy_identity
from attar.core.randomness import generator
from attar.ops import codec as codecs
from attar.ops import dsa
from attar.ops.augment import RandAugment
from attar.ops.choices import PLAIN, Storage
from attar.ops.codec import Codec, Parts
from attar.ops.mixing import Mix, MixChoice
from attar.ops.mosaic import Part
from attar.ops.replay import Look, LookChoice, Records
from attar.ops.views import View
from attar.store import atomic, sealed, weights
from attar.store.label_form import Form

FORMAT = 2
_CHECKED: set[Hashable] = set()
"""States of files whose tensors this process has already checked, with the form they were checked against."""
_NAME = re.compile(r"epochs-(\d+)-\d+\.safetensors")
SHARD_BYTES = 64 * 2**20
HEADER = "labels.json"
_LOGIT_TENSORS = ("logits", "classes", "values", "range", "rest")


class Header(Config):
    """The content of ``labels.json``."""

    format: Literal[2] = FORMAT
    codec: Codec = Codec()
    """How logits are stored."""
    images_sha256: str
    """Hash of the images that these labels are for."""
    num_images: int = pydantic.Field(ge=1)
    num_classes: int = pydantic.Field(ge=1)
    num_epochs: int = pydantic.Field(ge=1)
    """Number of stored epochs."""
    pooled: bool = False
    """Every image goes through its records in a new random order each time round; else all images epoch by epoch."""
    epochs_per_file: int = pydantic.Field(ge=1)
    height: int = pydantic.Field(ge=1)
    width: int = pydantic.Field(ge=1)
    views: LookChoice
    mix: MixChoice
    teacher: str
    """SHA-256 of the weights of the teacher or teachers, or of the files that the labels were imported from."""
    storage: Storage = PLAIN
    """How images are stored. If a stored image holds several, each record says which part is shown."""

    def file_of(self, epoch: int) -> tuple[str, int]:
        """Return the name of the file that holds an epoch, and the epoch's index in it."""
        first = epoch - epoch % self.epochs_per_file
        last = min(first + self.epochs_per_file, self.num_epochs) - 1
        return f"epochs-{first:05d}-{last:05d}.safetensors", epoch - first

    def files(self) -> dict[str, range]:
        """Return the epochs of every file, by file name."""
        starts = range(0, self.num_epochs, self.epochs_per_file)
        return {self.file_of(at)[0]: range(at, min(at + self.epochs_per_file, self.num_epochs)) for at in starts}

    def num_epochs_of(self, name: str) -> int:
        """Return how many epochs a file holds; raises AttarError when the header has no such file."""
        found = _NAME.fullmatch(name)
        first = int(found[1]) if found else -1
        if first < 0 or first >= self.num_epochs or self.file_of(first) != (name, 0):
            raise AttarError(f"{name} is not one of the files that {HEADER} describes; {sealed.FIX_DAMAGED}.")
        return min(self.epochs_per_file, self.num_epochs - first)

    @property
    def form(self) -> Form:
        """The required form of a file's tensors."""
        size = (self.height, self.width)
        return Form(self.num_images, self.num_classes, size, self.codec, self.views, self.mix, self.storage)

    @property
    def record_bytes(self) -> int:
        """Size of one record in bytes."""
        return record_bytes(self.num_classes, self.codec, self.views, self.mix, self.storage)


@dataclass(frozen=True)
class EpochLabels:
    """One epoch to be written: the view of each image, in the order of the images, and the teacher's logits."""

    records: Records
    encoded_logits: Parts
    """Logits as encoded by the store's codec."""


def record_bytes(num_classes: int, codec: Codec, views: LookChoice, mix: MixChoice, storage: Storage = PLAIN) -> int:
    """Return the size of one record in bytes, without file headers.

    A record holds the logits, crop, flip, augmentation, mixing, and the part of a stored image that is shown.
    """
    mixed = {"none": 0, "mixup": 4 + 4, "cutmix": 4 + 4 + 4 * 2}[mix.kind]
    patches = views.patch_shuffle**2 if views.patch_shuffle > 1 else 0
    changes = 2 * views.randaugment_ops + (dsa.NUM_LEVELS if views.dsa else 0)
    part = 1 if storage.factor > 1 else 0
    return codec.record_bytes(num_classes) + 4 * 2 + 1 + patches + changes + part + mixed


def epochs_per_file(num_images: int, one_record_bytes: int) -> int:
    """Return how many epochs fit into a file of about 64 MiB; at least one."""
    return max(1, SHARD_BYTES // (num_images * one_record_bytes))


def write_file(folder: Path, header: Header, name: str, epochs: Sequence[EpochLabels | Parts]) -> None:
    """Write one file with the records of its epochs, atomically."""
    parts = [parts_of(epoch) if isinstance(epoch, EpochLabels) else epoch for epoch in epochs]
    tensors = {key: _stacked([part[key] for part in parts]) for key in parts[0]}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"images_sha256": header.images_sha256, "file": name, "header": digest(header.identity())}
    weights.save_weights(folder / name, tensors, metadata, sealed=True)


def fault(folder: Path, header: Header, name: str) -> str:
    """Return in a sentence what is wrong with a file written for this header; '' if nothing is."""
    try:
        found, metadata = weights.load_weights(folder / name)
    except AttarError as error:
        return str(error)
    known = ("", digest(header.identity()), digest(legacy_identity(header)))
    if metadata.get("header", "") not in known or metadata.get("file") != name:
        return f"{folder / name} holds labels of another run; {sealed.FIX_DAMAGED}."
    wrong = header.form.fault(found, header.num_epochs_of(name))
    return f"{folder / name} {wrong}; {sealed.FIX_DAMAGED}." if wrong else ""


def write_header(folder: Path, header: Header) -> None:
    """Write ``labels.json``; write it last, because it marks the labels as complete."""
    atomic.write_json(folder / HEADER, header.plain())


def num_bytes(folder: Path, header: Header) -> int:
    """Return the size of all files of a store in bytes, ignoring leftovers of interrupted writers."""
    return sum((folder / name).stat().st_size for name in (HEADER, *header.files()))


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def parts_of(epoch: EpochLabels) -> Parts:
    """Return an epoch as the tensors that are stored."""
    look, mix = epoch.records.look, epoch.records.mix
    parts = {"box": look.view.box.to(torch.int16), "flip": look.view.flip.to(torch.uint8)}
    if look.patches is not None:
        parts["patches"] = look.patches
    if look.randaugment is not None:
        parts["changes"] = look.randaugment.changes
    if look.part is not None:
        parts["part"] = look.part.number
    if look.siamese is not None:
        parts["siamese"] = look.siamese.levels
    if mix is not None:
        parts["partner"] = mix.partner.to(torch.int32)
        parts["mix_weight"] = mix.weight.to(torch.float32)
        if mix.box is not None:
            parts["mix_box"] = mix.box.to(torch.int16)
    return parts | epoch.encoded_logits


class LabelStore:
    """A label store, opened for reading; each file is mapped into memory when it is first used."""

    def __init__(self, folder: Path, files: sealed.Files = MappingProxyType({})) -> None:
        """``files`` are the recorded sizes and hashes of the folder's files; each is checked when it is first opened.

        Raises AttarError when the store is incomplete, damaged or of another format.
        """
        self.folder, self._files = folder, files
        try:
            values = json.loads((folder / HEADER).read_text())
        except FileNotFoundError:
            raise AttarError(f"{folder} holds no finished soft labels ({HEADER}); {sealed.FIX_MISSING}.") from None
        except (ValueError, RecursionError, OSError) as error:
            raise AttarError(f"{folder / HEADER} cannot be read ({error}); {sealed.FIX_DAMAGED}.") from None
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise AttarError(
                f"{folder / HEADER} is of format {values['format']} and this version reads {FORMAT}; relabel again."
            )
        self.header = Header.of(values, str(folder / HEADER))
        for epoch in range(0, self.header.num_epochs, self.header.epochs_per_file):
            name, _ = self.header.file_of(epoch)
            if not (folder / name).is_file():  # stop at the first: a damaged header may claim a billion files
                raise AttarError(f"{folder} has no file {name}; {sealed.FIX_MISSING}.")
        self._mapped: dict[str, Parts] = {}
        self._deal = functools.lru_cache(maxsize=1)(self._dealt)

    def check_header(self) -> None:
        """Raise AttarError when ``labels.json`` does not have its recorded hash."""
        sealed.check(self.folder, HEADER, self._files)

    def epoch(self, epoch: int) -> "StoredEpoch":
        """Return the records of an epoch of training.

        After the last stored epoch it starts again at the first. In a pool every image has its own order, reshuffled
        each time round. Raises AttarError when a file is damaged or belongs to another store.
        """
        around, place = divmod(epoch, self.header.num_epochs)
        if not self._mapped:
            self._file(self.header.file_of(place)[0])  # check a file before allocating what a damaged header claims
        if self.header.pooled:
            return StoredEpoch.of(self, self._deal(around)[:, place])
        return StoredEpoch.of(self, torch.tensor([place]).expand(self.header.num_images))

    def parts(self, epoch: int) -> Parts:
        """Return the tensors of a stored epoch as they are stored."""
        name, place = self.header.file_of(epoch)
        return {key: part[place] for key, part in self._file(name).items()}

    def gather(self, key: str, stored: Int[Tensor, " record"], image: Int[Tensor, " record"]) -> Tensor | None:
        """Return one tensor of the records at these stored epochs and images; None if there is none of that name."""
        first = stored[0] if len(stored) else torch.tensor(0)
        if bool((stored == first).all()):  # a whole stored epoch: one slice of its file
            name, place = self.header.file_of(int(first))
            part = self._file(name).get(key)
            return None if part is None else part[place][image]
        number = stored // self.header.epochs_per_file
        found: Tensor | None = None
        for file in number.unique().tolist():
            here = number == file
            name, _ = self.header.file_of(file * self.header.epochs_per_file)
            part = self._file(name).get(key)
            if part is None:
                return None
            if found is None:
                found = part.new_empty(len(stored), *part.shape[2:])
            found[here] = part[stored[here] % self.header.epochs_per_file, image[here]]
        return found

    def num_bytes(self) -> int:
        """Return the size of all files of the store in bytes."""
        return num_bytes(self.folder, self.header)

    def _dealt(self, around: int) -> Int[Tensor, "image epoch"]:
        """Return the order of every image's records in this round through the pool; part of the format."""
        stream = generator(0, "pool", around)
        return torch.rand(self.header.num_images, self.header.num_epochs, generator=stream).argsort(1)

    def _file(self, name: str) -> Parts:
        if name not in self._mapped:
            self._mapped[name] = self._opened(name)
        return self._mapped[name]

    def _opened(self, name: str) -> Parts:
        path, header = self.folder / name, self.header
        try:
            with safe_open(path, framework="pt") as file:
                if not self._files:  # the file as a whole is checked below
                    weights.check_seal(path)
                metadata = file.metadata() or {}
                if metadata.get("images_sha256") != header.images_sha256:
                    raise AttarError(f"{path} belongs to other images; {sealed.FIX_DAMAGED}.")
                if metadata.get("file") != name:
                    raise AttarError(f"{path} holds the epochs of {metadata.get('file')}; rename it.")
                parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise AttarError(f"{path} is damaged ({error}); {sealed.FIX_DAMAGED}.") from None
        if self._files:
            sealed.check(self.folder, name, self._files)
        state = (sealed.state_of(path), header.form, num_epochs := header.num_epochs_of(name))
        if state not in _CHECKED:
            if fault := header.form.fault(parts, num_epochs):
                raise AttarError(f"{path} {fault}; {sealed.FIX_DAMAGED}.")
            _CHECKED.add(state)
        return parts


@dataclass(frozen=True)
class StoredEpoch:
    """An epoch of a store: the view of each image, and the teacher's logits, read on demand."""

    records: Records
    _labels: LabelStore
    _stored: Int[Tensor, " image"]
    """The stored epoch that each image's record comes from."""

    @classmethod
    def of(cls, labels: LabelStore, stored: Int[Tensor, " image"]) -> Self:
        """Return the epoch that uses, for every image, its record of this stored epoch."""
        every = torch.arange(labels.header.num_images)
        partner, mix = labels.gather("partner", stored, every), None
        if partner is not None:
            box, weight = labels.gather("mix_box", stored, every), labels.gather("mix_weight", stored, every)
            assert weight is not None  # written together with partners
            mix = Mix(partner.long(), None if box is None else box.long(), weight)
        partner_look = None if mix is None else _look(labels, stored, mix.partner)
        return cls(Records(_look(labels, stored, every), mix, partner_look), labels, stored)

    def logits(
        self, index: Int[Tensor, " image"] | slice = slice(None), device: torch.device | str = "cpu"
    ) -> Float[Tensor, "image class"]:
        """Return the teacher's logits for the images at ``index``, decoded on the device."""
        header, every = self._labels.header, torch.arange(len(self._stored))
        image = every[index]
        parts = {key: self._labels.gather(key, self._stored[image], image) for key in _LOGIT_TENSORS}
        return codecs.decode(
            {key: part.to(device) for key, part in parts.items() if part is not None}, header.num_classes
        )


def _look(labels: LabelStore, stored: Int[Tensor, " image"], image: Int[Tensor, " image"]) -> Look:
    box, flip = labels.gather("box", stored, image), labels.gather("flip", stored, image)
    if box is None or flip is None:
        raise AttarError(f"{labels.folder} has no crops for its records; {sealed.FIX_DAMAGED}.")
    view = View(box.long(), flip.bool(), torch.zeros(len(image), 2, dtype=torch.int64))
    number, levels = labels.gather("part", stored, image), labels.gather("siamese", stored, image)
    changes, looks = labels.gather("changes", stored, image), labels.header.views
    return Look(
        view,
        labels.gather("patches", stored, image),
        None if changes is None else RandAugment(changes, looks.randaugment_set, looks.randaugment_place),
        None if number is None else Part(number, labels.header.storage),
        None if levels is None else dsa.Drawn(levels, looks.dsa),
    )
