from collections.abc import Callable
from pathlib import Path

import numpy as np

from attar.core.log import Log
from attar.data import balance
from attar.data.choice import DataChoice
from attar.data.load import load

Events = Callable[[str], list[dict]]


def texts(log: Log, events: Events, train: list[int], val: list[int]) -> list[str]:
    balance.warn(list("abcdefgh")[: len(train)], np.array(train), np.array(val), log)
    return [event["text"] for event in events("warning")]


def test_even_classes_are_not_spoken_of(log: Log, events: Events) -> None:
    assert texts(log, events, [10, 99], [1, 1]) == []


def test_uneven_classes_are_told_in_numbers(log: Log, events: Events) -> None:
    (text,) = texts(log, events, [12, 1000, 500], [1, 1, 1])
    assert (
        "1,000 training images of 'b' and 12 of 'a', 83 times as many; look at the mean accuracy over classes" in text
    )


def test_classes_without_validation_images_are_named(log: Log, events: Events) -> None:
    (text,) = texts(log, events, [5] * 8, [0, 1, 0, 0, 0, 0, 0, 1])
    assert text.startswith("6 of 8 classes have no validation images ('a', 'c', 'd', 'e', 'f' and 1 more): they are")


def test_both_are_said_when_a_dataset_is_opened(
    tmp_path: Path, class_folders: Callable[..., Path], log: Log, events: Events
) -> None:
    class_folders(tmp_path / "set" / "train", {"a": 20, "b": 2})
    class_folders(tmp_path / "set" / "val", {"a": 1})
    load(DataChoice(source=str(tmp_path / "set")), 0, log)
    assert [event["text"][:12] for event in events("warning")] == ["1 of 2 class", "the classes "]
