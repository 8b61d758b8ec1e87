"""Soft labels on disk, addressed by (epoch, image): the view that the teacher saw and what it answered.

A folder of memory-mapped safetensors, a few epochs a file, and ``labels.json``, written last, that says how to read
them. Any batch size, sampler or number of processes reads the same labels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.ops.mixing import Mix, MixChoice
from attar.ops.views import View, ViewChoice
from attar.store import atomic, weights

FORMAT = 1
SHARD_BYTES = 64 * 2**20
HEADER = "labels.json"
_LARGEST = torch.finfo(torch.float16).max


class Header(Config):
    """What ``labels.json`` says."""

    format: Literal[1] = FORMAT
    codec: Literal["fp16"] = "fp16"
    """How logits are stored: all of them, in half precision."""
    images_sha256: str
    """Which images these labels are for."""
    num_images: int
    num_classes: int
    num_epochs: int
    epochs_per_file: int
    height: int
    width: int
    views: ViewChoice
    mix: MixChoice
    teacher: str
    """SHA-256 of the teacher's weights."""

    def file_of(self, epoch: int) -> tuple[str, int]:
        """The name of the file that holds an epoch, and the epoch's place in it."""
        first = epoch - epoch % self.epochs_per_file
        last = min(first + self.epochs_per_file, self.num_epochs) - 1
        return f"epochs-{first:05d}-{last:05d}.safetensors", epoch - first

    def files(self) -> dict[str, range]:
        """Every file with the epochs that it holds."""
        starts = range(0, self.num_epochs, self.epochs_per_file)
        return {self.file_of(at)[0]: range(at, min(at + self.epochs_per_file, self.num_epochs)) for at in starts}


@dataclass(frozen=True)
class EpochLabels:
    """One epoch's records, one for each image, in the order of the images."""

    view: View
    mix: Mix | None
    logits: Float[Tensor, "image class"]
    """The teacher's logits, in half precision."""


def record_bytes(num_classes: int, mix: MixChoice) -> int:
    """Bytes of one record, without the files' headers: logits, crop, flip, and what was mixed in."""
    mixed = {"none": 0, "mixup": 4 + 4, "cutmix": 4 + 4 + 4 * 2}[mix.kind]
    return num_classes * 2 + 4 * 2 + 1 + mixed


def epochs_per_file(num_images: int, num_classes: int, mix: MixChoice) -> int:
    """How many epochs go into a file of about 64 MiB; at least one."""
    return max(1, SHARD_BYTES // (num_images * record_bytes(num_classes, mix)))


def write_file(folder: Path, header: Header, name: str, records: list[EpochLabels]) -> None:
    """Write the records of the epochs of one file, whole or not at all."""
    tensors = {
        "box": torch.stack([record.view.box for record in records]).to(torch.int16),
        "flip": torch.stack([record.view.flip for record in records]).to(torch.uint8),
        "logits": torch.stack([record.logits.float().clamp(-_LARGEST, _LARGEST).half() for record in records]),
    }
    mixes = [record.mix for record in records if record.mix is not None]
    if mixes:
        tensors["partner"] = torch.stack([mix.partner for mix in mixes]).to(torch.int32)
        tensors["mix_weight"] = torch.stack([mix.weight for mix in mixes]).to(torch.float32)
        boxes = [mix.box for mix in mixes if mix.box is not None]
        if boxes:
            tensors["mix_box"] = torch.stack(boxes).to(torch.int16)
    folder.mkdir(parents=True, exist_ok=True)
    weights.save_weights(folder / name, tensors, {"images_sha256": header.images_sha256, "file": name})


def write_header(folder: Path, header: Header) -> None:
    """Write ``labels.json``; done last, it says that the labels are complete."""
    atomic.write_json(folder / HEADER, header.plain())


class Labels:
    """A label store, opened for reading; epochs are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises AttarError when the store is incomplete, foreign or damaged."""
        self.folder = folder
        try:
            values = json.loads((folder / HEADER).read_text())
        except FileNotFoundError:
            raise AttarError(f"{folder} holds no finished soft labels ({HEADER}); relabel again.") from None
        except (ValueError, OSError) as error:
            raise AttarError(f"{folder / HEADER} cannot be read ({error}); relabel again.") from None
        self.header = Header.of(values, str(folder / HEADER))
        for name in self.header.files():
            if not (folder / name).is_file():
                raise AttarError(f"{folder} lacks {name}; relabel again, or copy the folder once more.")

    def epoch(self, epoch: int) -> EpochLabels:
        """The records of an epoch; epochs past the last start over at the first."""
        name, place = self.header.file_of(epoch % self.header.num_epochs)
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                said = file.metadata() or {}
                if said.get("images_sha256") != self.header.images_sha256:
                    raise AttarError(f"{self.folder / name} belongs to other images; relabel again.")
                if said.get("file") != name:
                    raise AttarError(f"{self.folder / name} holds the epochs of {said.get('file')}; rename it.")
                part = {key: file.get_slice(key)[place] for key in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise AttarError(f"{self.folder / name} is damaged ({error}); relabel again.") from None
        shift = torch.zeros(self.header.num_images, 2, dtype=torch.int64)
        view = View(part["box"].long(), part["flip"].bool(), shift)
        mix = None
        if "partner" in part:
            box = part["mix_box"].long() if "mix_box" in part else None
            mix = Mix(part["partner"].long(), box, part["mix_weight"])
        return EpochLabels(view, mix, part["logits"])

    def num_bytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(file.stat().st_size for file in self.folder.iterdir())
