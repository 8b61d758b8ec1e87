import io
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import content, layout
from attar.data.choice import DataChoice
from attar.data.hub import HubRows
from attar.data.load import load
from attar.data.picture import Unreadable

datasets = pytest.importorskip("datasets")
BINARY, NUMBER = datasets.Value("binary"), datasets.Value("int64")


def saved(path: Path, encoded: Callable[..., bytes], splits: dict[str, list[int]], names: list[str] | None) -> None:
    """What ``save_to_disk`` writes for these labels."""
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"img": datasets.Image(), "label": label})
    made = {}
    for split, labels in splits.items():
        cells = [{"bytes": encoded(index), "path": f"{split}_{index}.png"} for index in range(len(labels))]
        made[split] = datasets.Dataset.from_dict({"img": cells, "label": labels}, features=features)
    datasets.DatasetDict(made).save_to_disk(path)


def test_saved_dict(tmp_path: Path, encoded: Callable[..., bytes], log: Log) -> None:
    saved(tmp_path / "set", encoded, {"train": [0, 1, 0, 1], "validation": [1, 0], "test": [0]}, ["ant", "bee"])
    found = layout.read(tmp_path / "set", log)
    assert found.classes == ("ant", "bee")
    assert found.train.labels.tolist() == [0, 1, 0, 1]
    assert found.val is not None
    assert found.val.labels.tolist() == [1, 0]
    assert np.array_equal(np.asarray(found.train.image(2)), np.asarray(Image.open(io.BytesIO(encoded(2)))))
    again = pickle.loads(pickle.dumps(found.val))  # as worker processes may receive it
    assert np.array_equal(np.asarray(again.image(1)), np.asarray(found.val.image(1)))
    assert found.val.where(1) == f"{tmp_path / 'set'} (validation) row 1"


def test_saved_without_a_split(tmp_path: Path, encoded: Callable[..., bytes], log: Log) -> None:
    saved(tmp_path / "set", encoded, {"train": [0, 1, 2, 0, 1, 2]}, None)
    found = layout.read(tmp_path / "set" / "train", log)
    assert found.classes == ("0", "1", "2")
    assert found.val is None


def test_identity_knows_content_but_not_the_place(tmp_path: Path, encoded: Callable[..., bytes], log: Log) -> None:
    saved(tmp_path / "a", encoded, {"train": [0, 1, 0]}, ["x", "y"])
    saved(tmp_path / "b", encoded, {"train": [0, 1, 0]}, ["x", "y"])
    saved(tmp_path / "c", lambda seed: encoded(seed, width=13), {"train": [0, 1, 0]}, ["x", "y"])
    a, b, c = (layout.read(tmp_path / name, log).train.identity() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("whole_bytes", [10**9, 0])
def test_other_contents_of_the_same_size_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", whole_bytes)

    def identity(second: bytes | None) -> str:
        columns = {"image": [b"one", second], "label": [0, 1]}
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(image=BINARY, label=NUMBER))
        return HubRows(rows, "here").identity()

    assert identity(b"two") == identity(b"two") != identity(b"TWO")
    assert identity(None) != identity(b"two")


def test_images_kept_in_files_of_their_own(tmp_path: Path, noise: Callable[..., Image.Image]) -> None:
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for index, path in enumerate(paths):
        noise(index).save(path)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [{"path": paths[0]}, {"path": paths[1]}, None], "label": [0, 1, 1]}
    train = HubRows(datasets.Dataset.from_dict(columns, features=features), "here")
    before = train.identity()
    (tmp_path / "elsewhere").mkdir()
    columns["image"][0] = {"path": str((tmp_path / "0.png").rename(tmp_path / "elsewhere" / "0.png"))}
    moved = datasets.Dataset.from_dict(columns, features=features)
    assert HubRows(moved, "here").identity() == before
    noise(7).save(tmp_path / "elsewhere" / "0.png")
    assert HubRows(moved, "here").identity() != before
    assert np.array_equal(np.asarray(train.image(1)), np.asarray(noise(1)))
    with pytest.raises(Unreadable, match="row 2 cannot be read as an image"):
        train.image(2)


def test_refusals(tmp_path: Path, encoded: Callable[..., bytes], log: Log) -> None:
    saved(tmp_path / "a", encoded, {"validation": [0, 1]}, ["x", "y"])
    with pytest.raises(AttarError, match="has no split 'train', only validation"):
        layout.read(tmp_path / "a", log)
    datasets.Dataset.from_dict({"image": [[1], [2]], "label": [0, 1]}).save_to_disk(tmp_path / "b")
    with pytest.raises(AttarError, match=r"column 'image' of .*b .*holds no encoded images; cast it"):
        layout.read(tmp_path / "b", log)
    datasets.Dataset.from_dict({"photo": [b"1"], "label": [0]}).save_to_disk(tmp_path / "c")
    with pytest.raises(AttarError, match="no column of images that attar knows: it has photo, label"):
        layout.read(tmp_path / "c", log)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(AttarError, match=r"d cannot be loaded \(.*\); save the dataset again\.$"):
        layout.read(tmp_path / "d", log)


def test_without_the_package(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(AttarError) as error:
        load(DataChoice(source="hf:org/name"), 0, log)
    assert str(error.value) == "'hf:org/name' needs the datasets package; install it with pip install 'attar[hub]'."


def test_hub_without_network(log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network is asked"))
    with pytest.raises(AttarError) as error:
        load(DataChoice(source="hf:nobody/no-such-dataset"), 0, log)
    assert str(error.value).startswith("HF_HUB_OFFLINE is set, and 'nobody/no-such-dataset' was not downloaded before;")
    assert str(error.value).endswith("or name a folder.")
    assert "\n" not in str(error.value)


def test_hub_dataset(tmp_path: Path, encoded: Callable, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "set", encoded, {"train": [0, 1] * 3, "test": [1, 0]}, ["ant", "bee"])
    asked = []

    def fetch(name: str, configuration: str | None) -> object:
        assert configuration is None
        asked.append(name)
        return datasets.load_from_disk(str(tmp_path / "set"))

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    real = load(DataChoice(source="hf:org/insects"), 0, log)
    assert asked == ["org/insects"]
    assert real.name == "org/insects"
    assert (len(real.train), len(real.val)) == (6, 2)
    assert real.train.where(0) == "hf:org/insects (train) row 0"
