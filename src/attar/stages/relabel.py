"""Relabel: the teacher's answer to every view of every image, and the finished artefact around it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from attar.core import ranks
from attar.core.config import Config
from attar.core.device import Device
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.teacher import Teacher
from attar.ops import replay
from attar.ops.mixing import MixChoice
from attar.ops.views import ViewChoice
from attar.stages.distilled import DatasetInfo, LabelInfo, write_info
from attar.stages.folder import StageFolder, logged_seconds, manifest_of
from attar.stages.protocols import Protocol
from attar.stages.workspace import Workspace
from attar.store import atomic
from attar.store import images as image_files
from attar.store import labels as label_files
from attar.store.images import ImageSet
from attar.store.labels import EpochLabels, Header


class Relabel(Config):
    """Label views of the images with the teacher's logits."""

    mode: Literal["stored", "online"] = "stored"
    """'stored': write every label down; 'online': keep the teacher with the images and ask it during training."""
    epochs: int = pydantic.Field(default=300, ge=1)
    """Epochs of different views; a student that trains longer starts over with the first."""
    codec: Literal["fp16"] = "fp16"
    """How stored logits are encoded."""
    views: ViewChoice = ViewChoice()
    """Crops and flips that the student will see."""
    mix: MixChoice = MixChoice(kind="cutmix")
    """How images are mixed."""
    batch_size: int = pydantic.Field(default=256, ge=1)
    """Views that the teacher labels at a time; no part of the result."""


def run(
    space: Workspace,
    config: Relabel,
    protocol: Protocol,
    recovered: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Make ``<out>/distilled``: images, labels and all that is needed to use them; returns its manifest.

    ``protocol`` is written down as the way to train on the labels and alters none of them. ``recovered`` and ``folder``
    name other places, as for a baseline. Raises AttarError when labels would not fit on the disk, or the folder holds
    others.
    """
    recovered, out = recovered or space.out / "recover", folder or space.out / "distilled"
    made = manifest_of(recovered, "recover")
    squeezed = manifest_of(space.out / "squeeze", "squeeze")
    request = space.request(relabel=config.plain() | {"batch_size": None})
    parents = {"teacher": squeezed["result"]["weights_sha256"], "images": made["result"]["images_sha256"]}
    stage = StageFolder(out, "relabel", request, parents)
    finished = stage.finished()
    if finished is not None:
        return finished
    teacher = teachers.load(space.out / "squeeze", space.module)
    images = image_files.read(recovered / "data")
    header = _header(space, config, images, parents, len(teacher.classes))
    if config.mode == "stored":
        _refuse_full_disk(space.out, header)
    stage.begin()
    if config.mode == "stored":
        _label(space, config, header, teacher, images, out)
    ranks.wait()
    if ranks.is_first():
        _link_images(recovered / "data", out / "data")
        if config.mode == "stored":
            label_files.write_header(out / "labels", header)
        else:
            shutil.copytree(space.out / "squeeze", out / "teacher", ignore=_all_but_weights, dirs_exist_ok=True)
        label_bytes = _folder_bytes(out / ("labels" if config.mode == "stored" else "teacher"))
        image_bytes = image_files.num_bytes(out / "data")
        info = _info(space, config, protocol, teacher, images, made, parents, (image_bytes, label_bytes))
        write_info(out, info)
        result = {"image_bytes": image_bytes, "label_bytes": label_bytes, "num_images": len(images.images)}
        finished = stage.finish(result, logged_seconds(out, "labels"), space.device.describe())
    ranks.wait()
    return finished or manifest_of(out, "relabel")


def label_epoch(
    images: ImageSet, teacher: Teacher, header: Header, stream: torch.Generator, device: Device, batch_size: int
) -> EpochLabels:
    """Draw one epoch's views and ask the teacher about them. ``images.images`` and teacher are on the device."""
    size = (header.height, header.width)
    view, mix = replay.draw(header.num_images, size, header.views, header.mix, stream)
    parts = []
    with torch.inference_mode():
        for index in torch.arange(header.num_images).split(batch_size):
            parts.append(teacher.logits(replay.show(images.images, index, view, mix)).cpu())
    return EpochLabels(view, mix, torch.cat(parts))


def _label(space: Workspace, config: Relabel, header: Header, teacher: Teacher, images: ImageSet, out: Path) -> None:
    device, log = space.device, space.log.beside(out)
    teacher.module.to(device.device)
    resident = ImageSet(images.images.to(device.device), images.labels, images.slots)
    files = ranks.mine(list(header.files().items()))
    todo = [(name, epochs) for name, epochs in files if not (out / "labels" / name).exists()]
    total = sum(len(epochs) for _, epochs in files)
    with log.progress("relabel", total, total - sum(len(epochs) for _, epochs in todo)) as advance:
        for name, epochs in todo:
            started, records = time.perf_counter(), []
            for epoch in epochs:
                stream = space.stream("relabel", "epoch", epoch)
                records.append(label_epoch(resident, teacher, header, stream, device, config.batch_size))
                advance()
            label_files.write_file(out / "labels", header, name, records)
            log.event("labels", name=name, seconds=round(time.perf_counter() - started, 3))


def _header(space: Workspace, config: Relabel, images: ImageSet, parents: dict[str, str], num_classes: int) -> Header:
    count, height, width = len(images.images), images.images.shape[2], images.images.shape[3]
    return Header(
        codec=config.codec,
        images_sha256=parents["images"],
        num_images=count,
        num_classes=num_classes,
        num_epochs=config.epochs,
        epochs_per_file=min(config.epochs, label_files.epochs_per_file(count, num_classes, config.mix)),
        height=height,
        width=width,
        views=config.views,
        mix=config.mix,
        teacher=parents["teacher"],
    )


def planned_bytes(num_images: int, num_classes: int, config: Relabel) -> int:
    """Bytes that stored labels will take, without the files' headers."""
    return num_images * config.epochs * label_files.record_bytes(num_classes, config.mix)


def _refuse_full_disk(out: Path, header: Header) -> None:
    needed = header.num_images * header.num_epochs * label_files.record_bytes(header.num_classes, header.mix)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise AttarError(
            f"The soft labels take {needed / 1e9:.1f} GB and the disk of {out} has {free / 1e9:.1f} GB free; "
            f"use --relabel.mode online, or fewer --relabel.epochs."
        )


def _info(
    space: Workspace,
    config: Relabel,
    protocol: Protocol,
    teacher: Teacher,
    images: ImageSet,
    made: dict[str, Any],
    parents: dict[str, str],
    num_bytes: tuple[int, int],
) -> DatasetInfo:
    real = space.real
    return DatasetInfo(
        name=space.choice.source,
        source=real.name,
        licence=real.licence,
        classes=real.classes,
        titles=real.titles,
        method=made["result"]["method"],
        recover=made["request"]["recover"],
        num_images=len(images.images),
        ipc=len(images.images) // len(real.classes),
        size=space.choice.size,
        mean=teacher.normalisation.mean,
        std=teacher.normalisation.std,
        images_sha256=parents["images"],
        teacher_sha256=parents["teacher"],
        teacher=teacher.architecture,
        teacher_accuracy=teacher.accuracy,
        seed=space.seed,
        labels=LabelInfo(mode=config.mode, epochs=config.epochs, views=config.views, mix=config.mix),
        protocol=protocol,
        image_bytes=num_bytes[0],
        label_bytes=num_bytes[1],
        versions=made["versions"],
    )


def _link_images(source: Path, target: Path) -> None:
    """The artefact's images are recover's: hard links where the file system has them, else copies."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("train-*.parquet")):
        with atomic.replace(target / file.name) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)


def _all_but_weights(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name not in ("teacher.safetensors", "teacher.json")]


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
