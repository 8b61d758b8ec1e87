import io
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import layout, parquet
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.picture import Unreadable

Write = Callable[..., list[bytes]]


@pytest.mark.parametrize("inside", ["", "data"])
@pytest.mark.parametrize("val_name", ["val", "validation", "test"])
def test_hugging_face_layout(tmp_path: Path, write_parquet: Write, log: Log, inside: str, val_name: str) -> None:
    folder = tmp_path / inside
    names = ["ant", "bee", "cow"]
    first = write_parquet(folder / "train-00000-of-00002.parquet", [0, 1, 2, 0, 1], names)
    second = write_parquet(folder / "train-00001-of-00002.parquet", [2, 2], names, seed=40)
    write_parquet(folder / f"{val_name}-00000-of-00001.parquet", [2, 0], names, seed=80)
    found = layout.read(tmp_path, log)
    assert found.classes == ("ant", "bee", "cow")
    assert found.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 2]
    assert found.val is not None
    assert found.val.labels.tolist() == [2, 0]
    for index, data in enumerate(first + second):  # across row groups and files
        assert np.array_equal(np.asarray(found.train.image(index)), np.asarray(Image.open(io.BytesIO(data))))
    assert found.train.where(6) == f"{folder / 'train-00001-of-00002.parquet'} row 1"


def test_class_names_that_are_no_text(tmp_path: Path, encoded: Callable[..., bytes], log: Log) -> None:
    def opened(labels: pa.Array, metadata: dict[str, str]) -> object:
        images = [{"bytes": encoded(n)} for n in range(4)]
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "train-0.parquet")
        return load(DataChoice(source=str(tmp_path)), 0, log)

    features = {"info": {"features": {"label": {"names": ["\ud800", "b"]}}}}
    with pytest.raises(AttarError, match=r"has the class name \\ud800, which is no Unicode text; write another name"):
        opened(pa.array([0, 1, 0, 1]), {"huggingface": json.dumps(features)})
    offsets, data = pa.py_buffer(np.arange(5, dtype=np.int32)), pa.py_buffer(b"a\xffa\xff")
    with pytest.raises(AttarError, match=r"label column of .*train-0.parquet holds bytes that are no UTF-8 text"):
        opened(pa.StringArray.from_buffers(4, offsets, data), {})


@pytest.mark.parametrize("columns", [("img", "labels"), ("image", "fine_label")])
def test_raw_bytes_other_columns_no_names(
    tmp_path: Path, write_parquet: Write, log: Log, columns: tuple[str, str]
) -> None:
    data = write_parquet(tmp_path / "train.parquet", [0, 2, 1, 1], columns=columns, raw=True)
    found = layout.read(tmp_path, log)
    assert found.classes == ("0", "1", "2")
    assert found.val is None
    assert np.array_equal(np.asarray(found.train.image(3)), np.asarray(Image.open(io.BytesIO(data[3]))))


def test_words_beside_the_files(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1], ["n01443537", "n01629819"])
    (tmp_path / "words.txt").write_text("n01443537\tgold fish, other\n")
    found = layout.read(tmp_path, log)
    assert found.titles == {"n01443537": "gold fish"}
    assert found.licence.startswith("ImageNet terms")


def test_a_small_cache_reads_again(tmp_path: Path, write_parquet: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_parquet(tmp_path / "train-0.parquet", [0, 1] * 6)
    rows = parquet.Rows([tmp_path / "train-0.parquet"])
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    for index in [11, 0, 5, 11, 3, 0]:
        assert np.array_equal(np.asarray(rows.image(index)), np.asarray(Image.open(io.BytesIO(data[index]))))
    assert len(rows._cache._held) == 1
    again = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(np.asarray(again.image(7)), np.asarray(rows.image(7)))


def test_identity_knows_content_but_not_the_place(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "a" / "train-0.parquet", [0, 1, 0])
    write_parquet(tmp_path / "b" / "train-0.parquet", [0, 1, 0])
    write_parquet(tmp_path / "c" / "train-0.parquet", [0, 1, 1])
    a, b, c = (parquet.Rows([tmp_path / name / "train-0.parquet"]).identity() for name in "abc")
    assert a == b != c


def test_a_row_without_bytes(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([None, b""], pa.binary()), "label": [0, 1]})
    pq.write_table(table, tmp_path / "train-0.parquet")
    rows = parquet.Rows([tmp_path / "train-0.parquet"])
    with pytest.raises(Unreadable, match=r"train-0.parquet row 0 cannot be read .*\(the row holds no bytes\)"):
        rows.image(0)
    with pytest.raises(Unreadable, match="row 1 cannot"):
        rows.image(1)


def test_refuses_unknown_columns(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [0, 1], columns=("photo", "label"))
    with pytest.raises(AttarError, match="no column of images that attar knows: it has photo, label; rename"):
        layout.read(tmp_path, log)
    write_parquet(path, [0, 1], columns=("image", "kind"))
    with pytest.raises(AttarError, match="no column of labels that attar knows: it has image, kind; rename"):
        layout.read(tmp_path, log)


def test_labels_may_be_called_class_id_or_class_and_classes_go_by_name(
    tmp_path: Path, write_parquet: Write, log: Log
) -> None:
    path = tmp_path / "train-0.parquet"
    for column in ("class_id", "class"):
        write_parquet(path, [1, 0, 2], columns=("image", column))
        found = layout.read(tmp_path, log)
        assert (found.classes, found.train.labels.tolist()) == (("0", "1", "2"), [1, 0, 2])
    pq.write_table(pa.table({"image": [b"", b"", b""], "class": ["cat", "ant", "cat"]}), path)
    pq.write_table(pa.table({"image": [b""], "class": ["bee"]}), tmp_path / "train-1.parquet")
    found = layout.read(tmp_path, log)
    assert (found.classes, found.train.labels.tolist()) == (("ant", "bee", "cat"), [2, 0, 2, 1])
    pq.write_table(pa.table({"image": [b"", b""], "class": ["cat", None]}), path)
    with pytest.raises(AttarError, match="1 of 3 training images of .* have no label"):
        layout.read(tmp_path, log)


def test_an_image_is_had_as_its_file(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    encoded = write_parquet(tmp_path / "train-0.parquet", [0, 1, 0, 1])
    rows = layout.read(tmp_path, log).train
    assert [rows.encoded(index) for index in range(4)] == encoded
    assert rows.select(np.array([3, 1])).encoded(0) == encoded[3]


def test_refuses_labels_that_are_no_classes(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    path = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"image": [b"", b""], "label": [0.5, 1.0]}), path)
    with pytest.raises(AttarError, match=r"label column of .* holds double values; attar needs class numbers or names"):
        layout.read(tmp_path, log)
    pq.write_table(pa.table({"image": [b"", b""], "label": [None, 1]}), path)
    with pytest.raises(AttarError, match="1 of 2 training images of .* have no label"):
        layout.read(tmp_path, log)
    write_parquet(path, [0, -1, 1], ["a", "b"])
    with pytest.raises(AttarError, match=r"1 of 3 training images of .* have no label \(.*, or -1\); leave these rows"):
        layout.read(tmp_path, log)
    write_parquet(path, [0, 1, 2], ["a", "b"])
    with pytest.raises(AttarError, match="has the label 2, but its metadata name the classes 0 to 1"):
        layout.read(tmp_path, log)
    pq.write_table(pa.table({"image": [b"", b""], "label": pa.array([1, 2**64 - 1], pa.uint64())}), path)
    with pytest.raises(AttarError, match=r"numbers beyond 2\^63; number the classes from 0"):
        layout.read(tmp_path, log)


@pytest.mark.parametrize("secret", ["minus one", "empty", "no column"])
def test_a_split_without_labels_is_left_out(
    tmp_path: Path, write_parquet: Write, log: Log, events: Callable, secret: str
) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 1], ["a", "b"])
    held = {"minus one": {"label": [-1, -1]}, "empty": {"label": pa.array([None, None], pa.int64())}, "no column": {}}
    pq.write_table(pa.table({"image": [b"", b""], **held[secret]}), tmp_path / "test-0.parquet")
    assert layout.read(tmp_path, log).val is None
    assert "test-0.parquet are not given, so it is left out" in events("warning")[0]["text"]
    write_parquet(tmp_path / "Validation-0.parquet", [1, 0], ["a", "b"])
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert found.val.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("train", "val", "classes", "labels"),
    [
        ([101, 1_700_000_000, 205], [205, 101], ("101", "205", "1700000000"), ([0, 2, 1], [1, 0])),
        ([5, 3], [7], ("3", "5", "7"), ([1, 0], [2])),
        ([2.0, 0.0, 1.0], [1.0], ("0", "1", "2"), ([2, 0, 1], [1])),
        (["b", "c", "a"], ["c", "b"], ("a", "b", "c"), ([1, 2, 0], [2, 1])),
        ([True, False], [True], ("false", "true"), ([1, 0], [1])),
        (pa.array(["y", "x"]).dictionary_encode(), pa.array(["y"]).dictionary_encode(), ("x", "y"), ([1, 0], [1])),
    ],
)
def test_labels_of_many_kinds(
    tmp_path: Path, log: Log, train: list, val: list, classes: tuple[str, ...], labels: tuple[list[int], list[int]]
) -> None:
    for name, rows in (("train", train), ("val", val)):
        pq.write_table(pa.table({"image": [b""] * len(rows), "label": rows}), tmp_path / f"{name}-0.parquet")
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert (found.classes, found.train.labels.tolist(), found.val.labels.tolist()) == (classes, *labels)


def test_refuses_labels_that_differ_in_kind_or_are_only_in_val(tmp_path: Path, log: Log) -> None:
    pq.write_table(pa.table({"image": [b"", b""], "label": ["a", "b"]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"image": [b""], "label": ["c"]}), tmp_path / "val-0.parquet")
    with pytest.raises(AttarError, match="has validation images of 'c' and no training images; remove them"):
        layout.read(tmp_path, log)
    pq.write_table(pa.table({"image": [b""], "label": [0]}), tmp_path / "val-0.parquet")
    with pytest.raises(AttarError, match="One split of .* has class numbers and the other names as labels"):
        layout.read(tmp_path, log)
    (tmp_path / "val-0.parquet").rename(tmp_path / "train-1.parquet")
    with pytest.raises(AttarError, match=r"train-1.parquet holds numbers and that of .*train-0.parquet names"):
        layout.read(tmp_path, log)


def test_refuses_other_names_in_val(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "val-0.parquet", [0, 1], ["a", "c"])
    with pytest.raises(AttarError, match="name their classes differently: 'b' against 'c' is the first"):
        layout.read(tmp_path, log)


def test_refuses_files_without_training_or_content(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    write_parquet(tmp_path / "val-0000.parquet", [0, 1])
    with pytest.raises(AttarError, match=rf"{tmp_path} has no training files among its Parquet files"):
        layout.read(tmp_path, log)
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [0, 1])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AttarError, match=r"train-0.parquet cannot be read as Parquet \(.*\); fetch it again\.$"):
        layout.read(tmp_path, log)


@pytest.mark.parametrize(
    ("image", "count"), [(b"\0" * 3_000_000, 1), (None, 300_000)], ids=["one large cell", "many rows"]
)
def test_small_files_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes | None, count: int
) -> None:
    monkeypatch.setattr(parquet, "CACHE_BYTES", 2_000_000)
    path = tmp_path / "train-0.parquet"
    images = pa.array([image], pa.binary()) if image else pa.nulls(count, pa.binary())
    pq.write_table(pa.table({"image": images, "label": pa.array([0] * count)}), path, compression="zstd")
    with pytest.raises(AttarError, match=rf"{path} has [\d,]+ bytes, and says that it holds {count:,} rows of"):
        parquet.Rows([path])


def test_any_damage_is_a_sentence_or_does_not_matter(tmp_path: Path, write_parquet: Write, log: Log) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [0, 1, 0, 1], ["ant", "bee"])
    whole, chance, refused = path.read_bytes(), random.Random(5), list[str]()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8])):
            content[chance.randrange(len(content))] = chance.choice([0, 127, 128, 255])
        path.write_bytes(content)
        try:
            split = layout.read(tmp_path, log).train
            for index in range(min(4, len(split.labels))):
                split.image(index)
        except (AttarError, Unreadable) as error:
            refused.append(str(error))
    assert 20 < len(refused) < 60
    assert all(str(tmp_path) in words for words in refused)
