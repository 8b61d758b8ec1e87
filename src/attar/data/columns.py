"""Tables with a column of images and a column of labels: which they are, and what the labels mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.source import Found, Split
from attar.data.titles import licence, titles

IMAGE = ("image", "img")
LABEL = ("label", "labels", "fine_label", "class_id", "class")
NO_LABEL = -1
"""The label of rows without one, as in test splits whose labels are not published; empty cells are read as it."""


class NoLabels(AttarError):  # noqa: N818
    """A table without a column of labels."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels, as it is in the table."""

    values: np.ndarray
    """int64: the numbers in the rows, or the places of their names in ``names``; NO_LABEL where there is none."""
    names: list[str] | None
    """The names in the rows, sorted; None where rows hold numbers."""


def find(names: Sequence[str], wanted: Sequence[str], kind: str, where: str) -> str:
    """The first of the ``wanted`` column names that is there; raises AttarError, listing what is there."""
    for name in wanted:
        if name in names:
            return name
    raise (NoLabels if kind == "label" else AttarError)(
        f"{where} has no column of {kind}s that attar knows: it has {', '.join(names)}; "
        f"rename the one that holds the {kind}s to '{wanted[0]}'."
    )


def refuse_broken(name: str, where: str) -> None:
    """Raise AttarError for a class name that is no Unicode text: JSON can hold a half of a character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise AttarError(
            f"{where} has the class name {name.encode(errors='backslashreplace').decode()}, which is no Unicode text; "
            f"write another name."
        ) from None


def labels(columns: Sequence[pa.ChunkedArray], places: Sequence[str]) -> LabelColumn:
    """The labels of tables that belong together: numbers, names, or true and false.

    ``places`` are for errors: raises AttarError when rows hold anything else, or some tables numbers and others names.
    """
    columns = [_plain(one, place) for one, place in zip(columns, places, strict=True)]
    texts = [pa.types.is_string(one.type) for one in columns]
    if not any(texts):
        return LabelColumn(
            np.concatenate([_numbers(one, place) for one, place in zip(columns, places, strict=True)]), None
        )
    if not all(texts):
        number, name = places[texts.index(False)], places[texts.index(True)]
        raise AttarError(f"The label column of {number} holds numbers and that of {name} names; write both alike.")
    rows = [name for one, place in zip(columns, places, strict=True) for name in _texts(one, place)]
    names = sorted({name for name in rows if name is not None})
    index: dict[str | None, int] = {name: label for label, name in enumerate(names)} | {None: NO_LABEL}
    return LabelColumn(np.array([index[name] for name in rows], dtype=np.int64), names)


def _texts(column: pa.ChunkedArray, where: str) -> list[str | None]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raise AttarError(f"The label column of {where} holds bytes that are no UTF-8 text; write it again.") from None


def _plain(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """The column as integers or strings."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):  # pandas writes whole numbers as floats where a column has empty cells
        try:
            return pc.call_function("if_else", [pc.call_function("is_nan", [column]), None, column]).cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    if not (pa.types.is_integer(column.type) or pa.types.is_string(column.type)):
        raise AttarError(f"The label column of {where} holds {kind} values; attar needs class numbers or names in it.")
    return column


def _numbers(column: pa.ChunkedArray, where: str) -> np.ndarray:
    try:
        return column.cast(pa.int64()).fill_null(NO_LABEL).to_numpy()
    except pa.ArrowInvalid:
        raise AttarError(f"The label column of {where} holds numbers beyond 2^63; number the classes from 0.") from None


class Table(Split):
    """A split whose labels are a column, named by the metadata or not at all."""

    column: LabelColumn
    """Its labels as they are in the table."""
    class_names: list[str] | None
    """The names that the metadata give to the labels, in their order."""


def dataset(train: Table, vals: Mapping[str, Callable[[], Table]], where: str, folder: Path | None, log: Log) -> Found:
    """Return the dataset of a table for training and of those that may be validated on, the best first.

    ``where`` names the dataset in errors; a words.txt with the classes' titles may lie in ``folder``.
    """
    classes, labelled_train, labelled_val = together(train, first_labelled(vals, log), where)
    return Found(classes, labelled_train, labelled_val, titles(folder, classes), licence(classes))


def first_labelled(candidates: Mapping[str, Callable[[], Table]], log: Log) -> Table | None:
    """The first of several splits that has labels; ``candidates`` open them, by their names for the user.

    Those without are left out with a warning: a competition's test images have -1 or nothing in each row.
    """
    for name, opened in candidates.items():
        try:
            table = opened()
        except NoLabels:
            table = None
        if table is not None and not bool((table.column.values == NO_LABEL).all()):
            return table
        log.warn(
            f"the labels of {name} are not given, so it is left out; another split is validated on, or a part of the "
            f"training images is held out"
        )
    return None


def together(train: Table, val: Table | None, where: str) -> tuple[tuple[str, ...], Split, Split | None]:
    """The classes, and both splits under labels that are their places among the classes.

    Classes are the names that the metadata give, else the names in the rows, else the numbers in them. Raises
    AttarError when the splits name their classes differently, or a row has no label or one outside of the classes.
    """
    if val is not None:
        _refuse_other_names(train, val, where)
    given = train.class_names
    tables = [train] if val is None else [train, val]
    for table, split in zip(tables, ("training", "validation"), strict=False):
        _refuse_unlabelled(table, where, split)
    if train.column.names is not None:
        return _by_name(train, val, given or train.column.names, where)
    numbers = np.unique(np.concatenate([table.column.values for table in tables]))
    if given:
        _refuse_outside(numbers, len(given), where)
        return tuple(given), train, val
    classes = tuple(str(number) for number in numbers.tolist())
    if not len(numbers) or numbers[-1] == len(numbers) - 1:
        return classes, train, val
    return classes, _placed(train, numbers), None if val is None else _placed(val, numbers)


def _by_name(
    train: Table, val: Table | None, names: Sequence[str], where: str
) -> tuple[tuple[str, ...], Split, Split | None]:
    index = {name: label for label, name in enumerate(names)}

    def under_names(table: Table) -> Split:
        own = table.column.names or []
        stranger = next((name for name in own if name not in index), None)
        if stranger is not None:
            raise AttarError(f"{where} has validation images of '{stranger}' and no training images; remove them.")
        labels = np.array([index[name] for name in own], dtype=np.int64)[table.column.values]
        return table if np.array_equal(labels, table.labels) else table.select(np.arange(len(table)), labels)

    return tuple(names), under_names(train), None if val is None else under_names(val)


def _placed(table: Table, numbers: np.ndarray) -> Split:
    return table.select(np.arange(len(table)), np.searchsorted(numbers, table.column.values))


def _refuse_other_names(train: Table, val: Table, where: str) -> None:
    if (train.column.names is None) != (val.column.names is None):
        raise AttarError(f"One split of {where} has class numbers and the other names as labels; write both alike.")
    if train.class_names and val.class_names and train.class_names != val.class_names:
        differing = zip_longest(train.class_names, val.class_names, fillvalue="nothing")
        ours, theirs = next((ours, theirs) for ours, theirs in differing if ours != theirs)
        raise AttarError(
            f"The train and validation splits of {where} name their classes differently: '{ours}' against "
            f"'{theirs}' is the first that differs; write both with the same names in the same order."
        )


def _refuse_unlabelled(table: Table, where: str, split: str) -> None:
    count = int((table.column.values < 0).sum())
    if count:
        lowest = int(table.column.values.min())
        raise AttarError(
            f"{count} of {len(table)} {split} images of {where} have no label (the column holds empty places, or "
            f"{lowest}); leave these rows out, or number the classes from 0."
        )


def _refuse_outside(numbers: np.ndarray, count: int, where: str) -> None:
    if len(numbers) and numbers[-1] >= count:
        raise AttarError(
            f"{where} has the label {numbers[-1]}, but its metadata name the classes 0 to {count - 1}; "
            f"fix the labels or the names."
        )
