import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import named, titles
from attar.data.choice import DataChoice
from attar.data.load import load

ANIMALS = [f"animal{index}" for index in range(10)]


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10 in torchvision's format with 4 images a batch; returns the first batch's rows."""
    rows = np.random.default_rng(0).integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    names = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    sums = [
        [name, write(folder / name, {"data": rows[index], "labels": [index, index + 1, 8, 9]})]
        for index, name in enumerate(names)
    ]
    meta = write(folder / "batches.meta", {"label_names": ANIMALS})
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return rows[0]


def write(path: Path, content: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_available_names_every_dataset() -> None:
    lines = named.available()
    assert list(lines) == [
        *("digits", "cifar10", "cifar100", "tiny-imagenet", "imagenet-1k", "imagenet-21k-p"),
        *("PATH", "'SHARDS/train-{000..146}.tar'", "hf:ORG/NAME"),
    ]
    assert all(line and "\n" not in line for line in lines.values())


def test_digits(log: Log) -> None:
    real = load(DataChoice(), 7, log)
    assert real.name == "digits"
    assert real.classes == tuple("0123456789")
    assert real.licence == "CC BY 4.0 (UCI ML digits)"
    assert (len(real.train), len(real.val)) == (1438, 359)
    values, labels = load_digits(return_X_y=True)
    picture = np.asarray(real.train.image(0))
    index = int(real.train.where(0).removeprefix("digits image "))
    assert picture.shape == (8, 8, 3)
    assert np.array_equal(picture[..., 1], np.round(values[index].reshape(8, 8) / 16 * 255))
    assert real.train.labels[0] == labels[index]


def test_digits_are_those_of_scikit_learn_wherever_it_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = named._digit_arrays()
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda name: None)
    by_package = named._digit_arrays.__wrapped__()
    for one, other in zip(by_file, by_package, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_digits_split_is_the_same_for_every_seed_and_holdout(log: Log) -> None:
    one, two = load(DataChoice(), 0, log), load(DataChoice(holdout=0.5), 1, log)
    assert one.fingerprint == two.fingerprint
    assert [one.val.where(index) for index in range(5)] == [two.val.where(index) for index in range(5)]


def test_cifar10(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_cifar10(tmp_path / "cifar-10-batches-py", monkeypatch)
    real = load(DataChoice(source="cifar10", root=str(tmp_path), classes=("animal0", "animal8", "animal5")), 0, log)
    assert real.classes == ("animal0", "animal5", "animal8")
    assert real.train.labels.tolist() == [0, 2, 2, 2, 2, 1, 2]
    assert real.val.labels.tolist() == [1, 2]
    assert np.array_equal(np.asarray(real.train.image(0)), first[0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert real.train.where(0) == "cifar10 train image 0"


def test_cifar10_damaged(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder, monkeypatch)
    (folder / "test_batch").write_bytes(b"half")
    with pytest.raises(AttarError) as error:
        load(DataChoice(source="cifar10", root=str(tmp_path)), 0, log)
    assert str(error.value) == (
        f"{folder} is incomplete or damaged; extract cifar-10-python.tar.gz of cifar10 there again."
    )


def test_cifar100_in_the_data_folder(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar100" / "cifar-100-python"
    fine = list(range(100))
    rows = np.zeros((100, 3072), np.uint8)
    train = write(folder / "train", {"data": rows, "fine_labels": fine})
    test = write(folder / "test", {"data": rows[:2], "fine_labels": fine[:2]})
    meta = write(folder / "meta", {"fine_label_names": [f"c{index:02}" for index in fine]})
    monkeypatch.setattr(CIFAR100, "train_list", [["train", train]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", test]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": meta})
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))
    real = load(DataChoice(source="cifar100", num_classes=3), 0, log)
    assert real.classes == ("c00", "c01", "c02")
    assert real.train.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("tiny-imagenet", "train or train-*.parquet or data/train-*.parquet or *train*.tar"),
        ("imagenet-21k-p", "train or imagenet21k_train or train-*.parquet or data/train-*.parquet or *train*.tar"),
    ],
)
def test_refuses_what_is_not_there(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path / "sets"))
    with pytest.raises(AttarError) as error:
        load(DataChoice(source=name), 0, log)
    assert str(error.value).startswith(f"{name} is not in {tmp_path / 'sets'}/{named.KNOWN[name].folders[0]} or ")
    assert f"put a folder with {expected} there, or name it with --data.root." in str(error.value)
    monkeypatch.delenv("ATTAR_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttarError, match=rf"^{name} is not in data/{name}"):
        load(DataChoice(source=name), 0, log)
    with pytest.raises(AttarError, match=rf"^{name} is not in {tmp_path}/x or"):
        load(DataChoice(source=name, root=f"{tmp_path}/x"), 0, log)


def test_imagenet_by_name(tmp_path: Path, log: Log, class_folders: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"n01440764": 2, "n01443537": 2}
    class_folders(tmp_path / "imagenet" / "train", counts)
    class_folders(tmp_path / "imagenet" / "val", counts)
    with pytest.raises(AttarError, match=r"imagenet has 2 classes and imagenet-1k has 1000; finish extracting it"):
        load(DataChoice(source="imagenet-1k", root=str(tmp_path)), 0, log)
    monkeypatch.setitem(named.KNOWN, "imagenet-1k", named.Named("two", 2, ("imagenet",), ("train",)))
    real = load(DataChoice(source="imagenet-1k", root=str(tmp_path)), 0, log)
    assert real.classes == tuple(counts)
    assert real.titles == {"n01440764": "tench", "n01443537": "goldfish"}
    assert real.licence == "ImageNet terms: non-commercial research"


def test_21k_in_its_released_folders(
    tmp_path: Path, log: Log, class_folders: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("imagenet21k_train", "imagenet21k_val"):
        class_folders(tmp_path / split, {"n01440764": 1, "n01443537": 1})
    known = named.KNOWN["imagenet-21k-p"]
    monkeypatch.setitem(named.KNOWN, "imagenet-21k-p", named.Named("two", 2, known.folders, known.holds))
    assert len(load(DataChoice(source="imagenet-21k-p", root=str(tmp_path)), 0, log).val) == 2


def test_numbered_classes_get_their_wordnet_ids(
    tmp_path: Path, log: Log, write_parquet: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = titles.wordnet_ids("imagenet-21k-p")
    assert (len(ids), len(set(ids)), ids[:2], ids[-1]) == (10450, 10450, ("n00005787", "n00006484"), ids[-1])
    assert titles.wordnet_ids("imagenet-1k")[:2] == ("n01440764", "n01443537")
    monkeypatch.setattr(named, "wordnet_ids", lambda _: ("n01440764", "n01443537"))
    known = named.KNOWN["imagenet-21k-p"]
    monkeypatch.setitem(named.KNOWN, "imagenet-21k-p", named.Named("two", 2, known.folders, known.holds))
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 0, 1])
    real = load(DataChoice(source="imagenet-21k-p", root=str(tmp_path)), 0, log)
    assert real.classes == ("n01440764", "n01443537")
    assert real.titles == {"n01440764": "tench", "n01443537": "goldfish"}
