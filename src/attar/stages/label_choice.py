"""Check label settings, compute the bytes of labels, and read the settings of finished labels."""

import math
import shutil
import tempfile
from pathlib import Path

import torch

from attar.core.errors import AttarError
from attar.ops.choices import PLAIN, Storage
from attar.stages.choices import Relabel
from attar.stages.protocols import Protocol
from attar.stages.run import labels_in
from attar.store import labels as label_files
from attar.store import weights
from attar.store.labels import HEADER, Header


def check(config: Relabel, protocol: Protocol, size: int, num_classes: int, storage: Storage = PLAIN) -> None:
    """Raise AttarError, before the run starts, for label settings that cannot work with images, labels or protocol."""
    if size % storage.factor:
        raise AttarError(
            f"Images of {size} pixels do not divide into {storage.factor} parts per side; use another --recover.factor."
        )
    if storage.factor > 1 and config.imported:
        raise AttarError(
            f"Each recovered image holds {storage.num_parts} images, but published labels are for whole images; leave "
            f"out --relabel.imported."
        )
    if size % config.views.patch_shuffle:
        raise AttarError(
            f"Images of {size} pixels do not divide into {config.views.patch_shuffle} patches per side; "
            f"use another --relabel.views.patch-shuffle, or 1."
        )
    if config.mode == "given" and protocol.loss == "mse":
        raise AttarError(
            "The protocol's squared error needs logits, and labels that the method made are probabilities; use "
            "--evaluate.protocol.loss soft, or --relabel.mode stored."
        )
    dropped = config.codec.kind == "topk" and config.codec.remainder == "drop" and config.codec.k < num_classes
    if protocol.loss == "mse" and dropped and config.mode == "stored":
        raise AttarError(
            "The protocol's squared error needs the logits of all classes, and these labels drop some; "
            "use --relabel.codec.remainder spread, or --relabel.codec.kind fp16."
        )


def of_stored(folder: Path, config: Relabel) -> Relabel:
    """Return the settings of the finished labels in ``folder``, with the paths of ``config``.

    Raises AttarError when only one of both imports labels.
    """
    made = labels_in(folder).settings
    if made["imported"] != bool(config.imported):
        known = "published ones" if made["imported"] else "a teacher's"
        raise AttarError(
            f"The labels in {folder} are {known}; set --relabel.imported to the value that they were made with."
        )
    return config.as_made(made, str(folder)) if config.unlike(made) else config


def with_epochs_of(folder: Path, config: Relabel) -> Relabel:
    """Return ``config`` with the epochs of the finished labels in ``folder``, if no label is stored.

    For students that train with hard labels: their epochs may change, and nothing is labelled again.
    """
    made = labels_in(folder).settings
    if config.mode != "online" or made.get("mode") != "online" or not isinstance(made.get("epochs"), int):
        return config
    return config.changed(epochs=made["epochs"])


def planned_bytes(num_images: int, num_classes: int, config: Relabel, size: int, storage: Storage = PLAIN) -> int:
    """Return the bytes of stored labels at most: their records, a header for each file, and ``labels.json``.

    ``size`` is the side of the images in pixels.
    """
    one = label_files.record_bytes(num_classes, config.codec, config.views, config.mix, storage)
    header = Header(
        codec=config.codec,
        images_sha256="0" * 64,
        num_images=num_images,
        num_classes=num_classes,
        num_epochs=config.stored_epochs,
        pooled=bool(config.pool_epochs),
        epochs_per_file=min(config.stored_epochs, label_files.epochs_per_file(num_images, one)),
        height=size,
        width=size,
        views=config.views,
        mix=config.mix,
        teacher="0" * 64,
        storage=storage,
    )
    shapes = header.form.tensors()
    tensors = {name: torch.zeros((1, 1, *shape), dtype=kind) for name, (kind, shape) in shapes.items()}
    said = {"images_sha256": "0" * 64, "file": next(iter(header.files())), "header": "0" * 64}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        label_files.write_header(folder, header)
        weights.save_weights(folder / "one", tensors, said, sealed=True)
        about, least = (folder / HEADER).stat().st_size, (folder / "one").stat().st_size - one
    digits = 2 * math.ceil(math.log10(label_files.SHARD_BYTES + num_images * one)) + len(str(num_images)) + 5
    return num_images * config.stored_epochs * one + about + len(header.files()) * (least + len(tensors) * digits)


def described(config: Relabel) -> str:
    """Describe in a few words which labels are stored."""
    pooled = f", reused in a new order for {config.epochs}" if config.pool_epochs else ""
    epochs = f"{config.stored_epochs} epoch{'s' if config.stored_epochs > 1 else ''}{pooled}"
    return f"{epochs}, {config.codec.title()}"


def refuse_full_disk(needed: int, out: Path) -> None:
    """Raise AttarError when ``needed`` bytes of labels exceed the free disk space plus labels already in ``out``."""
    there = sum(file.stat().st_size for file in out.glob("**/labels/*.safetensors"))
    disk = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(disk).free + there
    if needed > free:
        raise AttarError(
            f"The soft labels take {needed / 1e9:.1f} GB, but the disk of {out} has {free / 1e9:.1f} GB free; "
            f"use --relabel.mode online, --relabel.codec.kind topk, --relabel.pool-epochs, or fewer --relabel.epochs."
        )
