"""The artefact, opened: images, labels and the way to train on them."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.ops import replay
from attar.ops.mixing import MixChoice
from attar.ops.pixels import Normalisation
from attar.ops.replay import LookChoice, Records
from attar.ops.targets import Targets
from attar.stages import labeller
from attar.stages.labeller import Labeller, Voices
from attar.stages.protocols import Protocol
from attar.store import atomic, mapped
from attar.store.labels import Labels

INFO = "dataset.json"


class LabelInfo(Config):
    """Which soft labels come with a set."""

    mode: Literal["stored", "online"]
    """'stored': in labels/; 'online': asked of the teacher in teacher/."""
    epochs: int
    """Epochs of different views."""
    views: LookChoice
    mix: MixChoice
    voices: Voices = Voices()
    """How the teachers' answers became one label."""
    imported: bool = False
    """Published by others, and not asked of the teacher."""


class DatasetInfo(Config):
    """What ``dataset.json`` says."""

    format: Literal[1] = 1
    name: str
    source: str
    """The real dataset."""
    licence: str
    classes: tuple[str, ...]
    """Class names, by label."""
    titles: dict[str, str]
    """What classes are called in English, where their names are identifiers."""
    method: str
    recover: dict[str, object]
    """The method's settings."""
    num_images: int
    ipc: int
    """Images per class."""
    size: int
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation of the teacher's and the student's input."""
    images_sha256: str
    """Of the pixels."""
    teacher: str
    further_teachers: tuple[str, ...] = ()
    """Those that labelled beside it."""
    teacher_sha256: str
    """Of the weights."""
    teacher_accuracy: float | None
    """On real validation images, a fraction."""
    seed: int
    labels: LabelInfo
    protocol: Protocol
    """How the labels are meant to be trained on."""
    image_bytes: int
    label_bytes: int
    versions: dict[str, str]


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write ``dataset.json``."""
    atomic.write_json(folder / INFO, info.plain())


def read_info(folder: Path) -> DatasetInfo:
    """Read ``dataset.json``; raises AttarError when it is missing or not what it should be."""
    path = folder / INFO
    try:
        return DatasetInfo.of(json.loads(path.read_text()), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise AttarError(f"{folder} is no distilled dataset: it has no {INFO}; name the folder that does.") from None
    except ValueError as error:
        raise AttarError(f"{path} is damaged ({error}); relabel again, or copy the set once more.") from None


class Distilled(torch.utils.data.Dataset[tuple[UInt8[Tensor, "3 height width"], int]]):
    """A distilled dataset, in memory or, where it is too large, mapped.

    As a ``torch.utils.data.Dataset`` it holds plain (uint8 image, class) pairs; ``batches`` gives what it is made for.
    """

    def __init__(self, folder: Path | str, teacher: torch.nn.Module | None = None) -> None:
        """Open a ``distilled`` folder. ``teacher`` is only needed where the teacher was a module of the caller's.

        Raises AttarError when the set is incomplete, damaged, or its labels belong to other images.
        """
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        stored = mapped.read(self.folder / "data", self.info.images_sha256, INFO)
        self.images: UInt8[Tensor, "image 3 height width"] = stored.images
        self.labels: Int[Tensor, " image"] = stored.labels
        self.slots: Int[Tensor, " image"] = stored.slots
        self.classes = self.info.classes
        self.normalisation = Normalisation(self.info.mean, self.info.std)
        self._labels: Labels | None = None
        self._module = teacher
        self._placed: tuple[torch.device, UInt8[Tensor, "image 3 height width"]] | None = None
        if self.info.labels.mode == "stored":
            self._labels = Labels(self.folder / "labels")
            if self._labels.header.images_sha256 != self.info.images_sha256:
                raise AttarError(f"The soft labels in {self.folder / 'labels'} belong to other images; relabel again.")

    @cached_property
    def _labeller(self) -> Labeller:
        """The teachers of online labels, loaded when they are first asked."""
        return labeller.load(self.folder / "teacher", self.info.labels.voices, self._module)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 height width"], int]:
        return self.images[index], int(self.labels[index])

    def batches(
        self, epoch: int, batch_size: int = 128, device: torch.device | str = "cpu", seed: int = 0
    ) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], Targets]]:
        """One epoch of training: every image once, in the view that its label is for, normalised, and its targets.

        The order is a function of ``seed`` and ``epoch`` alone; the labels are those of the epoch, whatever the batch.
        """
        for images, targets in self.views(epoch, batch_size, device, seed):
            yield self.normalisation.apply(images), targets

    def views(
        self, epoch: int, batch_size: int, device: torch.device | str, seed: int, soft: bool = True
    ) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], Targets]]:
        """``batches`` before normalisation, in [0, 1]; without ``soft`` the targets hold classes only."""
        stored = None if self._labels is None else self._labels.epoch(epoch)
        records = self._drawn(epoch) if stored is None else stored.records
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch))
        device = torch.empty(0, device=device).device  # 'cuda' is 'cuda:0'
        if self._placed is None or self._placed[0] != device:
            self._placed = device, mapped.placed(self.images, device)
        shown_of = replay.Epoch(self._placed[1], records, device)
        for index in self._split(order, batch_size):
            shown = shown_of.show(index)
            logits = None
            if soft:
                logits = self._ask(shown) if stored is None else stored.logits(index, device)
            targets = Targets(self.labels[index].to(device), logits=logits)
            if records.mix is not None:
                partners = self.labels[records.mix.partner[index]].to(device)
                targets = Targets(targets.labels, partners, records.mix.weight[index].to(device), logits)
            yield shown, targets

    def _split(self, order: Tensor, batch_size: int) -> Sequence[Tensor]:
        labels = self.info.labels
        if labels.mode == "online" and labels.voices.batchnorm == "train":  # a single image would get no label
            return labeller.batches(order, batch_size)
        return order.split(batch_size)

    def loss(self, logits: Float[Tensor, "batch class"], targets: Targets) -> Float[Tensor, ""]:
        """The loss of the protocol that the set was made for."""
        return self.info.protocol.value(logits, targets)

    def _drawn(self, epoch: int) -> Records:
        choice, size = self.info.labels, (self.info.size, self.info.size)
        epoch %= choice.epochs
        stream = generator(self.info.seed, "relabel", "epoch", epoch)
        order = replay.published_order(self.labels, self.slots, epoch) if choice.mix.shared_by else None
        return replay.draw(len(self), size, choice.views, choice.mix, stream, order)

    def _ask(self, shown: Tensor) -> Float[Tensor, "batch class"]:
        self._labeller.to(shown.device)
        return self._labeller.logits(shown)


def load(folder: Path | str, teacher: torch.nn.Module | None = None) -> Distilled:
    """Open a distilled dataset: a folder, or ``hf:ORG/NAME`` on the Hugging Face Hub."""
    if isinstance(folder, str) and folder.startswith("hf:"):
        import huggingface_hub

        name = folder.removeprefix("hf:")
        try:
            folder = huggingface_hub.snapshot_download(name, repo_type="dataset")
        except Exception as error:  # the Hub's client raises many kinds; all mean that it could not be had
            reason = str(error).splitlines()[0]
            raise AttarError(f"Cannot fetch '{name}' from the Hub ({reason}); give a local folder instead.") from None
    return Distilled(folder, teacher)
