"""The dataset card: the README.md that travels with a distilled dataset."""

from pathlib import Path

import pydantic

from attar.core import plugin
from attar.core.log import readable_bytes
from attar.core.printable import markdown
from attar.report.pages import tables
from attar.report.table import Line, protocols
from attar.stages.distilled import DatasetInfo, read_info
from attar.stages.methods import METHODS, method_named
from attar.stages.rows import REAL_SETS
from attar.stages.run import IMPORTED
from attar.store import atomic

_TEXT = """\
---
license: other
task_categories: [image-classification]
tags: [dataset-distillation, attar, {method}]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# {source}{kind}: {ipc} {images} per class

{num_images} images of {size} x {size} pixels for {num_classes} classes, {origin}, with {labels}.
{decoding}
```python
import attar

distilled = attar.load("this folder")
for images, targets in distilled.batches(epoch=0, batch_size=128, device="cpu"):
    loss = distilled.loss(model(images), targets)
```

To open the images without their soft labels, use `datasets.load_dataset("this folder")`. If the table below has
rows with hard labels, compare them to see the gain from soft labels.

## Scores

{scores}

Last epoch, mean ± sample standard deviation over n seeds, on the real validation images; protocol {protocol}.
"Random real" is the same number of real training images, drawn at random; "herding" and "k-centre" choose the same
number by the teacher's features. Top-1 is the accuracy over all validation images; class mean is the mean of the
accuracies of the classes. ECE is the expected calibration error. Seconds are wall-clock seconds, summed over all
processes: to train all teachers ("-" if one was imported), to make or choose the images, to label them, and to train
one student. Other work on the machine at the same time increases them.
{cores}
## Size

Images {image_bytes}, {label_name} {label_bytes}.

## How it was made

Every setting is in `dataset.json`: recipe, seed, hashes of images and teacher, versions.

## Licence and privacy

The licence of the source applies: {licence}. {privacy} This set does not protect the privacy of people in the data.
"""


_PRIVACY = {
    True: "Its images *are* real training images, or contain parts of them.",
    False: "Distilled images can show what a teacher remembers of its training images.",
    None: "attar does not know how its images were made: they can show what a teacher remembers of its training "
    "images, and may contain parts of them.",
}
"""Privacy sentence, by whether the images hold pixels of real photographs; None: unknown."""


def write(folder: Path, table: list[Line]) -> None:
    """Write ``README.md`` into a distilled folder, with all available scores."""
    atomic.write_text(folder / "README.md", text(read_info(folder), table))


def text(info: DatasetInfo, table: list[Line]) -> str:
    """Return the card of a distilled dataset."""
    origin = f"made from *{markdown(info.source)}* with the method `{info.method}` and attar"
    if info.method in REAL_SETS:
        origin = f"real images that the method `{info.method}` of attar chose from *{markdown(info.source)}*"
    elif info.method == IMPORTED:
        origin = f"made elsewhere from *{markdown(info.source)}*"
    return _TEXT.format(
        method=info.method,
        source=markdown(info.source),
        kind="" if info.method in REAL_SETS else ", distilled",
        images="real images" if info.method in REAL_SETS else "images",
        ipc=info.ipc,
        num_images=info.num_images,
        size=info.size,
        num_classes=len(info.classes),
        decoding=_decoding(info),
        origin=origin,
        labels=f"soft labels of {_teachers(info)}" if not info.labels.imported else "soft labels made elsewhere",
        cores=_cores(table),
        scores=tables(table).strip() if table else "Not evaluated yet.",
        protocol=markdown(", ".join(judged) if (judged := protocols(table)) else info.protocol.title()),
        image_bytes=readable_bytes(info.image_bytes),
        label_name=_LABEL_NAMES[info.labels.mode],
        label_bytes=readable_bytes(info.label_bytes),
        licence=markdown(info.licence),
        privacy=_PRIVACY[stores_real_pixels(info)],
    )


_LABEL_NAMES = {
    "stored": "stored labels",
    "online": "the teacher (labels are made online)",
    "given": "labels that the method learned with the images",
}


def stores_real_pixels(info: DatasetInfo) -> bool | None:
    """Return whether the images hold pixels of real photographs, according to their method; None when unknown.

    Does not import methods outside attar, because the set may come from an untrusted source.
    """
    if info.method == IMPORTED or info.method not in plugin.names_in(METHODS):
        return None
    config = method_named(info.method).Config
    try:
        return config.model_validate(config.upgraded(info.recover)).needs().stores_real_pixels
    except pydantic.ValidationError:  # settings of another version of attar
        return None


def _decoding(info: DatasetInfo) -> str:
    """Describe stored images that hold several images; '' for plain ones."""
    factor, enlarge = info.storage.factor, info.storage.enlarge
    if factor == 1:
        return ""
    how = "to the nearest pixel" if enlarge == "nearest" else "bilinearly"
    return (
        f"\nEach stored image holds {factor} x {factor} images of its class side by side. `distilled.batches` shows "
        f"the whole stored image or one of them, enlarged {how}. Bytes and images per class count stored images. "
        f"Baselines have as many real images as there are stored images.\n"
    )


def _cores(table: list[Line]) -> str:
    """Return a sentence with the processor seconds of the table's first line; '' if not measured."""
    for line in table[:1]:
        parts = {
            "the teacher": line.teacher_processor_seconds,
            "the images": line.images_processor_seconds,
            "the labels": line.labels_processor_seconds,
            "a student": line.train_processor_seconds,
        }
        listed = ", ".join(f"{what} {seconds:,.1f}" for what, seconds in parts.items() if seconds is not None)
        return f"Processor core seconds of the table's first row: {listed}.\n" if listed else ""
    return ""


def _teachers(info: DatasetInfo) -> str:
    rated = [
        f"`{one.architecture}`" + ("" if one.accuracy is None else f" ({one.accuracy:.1%} on real validation images)")
        for one in info.teachers
    ]
    if len(rated) > 1:
        return f"a committee of {len(rated)} teachers: {', '.join(rated)}"
    return f"the teacher {rated[0]}"
