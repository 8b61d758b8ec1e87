import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.source import RealData, Split
from attar.data.survey import survey

Make = Callable[..., Path]


def places(split: Split) -> list[str]:
    return [Path(split.where(index)).name for index in range(len(split))]


def open_folder(path: Path, log: Log, seed: int = 0, **values: object) -> RealData:
    return load(DataChoice.of({"source": str(path), **values}, "the test"), seed, log)


def test_a_folder(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "pets" / "train", {"a": 3, "b": 2})
    class_folders(tmp_path / "pets" / "val", {"a": 1, "b": 1})
    real = open_folder(tmp_path / "pets", log)
    assert (real.name, real.classes, real.licence) == ("pets", ("a", "b"), "unknown")
    assert (len(real.train), len(real.val)) == (5, 2)


def test_holdout_is_stratified_and_named(tmp_path: Path, class_folders: Make, log: Log) -> None:
    tmp_path = class_folders(tmp_path / "set", {"a": 20, "b": 10, "c": 2})
    real = open_folder(tmp_path, log, holdout=0.2)
    assert np.bincount(real.val.labels).tolist() == [4, 2, 1]
    assert np.bincount(real.train.labels).tolist() == [16, 8, 1]
    assert sorted(places(real.train) + places(real.val)) == sorted(
        f"{c}_{i}.png" for c, n in [("a", 20), ("b", 10), ("c", 2)] for i in range(n)
    )
    assert places(open_folder(tmp_path, log, holdout=0.2).val) == places(real.val)
    assert places(open_folder(tmp_path, log, seed=1, holdout=0.2).val) != places(real.val)
    fewer = open_folder(tmp_path, log, holdout=0.2, classes=("c", "a"))
    assert places(fewer.val) == [name for name in places(real.val) if not name.startswith("b")]


def test_the_only_image_of_a_class_is_not_held_out(tmp_path: Path, class_folders: Make, log: Log) -> None:
    real = open_folder(class_folders(tmp_path / "set", {"a": 3, "b": 1}), log)
    assert (sorted(real.train.labels.tolist()), real.val.labels.tolist()) == ([0, 0, 1], [0])
    with pytest.raises(AttarError, match=r"has no validation images of these classes; add some, or training images to"):
        open_folder(class_folders(tmp_path / "ones", {"a": 1, "b": 1}), log)


def test_chosen_classes(tmp_path: Path, class_folders: Make, log: Log) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, {"a": 1, "b": 2, "c": 3})
    real = open_folder(tmp_path, log, classes=("c", "a"))
    assert real.classes == ("a", "c")
    assert real.train.labels.tolist() == [0, 1, 1, 1]
    assert places(real.val) == ["a_0.png", "c_0.png", "c_1.png", "c_2.png"]
    assert open_folder(tmp_path, log, num_classes=2).classes == ("a", "b")
    assert open_folder(tmp_path, log, num_classes=3).fingerprint == open_folder(tmp_path, log).fingerprint
    with pytest.raises(AttarError, match=rf"There is no class of '{tmp_path}' named 'dog'; known names: a, b, c\."):
        open_folder(tmp_path, log, classes=("a", "dog"))
    with pytest.raises(AttarError, match=r"has 3 classes, fewer than --data.num-classes 4\."):
        open_folder(tmp_path, log, num_classes=4)
    with pytest.raises(AttarError, match=r"A single class is chosen \(b\)"):
        open_folder(tmp_path, log, classes=("b",))


def test_a_choice_of_classes_mends_an_empty_one(tmp_path: Path, write_parquet: Callable, log: Log) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 2, 2, 0], ["a", "b", "c"])
    write_parquet(tmp_path / "val-0.parquet", [0, 2], ["a", "b", "c"])
    with pytest.raises(AttarError, match=r"no training image of the class 'b'; choose others with --data.classes"):
        open_folder(tmp_path, log)
    real = open_folder(tmp_path, log, classes=("a", "c"))
    assert real.train.labels.tolist() == [0, 1, 1, 0]
    write_parquet(tmp_path / "val-0.parquet", [1], ["a", "b", "c"])
    with pytest.raises(AttarError, match=r"has no validation images of these classes; add some"):
        open_folder(tmp_path, log, classes=("a", "c"))


def test_one_class_is_refused(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"only": 4})
    with pytest.raises(AttarError, match=r"has a single class \(only\); two or more are needed"):
        open_folder(tmp_path, log)
    with pytest.raises(AttarError, match=r"has a single class \(only\); two or more are needed"):
        survey(DataChoice(source=str(tmp_path)), log)


def test_the_fingerprint_knows_content_and_no_paths(tmp_path: Path, class_folders: Make, log: Log) -> None:
    one = class_folders(tmp_path / "one", {"a": 5, "b": 5})
    fingerprint = open_folder(one, log).fingerprint
    shutil.copytree(one, tmp_path / "two")
    two = tmp_path / "two"
    assert open_folder(two, log).fingerprint == fingerprint
    assert open_folder(two, log, seed=1).fingerprint != fingerprint
    assert open_folder(two, log, classes=("a", "b")).fingerprint == fingerprint
    with (two / "a" / "a_3.png").open("ab") as file:
        file.write(b"x")
    assert open_folder(two, log).fingerprint != fingerprint
    picture = (two / "a" / "a_3.png").read_bytes()[:-1]
    (two / "a" / "a_3.png").write_bytes(picture)
    assert open_folder(two, log).fingerprint == fingerprint
    (two / "a" / "a_3.png").write_bytes(picture[:-1] + bytes([picture[-1] ^ 1]))  # of the same size
    assert open_folder(two, log).fingerprint != fingerprint
    assert open_folder(two, log).former_fingerprint == open_folder(one, log).former_fingerprint
    shutil.rmtree(two)
    shutil.copytree(one, two)
    (two / "a").rename(two / "aa")
    assert open_folder(two, log).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar-10", "There is no dataset or folder named 'cifar-10'; did you mean cifar10"),
        ("uoft-cs/cifar10", "There is no folder uoft-cs/cifar10; for a dataset of the Hub write 'hf:uoft-cs/cifar10'."),
        ("/no/such/folder", "There is no folder /no/such/folder; check the path."),
        ("./data", "There is no folder data; check the path."),
    ],
)
def test_missing_sources(source: str, message: str, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttarError) as error:
        load(DataChoice(source=source), 0, log)
    assert str(error.value).startswith(message)


def test_a_file_is_no_folder(tmp_path: Path, log: Log) -> None:
    (tmp_path / "set.zip").write_bytes(b"")
    with pytest.raises(AttarError, match=r"set.zip is a file; name the folder that holds the dataset\."):
        open_folder(tmp_path / "set.zip", log)


def test_settings_can_be_chosen_without_the_validation_split(log: Log) -> None:
    usual, choosing = load(DataChoice(), 0, log), load(DataChoice(validate_on="train", holdout=0.25), 0, log)
    assert len(choosing.train) + len(choosing.val) == len(usual.train)
    assert 0.23 < len(choosing.val) / len(usual.train) < 0.27
    kept = {usual.train.image(index).tobytes() for index in range(len(usual.train))}
    assert all(choosing.val.image(index).tobytes() in kept for index in range(len(choosing.val)))
    assert usual.fingerprint != choosing.fingerprint


def test_settings_are_never_chosen_on_the_images_held_out_for_validation(
    tmp_path: Path, class_folders: Make, log: Log
) -> None:
    source = str(class_folders(tmp_path / "set", {"ant": 20, "bee": 20}))
    usual, choosing = (load(DataChoice(source=source, holdout=0.25, validate_on=on), 0, log) for on in ("val", "train"))
    parts = usual.train, usual.val, choosing.train, choosing.val
    assert [len(part) for part in parts] == [30, 10, 22, 8]
    shown, held, _, chosen_on = ({part.where(place) for place in range(len(part))} for part in parts)
    assert chosen_on < shown
    assert not chosen_on & held
