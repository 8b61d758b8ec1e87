"""Open a distilled dataset: images, soft labels, and the loss to train on them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.core.ranks import WHOLE, Part
from attar.models import committee as committees
from attar.models.committee import Committee, modules_of
from attar.ops import replay
from attar.ops.pixels import Normalisation
from attar.ops.replay import Records
from attar.ops.targets import Targets
from attar.stages.dataset_info import INFO, read_info
from attar.stages.epoch_views import EpochViews
from attar.stages.torch_datasets import HardDataset, SoftDataset
from attar.store import hub, learned_labels, mapped, sealed
from attar.store.labels import HEADER, LabelStore


class Distilled(torch.utils.data.Dataset[tuple[UInt8[Tensor, "3 height width"], int]]):
    """A distilled dataset, in memory, or memory-mapped when it is too large.

    Use ``batches`` to train: it yields augmented images with their soft labels. As a ``torch.utils.data.Dataset`` the
    object holds plain (uint8 image, class) pairs. When a stored image holds several (``info.storage``), the pairs are
    stored images, and ``batches`` shows the whole image or one enlarged part.
    """

    def __init__(
        self,
        folder: Path | str,
        teacher: torch.nn.Module | Sequence[torch.nn.Module] | None = None,
        factories: Collection[str] = (),
    ) -> None:
        """Open a ``distilled`` folder. Pass ``teacher`` only when the run's teachers were your own modules.

        ``factories`` lists the code outside attar (package.module:factory) that may build the teachers of online
        labels. Raises AttarError when the set is incomplete or damaged, names other code, or has labels of other
        images.
        """
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        stored = mapped.read(self.folder / "data", self.info.images_sha256, INFO)
        self.images: UInt8[Tensor, "image 3 height width"] = stored.images
        self.labels: Int[Tensor, " image"] = stored.labels
        self.slots: Int[Tensor, " image"] = stored.slots
        self.classes = self.info.classes
        self.normalisation = Normalisation(self.info.mean, self.info.std)
        self._check_images()
        self.stored: LabelStore | None = None
        """The stored labels; None for other labels, and where there are none."""
        self._modules, self._factories = modules_of(teacher), factories
        self._placed: tuple[torch.device, UInt8[Tensor, "image 3 height width"]] | None = None
        self._given: Float[Tensor, "image class"] | None = None
        if self.info.labels.mode == "stored":
            self.stored = self._opened_labels()
        elif self.info.labels.mode == "given":
            sealed.check(self.folder / "labels", learned_labels.FILE, sealed.below(self.info.files, "labels"))
            path, shape = self.folder / "labels" / learned_labels.FILE, (len(self.images), len(self.classes))
            self._given = learned_labels.load(path, self.info.images_sha256, shape)

    def _check_images(self) -> None:
        """Raise AttarError when number, size, classes or bytes of the images differ from ``dataset.json``."""
        info, path = self.info, self.folder / INFO
        listed_shape = (info.num_images, 3, info.size, info.size)
        if tuple(self.images.shape) != listed_shape:
            found = tuple(self.images.shape)
            raise AttarError(
                f"{path} lists images of shape {listed_shape}, but the files hold {found}; {sealed.FIX_DAMAGED}."
            )
        if bool((self.labels < 0).any() or (self.labels >= len(info.classes)).any() or (self.slots < 0).any()):
            raise AttarError(
                f"{self.folder / 'data'} has labels of classes that are not in {path}; {sealed.FIX_DAMAGED}."
            )
        sealed.check_all(self.folder / "data", sealed.below(info.files, "data"))

    def _opened_labels(self) -> LabelStore:
        info, folder = self.info, self.folder / "labels"
        opened = LabelStore(folder, sealed.below(info.files, "labels"))
        header = opened.header
        if header.images_sha256 != info.images_sha256:
            raise AttarError(f"The soft labels in {folder} belong to other images; relabel again.")
        for what, here, there in (
            ("images", header.num_images, info.num_images),
            ("classes", header.num_classes, len(info.classes)),
            ("rows of pixels", header.height, info.size),
            ("columns of pixels", header.width, info.size),
            ("images along each side of a stored one", header.storage.factor, info.storage.factor),
        ):
            if here != there:
                raise AttarError(f"{folder / HEADER} lists {here} {what}, but {INFO} lists {there}; relabel again.")
        opened.check_header()
        return opened

    @cached_property
    def _committee(self) -> Committee:
        """Load the teachers of online labels, at first use."""
        info = self.info
        files = sealed.below(info.files, "teacher")
        choice, count = info.labels.committee, len(info.teachers)
        return committees.load(self.folder / "teacher", choice, count, self._modules, self._factories, files)

    def __repr__(self) -> str:
        info, place = self.info, self.info.labels
        kind = {"stored": "stored soft labels", "online": "soft labels by its teachers", "given": "learned soft labels"}
        kind["none"] = "hard labels"
        labels = kind[place.mode] + (f", {place.epochs:,} epochs" if place.mode in ("stored", "online") else "")
        if place.mode != "none" and (info.protocol.loss == "hard" or place.scored == "hard"):
            labels = f"hard labels ({labels} besides)"
        return (
            f"Distilled({str(self.folder)!r}: {info.num_images:,} images of {info.size} x {info.size} pixels, "
            f"{len(self.classes):,} classes with {info.ipc} each, {labels}, made from {info.source} by {info.method})"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 height width"], int]:
        return self.images[index], int(self.labels[index])

    def batches(
        self,
        epoch: int,
        batch_size: int = 128,
        device: torch.device | str = "cpu",
        seed: int = 0,
        soft: bool | None = None,
    ) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], Targets]]:
        """Yield one epoch of normalised, augmented images and their targets; every image once.

        The order depends on ``seed`` and ``epoch`` only. Views and labels depend on the epoch, not on the batch size.
        With ``soft=False`` targets hold the classes only, and ``loss`` is the cross-entropy with them. By default the
        labels are those that the run scored (``info.labels.scored``). Raises AttarError for soft labels of a set that
        has none.
        """
        soft = self.info.labels.scored == "soft" if soft is None else soft
        for images, targets in self.views(epoch, batch_size, device, seed, soft):
            yield self.normalisation.apply(images), targets

    def views(
        self,
        epoch: int,
        batch_size: int,
        device: torch.device | str,
        seed: int,
        soft: bool = True,
        part: Part = WHOLE,
    ) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], Targets]]:
        """Yield ``batches`` before normalisation, in [0, 1]; with ``soft=False`` the targets hold classes only.

        With a ``part`` each batch holds the images of that part only.
        """
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch))
        shown = self.epoch(epoch, device)
        for index in self._split(order, batch_size):
            own = part.of(len(index))
            if soft and self._by_batch:
                images, targets = shown.take(index, soft)
                yield images[own], targets.take(own)
            else:
                yield shown.take(index[own], soft)

    def epoch(self, epoch: int, device: torch.device | str = "cpu") -> EpochViews:
        """Return the views and labels of one epoch, for any images in any order."""
        device = torch.empty(0, device=device).device  # 'cuda' is 'cuda:0'
        if self._placed is None or self._placed[0] != device:
            self._placed = device, mapped.placed(self.images, device)
        return EpochViews(self, epoch, self._placed[1], device)

    def hard_dataset(self, transform: Callable[[Tensor], Any] | None = None) -> HardDataset:
        """Return the images with their classes as a PyTorch dataset, for training without soft labels.

        Items are (image, class). ``transform`` gets a uint8 image, 3 x height x width, as torchvision's transforms take
        it; without it images are normalised floats.
        """
        return HardDataset(self, transform)

    def soft_dataset(self, temperature: float = 1.0) -> SoftDataset:
        """Return augmented images with the teacher's probabilities as a PyTorch dataset, for any training loop.

        Items are (normalised image, probabilities at ``temperature``); call ``set_epoch`` before each epoch. Raises
        AttarError when the set has no soft labels, or the teacher answers to whole batches only, so that single images
        have no label.
        """
        self._refuse_none()
        if self._by_batch:
            raise AttarError(
                "The labels of this set belong to whole batches (relabel.committee.batchnorm is 'train'); train with "
                "distilled.batches."
            )
        return SoftDataset(self, temperature)

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the set anew in another process, as workers of a DataLoader do on some systems."""
        return type(self), (self.folder, list(self._modules) or None, self._factories)

    def _refuse_none(self) -> None:
        if self.info.labels.mode == "none":
            raise AttarError(
                f"{self.folder} has no soft labels (relabel.mode is 'none'); train on its classes (soft=False, "
                f"hard_dataset), or make labels in a new run with --relabel.mode stored."
            )

    @property
    def _by_batch(self) -> bool:
        """Whether a single image would get no label."""
        return self.info.labels.mode == "online" and self.info.labels.committee.batchnorm == "train"

    def _split(self, order: Tensor, batch_size: int) -> Sequence[Tensor]:
        if self._by_batch:
            return committees.batches(order, batch_size)
        return order.split(batch_size)

    def loss(self, logits: Float[Tensor, "batch class"], targets: Targets) -> Float[Tensor, ""]:
        """Return the loss of the set's protocol; for targets without soft labels the cross-entropy with the classes."""
        return self.info.protocol.value(logits, targets, hard=targets.logits is None)

    def drawn(self, epoch: int) -> Records:
        """Draw an epoch's views, for labels that are not stored."""
        choice, size = self.info.labels, (self.info.size, self.info.size)
        epoch %= choice.epochs
        stream = generator(self.info.seed, "relabel", "epoch", epoch)
        order = replay.published_order(self.labels, self.slots, epoch) if choice.mix.shared_by else None
        return replay.draw(len(self), size, choice.views, choice.mix, stream, order, self.info.storage, epoch)

    def logits(self, epoch: EpochViews, index: Tensor, shown: Tensor) -> Float[Tensor, "batch class"]:
        """Return the teacher's logits for these views of the images at ``index``; raises AttarError without labels."""
        self._refuse_none()
        if self._given is not None:
            return _mixed(self._given, index, epoch.records).log().to(shown.device)
        if epoch.stored is not None:
            return epoch.stored.logits(index, shown.device)
        self._committee.to(shown.device)
        return self._committee.logits(shown)


def _mixed(given: Float[Tensor, "all class"], index: Tensor, records: Records) -> Float[Tensor, "batch class"]:
    """Return the label probabilities of views, of mixed images in proportion to their parts; no class has exactly 0."""
    own = given[index]
    if records.mix is not None:
        weight = records.mix.weight[index].float()[:, None]
        own = weight * own + (1 - weight) * given[records.mix.partner[index]]
    return own.clamp_min(torch.finfo(torch.float32).tiny)


def load(
    folder: Path | str,
    teacher: torch.nn.Module | Sequence[torch.nn.Module] | None = None,
    factories: Collection[str] = (),
    revision: str = "",
) -> Distilled:
    """Open a distilled dataset: its folder, the folder of its run, or ``ORG/NAME`` on the Hugging Face Hub.

    A folder on this machine goes before a dataset of the same name on the Hub; ``hf:ORG/NAME`` always means the Hub.
    ``revision`` is a branch, tag or commit there. Downloads are kept in the Hub's cache.

    No code in the set is run. If a network outside attar makes its online labels and you trust that network, name it in
    ``factories`` (``["package.module:factory"]``), or pass the network as ``teacher`` (a list for a committee); its
    weights are loaded from the set. Raises AttarError when the set cannot be had, is incomplete or damaged.
    """
    return Distilled(_folder_of(folder, revision), teacher, factories)


def _folder_of(place: Path | str, revision: str) -> Path:
    """Return the folder of a set on this machine, or download it."""
    if not str(place).startswith(hub.PREFIX):
        folder = Path(place).expanduser()
        if folder.exists() or not (isinstance(place, str) and hub.is_name(place)):
            if revision:
                raise AttarError(f"A folder has no revisions; leave out revision, or write 'hf:{place}' for the Hub.")
            return folder_in(folder)
    try:
        return hub.fetch(hub.name_in(str(place)), revision)
    except AttarError as error:
        if str(place).startswith(hub.PREFIX):
            raise
        raise AttarError(f"There is no folder '{place}'. As a dataset of the Hub: {error}") from None


def folder_in(folder: Path) -> Path:
    """Return the folder of the distilled set: ``folder`` itself, or the one in it if ``folder`` is a run's."""
    inner = folder / "distilled"
    return inner if (inner / INFO).is_file() and not (folder / INFO).is_file() else folder
