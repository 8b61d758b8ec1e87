import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import layout

Make = Callable[..., Path]


def tiny(path: Path, class_folders: Make, noise: Callable[..., Image.Image]) -> Path:
    """The published layout of Tiny-ImageNet with two classes."""
    class_folders(path / "train", {"n01443537": 3, "n01629819": 2}, inner="images")
    (path / "val" / "images").mkdir(parents=True)
    for index in range(3):
        noise(50 + index, 64, 64).save(path / "val" / "images" / f"val_{index}.JPEG")
    rows = [("val_2.JPEG", "n01443537"), ("val_0.JPEG", "n01629819"), ("val_1.JPEG", "n01443537")]
    lines = "".join(f"{file}\t{name}\t0\t32\t44\t62\n" for file, name in rows)
    (path / "val" / "val_annotations.txt").write_text(lines)
    (path / "wnids.txt").write_text("n01629819\nn01443537\n")
    (path / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn01629819\tsalamander\n"
    )
    return path


def test_train_and_val(tmp_path: Path, class_folders: Make, noise: Callable[..., Image.Image], log: Log) -> None:
    class_folders(tmp_path / "train", {"dog": 2, "cat": 3})
    class_folders(tmp_path / "val", {"cat": 1, "dog": 2}, seed=77)
    found = layout.read(tmp_path, log)
    assert found.classes == ("cat", "dog")
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.train.labels.dtype == np.int64
    assert found.val is not None
    assert found.val.labels.tolist() == [0, 1, 1]
    assert found.train.where(3) == str(tmp_path / "train" / "dog" / "dog_0.png")
    assert np.array_equal(np.asarray(found.train.image(4)), np.asarray(noise(1)))
    again = pickle.loads(pickle.dumps(found.train.select(np.array([4]))))  # as worker processes may receive it
    assert np.array_equal(np.asarray(again.image(0)), np.asarray(noise(1)))
    assert found.licence == "unknown"
    assert found.titles == {}


@pytest.mark.parametrize(
    "names", [("train", "validation"), ("train", "test"), ("imagenet21k_train", "imagenet21k_val")]
)
def test_other_names_of_the_split(tmp_path: Path, class_folders: Make, log: Log, names: tuple[str, str]) -> None:
    for name in names:
        class_folders(tmp_path / name, {"a": 1, "b": 1})
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert names[1] in found.val.where(0)


def test_val_is_preferred_to_test(tmp_path: Path, class_folders: Make, log: Log) -> None:
    for name in ("train", "test", "val"):
        class_folders(tmp_path / name, {"a": 1, "b": 1})
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert found.val.where(0) == str(tmp_path / "val" / "a" / "a_0.png")


@pytest.mark.parametrize("inside", ["", "train"])
def test_no_split(tmp_path: Path, class_folders: Make, log: Log, inside: str) -> None:
    class_folders(tmp_path / inside, {"a": 2, "b": 2})
    found = layout.read(tmp_path, log)
    assert found.classes == ("a", "b")
    assert found.val is None


def test_extensions_and_strangers(tmp_path: Path, class_folders: Make, log: Log, noise: Callable) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    for index, ending in enumerate(["JPG", "jpeg", "WebP", "bmp", "PPM", "tif", "TIFF", "gif"]):
        noise(index).save(tmp_path / "a" / f"z{index}.{ending}")
    Image.new("L", (4, 4)).save(tmp_path / "a" / "z9.pgm")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._a_0.png").write_bytes(b"an archiver's")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    found = layout.read(tmp_path, log)
    assert found.classes == ("a", "b")
    assert found.train.labels.tolist() == [0] * 10 + [1]
    assert all(found.train.image(index).mode == "RGB" for index in range(11))


def test_names_beyond_ascii(tmp_path: Path, class_folders: Make, log: Log, noise: Callable) -> None:
    class_folders(tmp_path, {"äpfel": 1, "b": 1})
    noise(5).save(tmp_path / "b" / "été 1.png")
    found = layout.read(tmp_path, log)
    assert found.train.where(1).endswith("été 1.png")
    assert found.train.image(1).size == (12, 10)


def test_tiny_imagenet_as_published(tmp_path: Path, class_folders: Make, noise: Callable, log: Log) -> None:
    found = layout.read(tiny(tmp_path, class_folders, noise), log)
    assert found.classes == ("n01443537", "n01629819")
    assert found.titles == {"n01443537": "goldfish", "n01629819": "salamander"}
    assert found.licence == "ImageNet terms: non-commercial research"
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.train.where(0) == str(tmp_path / "train" / "n01443537" / "images" / "n01443537_0.png")
    assert found.val is not None
    assert found.val.labels.tolist() == [1, 0, 0]
    assert found.val.where(1).endswith("val_1.JPEG")
    assert found.val.image(0).size == (64, 64)


def test_tiny_imagenet_with_sorted_val(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"n01443537": 1, "n01629819": 2}, inner="images")
    class_folders(tmp_path / "val", {"n01443537": 1, "n01629819": 1})
    found = layout.read(tmp_path, log)
    assert found.train.labels.tolist() == [0, 1, 1]
    assert found.titles == {"n01443537": "goldfish", "n01629819": "European fire salamander"}


def test_tiny_imagenet_cut_short(tmp_path: Path, class_folders: Make, noise: Callable, log: Log) -> None:
    path = tiny(tmp_path, class_folders, noise)
    annotations = path / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text.replace("n01629819", "n09999999"))
    with pytest.raises(AttarError, match="has the class 'n09999999', which train lacks"):
        layout.read(path, log)
    annotations.write_text(text)
    (path / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(AttarError, match=r"val_1\.JPEG is missing, and .*val_annotations\.txt lists it"):
        layout.read(path, log)


def test_refuses_an_empty_class_folder(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 0})
    with pytest.raises(AttarError) as error:
        layout.read(tmp_path, log)
    assert str(error.value) == f"The class folder {tmp_path / 'train' / 'b'} holds no images; fill or remove it."


def test_refuses_other_classes_in_val(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    class_folders(tmp_path / "val", {"a": 1, "c": 1})
    with pytest.raises(AttarError, match=rf"'b' is the first that {tmp_path / 'val'} lacks"):
        layout.read(tmp_path, log)
    class_folders(tmp_path / "val", {"aa": 1, "b": 1})
    with pytest.raises(AttarError, match=rf"'aa' is the first that {tmp_path / 'train'} lacks"):
        layout.read(tmp_path, log)


def test_refuses_a_flat_val(tmp_path: Path, class_folders: Make, noise: Callable, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1})
    (tmp_path / "val").mkdir()
    noise(0).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(AttarError, match=r"val has no class folders; sort its images into one folder per class"):
        layout.read(tmp_path, log)


def test_refuses_what_is_no_dataset(tmp_path: Path, noise: Callable, log: Log) -> None:
    noise(0).save(tmp_path / "a.png")
    with pytest.raises(AttarError, match=rf"^{tmp_path} holds no dataset that attar knows; it should have train/"):
        layout.read(tmp_path, log)
    (tmp_path / "train").mkdir()
    with pytest.raises(AttarError, match="train has no class folders"):
        layout.read(tmp_path, log)
