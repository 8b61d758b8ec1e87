"""The dataset card: the README.md that travels with a distilled dataset."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from attar.core import plugin
from attar.core.config import BY_CONTENT, effect_of
from attar.core.log import readable_bytes
from attar.core.printable import markdown, printable
from attar.data.choice import IN_MEMORY
from attar.report import reliability
from attar.report.pages import tables
from attar.report.table import Line, own_line, protocols
from attar.stages.dataset_info import DatasetInfo, read_info
from attar.stages.methods import METHODS, method_named
from attar.stages.protocols import protocol_title
from attar.stages.rows import REAL_SETS
from attar.stages.run import IMPORTED
from attar.store import atomic

_TEXT = """\
# {source}{kind}: {ipc} {images}{plural} per class

{num_images} images of {size} x {size} pixels for {num_classes} classes, {origin}, with {labels}.
{decoding}
```python
import attar

distilled = attar.load("{place}")
for images, targets in distilled.batches(epoch=0, batch_size=128, device="cpu"{hard}):
    loss = distilled.loss(model(images), targets)
```

{plainly}

## Scores

{scores}

Last epoch, {spread}, on {validation}; protocol {protocol}. {guessing}
"Random real" is the same number of real training images, drawn at random; "herding" and "k-centre" choose the same
number by the teacher's features. Top-1 is the accuracy over all validation images; class mean is the mean of the
accuracies of the classes. ECE is the expected calibration error. Seconds are wall-clock seconds, summed over all
processes: to train all teachers ("-" if one was imported), to make or choose the images, to label them, and to train
one student. Other work on the machine at the same time increases them.
{cores}
## Size

Images {image_bytes}, {label_name} {label_bytes}.

## How it was made

{made}

## Licence and privacy

The licence of the source applies: {licence}. {privacy} This set does not protect the privacy of people in the data.

## Citation

{citation}
"""
RECIPE = "recipe.yaml"
"""The recipe in a run's folder, and beside a set that is shared."""
HERE = "this folder"
"""How the card names a set that is on no Hub."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The Hub's words for numbers of images below a limit."""
_MOST_NAMED = 1000
"""Classes that are named in the card's front matter, too; the image files name any number of them."""
_MOST_KEPT = 8
"""Classes kept from an earlier run that are named."""
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


_PRIVACY = {
    True: "Its images *are* real training images, or contain parts of them.",
    False: "Distilled images can show what a teacher remembers of its training images.",
    None: "attar does not know how its images were made: they can show what a teacher remembers of its training "
    "images, and may contain parts of them.",
}
"""Privacy sentence, by whether the images hold pixels of real photographs; None: unknown."""


def write(folder: Path, table: list[Line], kept: Sequence[str] = ()) -> None:
    """Write ``README.md`` into a distilled folder, with all available scores."""
    atomic.write_text(folder / "README.md", text(read_info(folder), table, kept=kept))


def text(info: DatasetInfo, table: list[Line], place: str = HERE, recipe: str = "", kept: Sequence[str] = ()) -> str:
    """Return the card of a distilled dataset; ``place`` is what a reader loads, ORG/NAME if the set is on the Hub.

    ``recipe`` is the content of ``recipe.yaml`` next to the card; '' if there is none. ``kept`` are the classes
    whose images an earlier run made.
    """
    own = own_line(table)
    hard = info.labels.mode == "none" or (own is not None and not own.label_bytes)
    origin = f"made from *{markdown(info.source)}* with the method `{info.method}` and attar"
    if info.method in REAL_SETS:
        origin = f"real images that the method `{info.method}` of attar chose from *{markdown(info.source)}*"
    elif info.method == IMPORTED:
        origin = f"made elsewhere from *{markdown(info.source)}*"
    return _front_matter(info) + _TEXT.format(
        place=place,
        made=_made(recipe) + _kept(info, kept),
        citation=_citation(info.method),
        source=markdown(info.source),
        kind="" if info.method in REAL_SETS else ", distilled",
        images="real image" if info.method in REAL_SETS else "image",
        plural="s" * (info.ipc != 1),
        ipc=info.ipc,
        num_images=info.num_images,
        size=info.size,
        num_classes=len(info.classes),
        decoding=_decoding(info),
        origin=origin,
        labels=_labels(info, hard),
        hard=", soft=False" if hard else "",
        plainly=_plainly(info, place),
        cores=_cores(table),
        spread=reliability.of_students(table),
        validation=reliability.measured_on(table) if table else "real validation images",
        guessing=reliability.guessing(table),
        scores=tables(table).strip() if table else "Not evaluated yet.",
        protocol=markdown(", ".join(judged) if (judged := protocols(table)) else protocol_title(info.protocol)),
        image_bytes=readable_bytes(info.image_bytes),
        label_name=label_name(info),
        label_bytes=readable_bytes(info.label_bytes),
        licence=markdown(info.licence),
        privacy=_PRIVACY[stores_real_pixels(info)],
    )


def _labels(info: DatasetInfo, hard: bool) -> str:
    """Say which labels the set has; ``hard``: the scores are those of students that learn from the classes alone."""
    if info.labels.mode == "none":
        return "their classes as hard labels"
    soft = f"soft labels of {_teachers(info)}" if not info.labels.imported else "soft labels made elsewhere"
    if not hard:
        return soft
    return f"their classes as hard labels, which the students below are trained on; the set also holds {soft}"


def _plainly(info: DatasetInfo, place: str) -> str:
    """Say how to open the images without attar."""
    opened = f'use `datasets.load_dataset("{place}")`.'
    if info.labels.mode == "none":
        return f"To open the images and their classes without attar, {opened}"
    return (
        f"To open the images without their soft labels, {opened} If the table below has rows with hard labels, compare "
        f"them to see the gain from soft labels."
    )


def _front_matter(info: DatasetInfo) -> str:
    """Return what the Hub reads: licence, files, and the columns that its viewer shows."""
    names = {str(label): printable(name) for label, name in enumerate(info.classes)}
    size = next((word for limit, word in _SIZES if info.num_images < limit), "1M<n<10M")
    values: dict[str, Any] = {
        "license": "other",
        "pretty_name": markdown(f"{info.source}, distilled"),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "attar", info.method],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    if len(info.classes) <= _MOST_NAMED:
        values["dataset_info"] = {
            "features": [
                {"name": "image", "dtype": "image"},
                {"name": "label", "dtype": {"class_label": {"names": names}}},
                {"name": "slot", "dtype": "int64"},
            ],
            "splits": [{"name": "train", "num_bytes": info.image_bytes, "num_examples": info.num_images}],
        }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)}---\n\n"


def again(recipe: str) -> str:
    """Return the command that runs a recipe saved as ``recipe.yaml``, or the call in Python if its data were in memory.

    ``recipe`` is its content.
    """
    if re.search(rf"^ +source: {IN_MEMORY}", recipe, re.MULTILINE):
        return f"attar.distil(DATA, out='runs/again', recipe='{RECIPE}')"
    return f"attar run {RECIPE} --out runs/again"


def _made(recipe: str) -> str:
    """Say where the settings are."""
    words = f"`{RECIPE}` is the recipe: `{again(recipe)}`. " if recipe else ""
    return (
        f"{words}`dataset.json` has the method's settings, the seed, versions, and the hashes of images and teachers."
    )


def _kept(info: DatasetInfo, kept: Sequence[str]) -> str:
    """Say which classes another run made; '' if this run made all."""
    if not kept:
        return ""
    names = ", ".join(markdown(info.titles.get(name, name).partition(",")[0]) for name in kept[:_MOST_KEPT])
    more = f" and {len(kept) - _MOST_KEPT} more" if len(kept) > _MOST_KEPT else ""
    return (
        f"\n\nThe images of {len(kept)} of the {len(info.classes)} classes ({names}{more}) were kept from an earlier "
        f"run, and made with the teachers of that run. The labels of all images, and the scores, are of this run."
    )


def _citation(method: str) -> str:
    """Say whom to cite; methods outside attar are not imported, because the set may come from an untrusted source."""
    source = "Cite the source of the images."
    if method == IMPORTED or method not in plugin.names_in(METHODS):
        return source
    title = (method_named(method).__doc__ or method).strip().splitlines()[0].rstrip(".")
    paper = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", title)
    return f"Cite the method and the source of the images. {paper}. Made with attar."


_LABEL_NAMES = {
    "stored": "stored labels",
    "online": "the teachers (labels are made online)",
    "given": "labels that the method learned with the images",
    "none": "nothing: students learn the classes alone",
}


def label_name(info: DatasetInfo) -> str:
    """Return what the bytes of labels hold."""
    name, precision = _LABEL_NAMES[info.labels.mode], info.labels.teacher_precision
    return f"{name}, weights in {precision}" if info.labels.mode == "online" and precision != "fp32" else name


def stores_real_pixels(info: DatasetInfo) -> bool | None:
    """Return whether the images hold pixels of real photographs, according to their method; None when unknown.

    Does not import methods outside attar, because the set may come from an untrusted source.
    """
    if info.method == IMPORTED or info.method not in plugin.names_in(METHODS):
        return None
    config = method_named(info.method).Config
    paths = {name for name, field in config.model_fields.items() if effect_of(field) is BY_CONTENT}
    settings = {name: value for name, value in config.upgraded(info.recover).items() if name not in paths}
    try:
        return config.model_validate(settings).needs().stores_real_pixels
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
        return f"Processor seconds of the table's first row: {listed}.\n" if listed else ""
    return ""


def _teachers(info: DatasetInfo) -> str:
    rated = [
        f"`{one.architecture}`" + ("" if one.accuracy is None else f" ({one.accuracy:.1%} on real validation images)")
        for one in info.teachers
    ]
    if len(rated) > 1:
        return f"a committee of {len(rated)} teachers: {', '.join(rated)}"
    return f"the teacher {rated[0]}"
