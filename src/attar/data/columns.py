"""Tables with a column of images and a column of labels: which they are, and what the labels mean."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

import numpy as np
import pyarrow as pa

from attar.core.errors import AttarError

IMAGE = ("image", "img")
LABEL = ("label", "labels", "fine_label", "class_id", "class")
NAMED = "class"
"""The label column that may hold names in place of indices."""


def find(names: Sequence[str], wanted: Sequence[str], kind: str, where: str) -> str:
    """The first of the ``wanted`` column names that is there; raises AttarError, listing what is there."""
    for name in wanted:
        if name in names:
            return name
    raise AttarError(
        f"{where} has no column of {kind}s that attar knows: it has {', '.join(names)}; "
        f"rename the one that holds the {kind}s to '{wanted[0]}'."
    )


def numbered(
    values: Sequence[pa.ChunkedArray], names: Sequence[str], places: Sequence[str]
) -> tuple[np.ndarray, list[str] | None]:
    """The class index of every row of tables that belong together, and the classes' names where rows hold names.

    ``names`` are those of the columns. Names in a column 'class' are numbered in sorted order. ``places`` are for
    errors: raises AttarError when rows hold anything else.
    """
    texts = [pa.types.is_string(one.type) or pa.types.is_large_string(one.type) for one in values]
    if not values or not all(texts) or set(names) != {NAMED}:
        return np.concatenate([label_array(one, place) for one, place in zip(values, places, strict=True)]), None
    for one, place in zip(values, places, strict=True):
        if one.null_count:
            raise AttarError(f"The label column of {place} holds empty places; attar needs a class in each row.")
    rows = [name for one in values for name in one.to_pylist()]
    index = {name: label for label, name in enumerate(sorted(set(rows)))}
    return np.array([index[name] for name in rows], dtype=np.int64), list(index)


def label_array(values: pa.ChunkedArray, where: str) -> np.ndarray:
    """A column of class indices as int64; raises AttarError when it holds anything else."""
    if not pa.types.is_integer(values.type) or values.null_count:
        holds = "empty places" if pa.types.is_integer(values.type) else f"{values.type} values"
        raise AttarError(f"The label column of {where} holds {holds}; attar needs class indices, 0 and up, in it.")
    return values.to_numpy().astype(np.int64)


class Table(Protocol):
    """A split whose labels are a column, named by the metadata or not at all."""

    labels: np.ndarray

    @property
    def class_names(self) -> list[str] | None:
        """The names in the order of the labels; None where the metadata give none."""
        ...


def classes(train: Table, val: Table | None, where: str) -> tuple[str, ...]:
    """The names that the metadata give, else the numbers up to the largest label.

    Raises AttarError when the splits name their classes differently, or a label lies outside of them.
    """
    named = train.class_names
    if named and val is not None and val.class_names and val.class_names != named:
        differing = zip_longest(named, val.class_names, fillvalue="nothing")
        ours, theirs = next((ours, theirs) for ours, theirs in differing if ours != theirs)
        raise AttarError(
            f"The train and validation splits of {where} name their classes differently: '{ours}' against "
            f"'{theirs}' is the first that differs; write both with the same names in the same order."
        )
    labels = train.labels if val is None else np.concatenate([train.labels, val.labels])
    if not named:
        named = [str(index) for index in range(1 + int(labels.max(initial=-1)))]
    outside = labels[(labels < 0) | (labels >= len(named))]
    if len(outside):
        raise AttarError(
            f"{where} has the label {outside[0]}, but its classes are 0 to {len(named) - 1}; "
            f"a split without labels cannot be used, remove it."
        )
    return tuple(named)
