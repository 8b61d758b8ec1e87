"""The dataset card: the README.md that travels with a distilled dataset."""

from pathlib import Path

from attar.core.log import readable_bytes
from attar.core.printable import markdown
from attar.report.pages import tables
from attar.report.table import Line, protocols
from attar.stages import given
from attar.stages.distilled import DatasetInfo, read_info
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

# {source}, distilled: {ipc} images per class

{num_images} images of {size} x {size} pixels for {num_classes} classes, {origin}, with {labels}.

```python
import attar

distilled = attar.load("this folder")
for images, targets in distilled.batches(epoch=0, batch_size=128, device="cpu"):
    loss = distilled.loss(model(images), targets)
```

The images alone open with `datasets.load_dataset("this folder")`; they are worth much less without the soft labels.

## Scores

{scores}

Last epoch, mean ± sample standard deviation over n seeds, on the real validation images; protocol {protocol}.
"Random real" are as many real training images, drawn at random; herding and k-centre choose as many by the teacher's
features. ECE is the expected calibration error. Seconds are device-seconds: of training the teacher ("-" where it was
brought along), of making or choosing the images, of labelling them, and of training one student.

## Size

Images {image_bytes}, {label_name} {label_bytes}.

## How it was made

Every setting is in `dataset.json`: recipe, seed, hashes of images and teacher, versions.

## Licence and privacy

The licence of the source applies: {licence}. Distilled images can show what a teacher remembers of its training images,
and those of the methods `random`, `herding` and `kcentre` *are* training images: this set gives no privacy to anyone in
the data.
"""


def write(folder: Path, table: list[Line]) -> None:
    """Write ``README.md`` into a distilled folder, with the scores there are."""
    atomic.write_text(folder / "README.md", text(read_info(folder), table))


def text(info: DatasetInfo, table: list[Line]) -> str:
    """The card of a distilled dataset."""
    origin = f"made from *{markdown(info.source)}* with the method `{info.method}` and attar"
    if info.method == given.METHOD:
        origin = f"made elsewhere from *{markdown(info.source)}*"
    rated = "" if info.teacher_accuracy is None else f" ({info.teacher_accuracy:.1%} on real validation images)"
    return _TEXT.format(
        method=info.method,
        source=markdown(info.source),
        ipc=info.ipc,
        num_images=info.num_images,
        size=info.size,
        num_classes=len(info.classes),
        origin=origin,
        labels=f"soft labels of {_teachers(info)}{rated}" if not info.labels.imported else "soft labels made elsewhere",
        scores=tables(table).strip() if table else "Not evaluated yet.",
        protocol=markdown(", ".join(judged) if (judged := protocols(table)) else info.protocol.title()),
        image_bytes=readable_bytes(info.image_bytes),
        label_name="stored labels" if info.labels.mode == "stored" else "the teacher (labels are made online)",
        label_bytes=readable_bytes(info.label_bytes),
        licence=markdown(info.licence),
    )


def _teachers(info: DatasetInfo) -> str:
    if not info.further_teachers:
        return f"a `{info.teacher}` teacher"
    return "the teachers " + ", ".join(f"`{name}`" for name in (info.teacher, *info.further_teachers))
