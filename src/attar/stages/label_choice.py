"""Check label settings, compute the bytes of labels, and read the settings of finished labels."""

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attar.core.errors import AttarError
from attar.ops.choices import PLAIN, Storage
from attar.stages.choices import Relabel
from attar.stages.protocol import Protocol
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


def other_temperature(config: Relabel, protocol: Protocol, num_classes: int, *, made: bool) -> str:
    """Return a warning if stored labels spread the rest at another temperature than students train at; '' if not.

    ``made`` says that the labels are finished, so that students can follow them, but not the other way round.
    """
    codec = config.codec
    spreads = config.mode == "stored" and codec.kind == "topk" and codec.remainder == "spread"
    if not spreads or codec.k >= num_classes or protocol.loss != "soft" or codec.temperature == protocol.temperature:
        return ""
    stored, trained = f"{codec.temperature:g}", f"{protocol.temperature:g}"
    new = f"--relabel.codec.temperature {trained}"
    old = f"--evaluate.protocol.temperature {stored}"
    return (
        f"labels keep the total probability of the classes beyond the {codec.k} largest at temperature {stored}, and "
        f"students train at {trained}, where the teacher gives these classes another probability; "
        + (f"make labels with {new} in a new run, or train at {old}" if made else f"set {new}")
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


def refuse_absent(folder: Path, config: Relabel) -> None:
    """Raise AttarError, before teachers are trained for them, when soft labels are asked of a set made without them."""
    if config.mode != "none" and labels_in(folder).settings.get("mode") == "none":
        raise AttarError(
            f"{folder} was made without soft labels (--relabel.mode none); set it back, choose another --out, or "
            f"delete that folder to make it again."
        )


def with_epochs_of(folder: Path, config: Relabel, student_epochs: int, *, soft: bool) -> Relabel:
    """Return ``config`` with the epochs of the finished labels in ``folder``, if students see the same with them.

    So it is with labels of at least as many epochs as students train for, with a pool, whatever the number of epochs,
    and with online labels, or none, for students that train on hard ones (``soft`` is False). These also keep a set
    that holds teachers, as earlier versions made it.
    """
    made = labels_in(folder).settings
    epochs, pool = made.get("epochs"), made.get("pool_epochs", 0)
    if config.mode == "none" and made.get("mode") == "online" and not soft:
        config = config.changed(mode="online")
    if config.mode != made.get("mode") or not isinstance(epochs, int) or not isinstance(pool, int):
        return config
    if pool:
        same = config.pool_epochs == min(pool, config.epochs)
    else:
        same = not config.pool_epochs and min(epochs, config.epochs) >= student_epochs
    if same or (config.mode in ("online", "none") and not soft):
        return config.changed(epochs=epochs, pool_epochs=pool)
    return config


def lacks_epochs(made: Mapping[str, Any], config: Relabel) -> bool:
    """Return whether labels made with these settings are those of ``config`` but for epochs that are still to come.

    An epoch's views and labels do not depend on how many others there are.
    """
    epochs = made.get("epochs")
    if not isinstance(epochs, int) or epochs >= config.epochs or config.pool_epochs or config.imported:
        return False
    return not config.unlike({**made, "epochs": config.epochs})


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
