"""Opening a dataset: find it, keep the chosen classes, hold out a validation split where there is none."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.plugin import unknown
from attar.core.randomness import generator
from attar.data import at_store, balance, braces, given, hub, layout, named, remote
from attar.data.choice import IN_MEMORY, DataChoice, num_held
from attar.data.columns import refuse_broken
from attar.data.source import Found, RealData, Split
from attar.store import objects

DIGITS_HOLDOUT = 0.2
"""digits comes unsplit; its split is the same for every seed, so that scores compare."""


def load(choice: DataChoice, seed: int, log: Log) -> RealData:
    """The dataset that ``choice`` names; images are decoded later.

    Raises AttarError when it is missing, or its files or classes are not as they should be.
    """
    found = find(choice, log)
    for name in found.classes:
        refuse_broken(name, f"'{choice.source}'")
    labels = kept(choice, found.classes)
    classes = tuple(found.classes[label] for label in labels)
    train = of_classes(found.train, labels)
    _refuse_empty(choice.source, classes, train, found.faults)
    if found.val is not None:
        val = of_classes(found.val, labels)
    elif choice.source == "digits":
        train, val = _held_out(train, classes, DIGITS_HOLDOUT, 0)
    else:
        train, val = _held_out(train, classes, choice.holdout, seed)
    if choice.validate_on == "train":
        train, val = _held_out(train, classes, choice.holdout, seed)
    if not len(val):
        raise AttarError(
            f"'{choice.source}' has no validation images of these classes; add some, or training images to hold out."
        )
    balance.warn(classes, np.bincount(train.labels), np.bincount(val.labels, minlength=len(classes)), log)
    return RealData(
        name=_name(choice.source),
        classes=classes,
        titles={name: found.titles[name] for name in classes if name in found.titles},
        train=train,
        val=val,
        fingerprint=digest([classes, len(train), train.identity(), len(val), val.identity()]),
        licence=found.licence,
        former_fingerprint=digest([classes, len(train), train.former_identity(), len(val), val.former_identity()]),
    )


def find(choice: DataChoice, log: Log) -> Found:
    """The dataset that ``choice.source`` names, before classes are chosen; raises AttarError when it is missing."""
    source = choice.source
    if source in named.KNOWN:
        return named.read(source, choice.root, log)
    in_store = objects.is_address(source)
    if choice.cache_bytes is not None and (in_store or source.startswith(hub.PREFIX)):
        return at_store.read(source, choice.cache_bytes, log)
    if source.startswith(hub.PREFIX):
        return hub.read_hub(source, log)
    if source.startswith(IN_MEMORY):
        return given.read(source)
    if in_store and at_store.parted(source)[1]:
        raise AttarError(f"'{source}' names files of a store; add --data.cache-bytes, such as 200GB, or name a folder.")
    if braces.names_files(source) and not in_store and not Path(source).expanduser().is_dir():
        return layout.read_pattern(source, log)
    path = remote.cached(source, log) if in_store else Path(source).expanduser()
    if path.is_dir():
        return layout.read(path, log, are_classes=bool(choice.classes))
    if path.exists():
        raise AttarError(f"{path} is a file; name the folder that holds the dataset.")
    if not re.search(r"[/\\]", source):
        raise unknown("dataset or folder", source, named.KNOWN)
    hint = f"; for a dataset of the Hub write 'hf:{source}'" if re.fullmatch(r"[\w.-]*\w/[\w.-]+", source) else ""
    raise AttarError(f"There is no folder {path}{hint or '; check the path'}.")


def _name(source: str) -> str:
    """What people call the dataset: the source without folders."""
    if source in named.KNOWN or source.startswith(hub.PREFIX):
        return source.removeprefix(hub.PREFIX)
    if source.startswith(IN_MEMORY):
        return source.removeprefix(IN_MEMORY)
    if objects.is_address(source):
        return at_store.parted(source)[0].rstrip("/").rpartition("/")[2]
    if braces.names_files(source) and not Path(source).expanduser().is_dir():
        return Path(source).expanduser().resolve().parent.name
    return Path(source).expanduser().resolve().name


def kept(choice: DataChoice, classes: tuple[str, ...]) -> list[int]:
    """The labels of the chosen classes, ascending; raises AttarError for fewer than two."""
    if len(classes) < 2:
        raise AttarError(f"'{choice.source}' has a single class ({', '.join(classes)}); two or more are needed.")
    known = set(classes)
    for name in choice.classes:
        if name not in known:
            raise unknown(f"class of '{choice.source}'", name, classes)
    if choice.num_classes is not None and choice.num_classes > len(classes):
        raise AttarError(
            f"'{choice.source}' has {len(classes)} classes, fewer than --data.num-classes {choice.num_classes}."
        )
    if choice.classes:
        wanted = set(choice.classes)
        labels = [label for label, name in enumerate(classes) if name in wanted]
    else:
        labels = list(range(choice.num_classes or len(classes)))
    if len(labels) < 2:
        raise AttarError(f"A single class is chosen ({choice.classes[0]}); name two or more with --data.classes.")
    return labels


def of_classes(split: Split, labels: list[int]) -> Split:
    """The images with these labels, labelled by their places in the list."""
    place = np.full(1 + max(int(split.labels.max(initial=0)), *labels), -1)
    place[labels] = np.arange(len(labels))
    now = place[split.labels]
    return split if np.array_equal(now, split.labels) else split.select(np.flatnonzero(now >= 0), now[now >= 0])


def _refuse_empty(source: str, classes: tuple[str, ...], train: Split, faults: Mapping[str, str]) -> None:
    counts = np.bincount(train.labels, minlength=len(classes))
    if not counts.all():
        name = classes[int(counts.argmin())]
        plain = f"'{source}' has no training image of the class '{name}'; choose others with --data.classes."
        raise AttarError(faults.get(name, plain))


def draw_of(name: str, count: int, seed: int) -> np.ndarray:
    """The order in which the ``count`` pictures of a class are held out."""
    return torch.randperm(count, generator=generator(seed, "data", "holdout", name)).numpy()


def _held_out(split: Split, classes: tuple[str, ...], fraction: float, seed: int) -> tuple[Split, Split]:
    """Training and validation parts: of each class the ``fraction``, drawn under the class's name, at least one image.

    A single image of a class stays in the training part. The draw of a class does not depend on the other classes, so a
    choice of classes keeps their split.
    """
    held = np.zeros(len(split), dtype=bool)
    order = np.argsort(split.labels, kind="stable")
    ends = np.cumsum(np.bincount(split.labels, minlength=len(classes)))
    for name, rows in zip(classes, np.split(order, ends[:-1]), strict=True):
        held[rows[draw_of(name, len(rows), seed)[: num_held(len(rows), fraction)]]] = True
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))
