"""Write a distilled set in the layout of SRe2L's and CDA's trainers: an ImageFolder and ``epoch_E/batch_B.tar``."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.printable import markdown
from attar.ops import replay
from attar.ops.replay import Records
from attar.stages.distilled import Distilled
from attar.store import atomic, fkd
from attar.store import images as image_files
from attar.store.fkd import FkdBatch
from attar.store.labels import Header, LabelStore

BATCH_SIZE = 1024
"""The batch size of the published sets; used if the labels do not specify one."""


def export(run: Path, out: Path, batch_size: int = 0, log: Log | None = None) -> list[str]:
    """Write the distilled set of a run (or a set's own folder) to ``out/images`` and ``out/labels``, atomically.

    ``batch_size`` is the trainer's; 0 means that of the labels, or 1024. Returns lines to print. Raises AttarError when
    ``out`` is not empty, or when the layout cannot express the labels.
    """
    folder = run / "distilled" if (run / "distilled").is_dir() else run
    distilled, log = Distilled(folder), log or Log()
    labels = distilled.stored
    if labels is None:
        raise AttarError(f"{folder} has no stored labels to export; relabel it with --relabel.mode stored.")
    batch_size = _batch_size(labels.header, batch_size)
    with atomic.new_folder(out) as temporary:
        _write_images(folder / "data", temporary / "images", len(distilled.classes))
        orders = replay.published_orders(distilled.labels, distilled.slots)
        with log.progress("labels", labels.header.num_epochs) as advance:
            for epoch in range(labels.header.num_epochs):
                _write_epoch(labels, epoch, next(orders), batch_size, temporary / "labels")
                advance()
        (temporary / "README.md").write_text(_readme(distilled, labels.header, batch_size))
    return [
        f"{out}: {len(distilled)} images and {labels.header.num_epochs} epochs of labels in batches of {batch_size}, "
        f"for the published scripts; {out / 'README.md'} has the command."
    ]


def _batch_size(header: Header, asked: int) -> int:
    """Return the batch size to write; raises AttarError for labels that the layout cannot express."""
    if header.views.patch_shuffle > 1 or header.views.randaugment_ops:
        raise AttarError(
            "The published layout cannot store patch shuffling or RandAugment; relabel with "
            "--relabel.views.patch-shuffle 1 --relabel.views.randaugment-ops 0."
        )
    if header.storage.factor > 1 or header.views.dsa:
        raise AttarError(
            "The published layout cannot store several images in one, or Siamese augmentation; export the set of "
            "another method, relabelled without --relabel.views.dsa."
        )
    shared = header.mix.shared_by if header.mix.kind != "none" else 0
    if asked < 0:
        raise AttarError(f"A batch of {asked} images cannot be written; use --batch-size {shared or BATCH_SIZE}.")
    size = asked or shared or BATCH_SIZE
    if header.mix.kind != "none" and (shared != size or header.pooled):
        pool = " --relabel.pool-epochs 0" if header.pooled else ""
        raise AttarError(
            f"In the published layout all images of a batch share one mix, but in these labels batches of {size} do "
            f"not; relabel with --relabel.mix.shared-by {size}{pool}"
            + (f", or export with --batch-size {shared}." if shared and not header.pooled else ".")
        )
    return size


def image_name(label: int, slot: int, num_classes: int, data: bytes) -> str:
    """Return the path of an image in the published scripts: three digits for the class, five with over 1000 classes."""
    digits = 3 if num_classes <= 1000 else 5
    return f"new{label:0{digits}d}/class{label:0{digits}d}_id{slot:03d}.{image_files.suffix(data)}"


def _write_images(source: Path, target: Path, num_classes: int) -> None:
    for data, label, slot in image_files.encoded(source):
        if slot > 999:  # ImageFolder sorts names
            raise AttarError(
                f"{source} has more than 1000 images per class, but published file names have three digits for them; "
                f"export a set with fewer."
            )
        path = target / image_name(label, slot, num_classes, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write_epoch(labels: LabelStore, epoch: int, order: Int[Tensor, " image"], batch_size: int, target: Path) -> None:
    stored = labels.epoch(epoch)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    height, width = labels.header.height, labels.header.width
    size = torch.tensor([height, width, height, width], dtype=torch.float64)
    for batch, index in enumerate(order.split(batch_size)):
        view = stored.records.look.view.take(index)
        partner, share, box = _mixed(stored.records, index, place[index[0]], place, labels.folder)
        content = FkdBatch(
            coords=(view.box.to(torch.float64) / size).to(torch.float32),
            flip=view.flip,
            partner=partner,
            share=share,
            box=box,
            logits=stored.logits(index).half(),
        )
        fkd.write_batch(fkd.batch_path(target, epoch, batch), content)


def _mixed(
    records: Records, index: Int[Tensor, " image"], first: Tensor, place: Int[Tensor, " all"], folder: Path
) -> tuple[Int[Tensor, " image"] | None, float | None, tuple[int, int, int, int] | None]:
    """Return partners (indices in the batch), share, and box (rows, columns); ``first`` is where the batch starts."""
    if records.mix is None:
        return None, None, None
    mix = records.mix.take(index)
    partner = place[mix.partner] - first
    alike = (mix.weight == mix.weight[0]).all() and (mix.box is None or (mix.box == mix.box[0]).all())
    if not alike or partner.min() < 0 or partner.max() >= len(index):
        raise AttarError(f"The labels in {folder} should share one mix per batch but do not; relabel again.")
    if mix.box is None:
        return partner, float(mix.weight[0]), None
    top, left, height, width = mix.box[0].tolist()
    return partner, float(mix.weight[0]), (top, left, top + height, left + width)


def _readme(distilled: Distilled, header: Header, batch_size: int) -> str:
    info, training = distilled.info, distilled.info.protocol.training
    options = [
        "--train-dir images --val-dir FOLDER --fkd-path labels/",
        f"--batch-size {batch_size} --gradient-accumulation-steps {training.accumulation_steps}",
        f"--epochs {header.num_epochs} --cos -T {info.protocol.temperature:g}",
        f"--mix-type {header.mix.kind}" if header.mix.kind != "none" else "",
    ]
    return (
        f"# {markdown(info.source)}, distilled, in the layout of the published SRe2L and CDA scripts\n\n"
        f"- `images/`: {len(distilled)} images of {len(info.classes)} classes for torchvision's ImageFolder, in the "
        f"format of the stored set. Scripts that read only `*.jpg` do not find PNG or WebP files.\n"
        f"- `labels/`: {header.num_epochs} epochs of soft labels in batches of {batch_size}, in the order that a "
        f"sampler with seed 42 draws.\n\n"
        f"`train_FKD.py {' '.join(filter(None, options))}` trains on them; FOLDER has the real validation images. The "
        f"slash after `labels` is needed. The script asks for a login to Weights & Biases. It is written for "
        f"ImageNet-1K: 224 pixels, 1000 outputs, ImageNet's mean and standard deviation. These images have {info.size} "
        f"pixels and {len(info.classes)} classes; their teacher uses the mean {list(info.mean)} and the standard "
        f"deviation {list(info.std)}.\n"
    )
