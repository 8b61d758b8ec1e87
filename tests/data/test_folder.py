import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data import content, folder, layout

Make = Callable[..., Path]
Events = Callable[[str], list[dict]]


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


def test_says_what_is_wrong_with_a_class_folder_without_images(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 0, "c": 0})
    for index in range(3):
        (tmp_path / "train" / "c" / f"{index}.HEIC").write_bytes(b"")
    faults, path = layout.read(tmp_path, log).faults, tmp_path / "train"
    assert list(faults) == ["b", "c"]
    assert faults["b"].startswith(f"The class folder {path / 'b'} holds no images; add some, remove it, or choose")
    assert f"{path / 'c'} holds no images that attar reads, only 3 .heic; convert them to .jpg" in faults["c"]


def test_refuses_other_classes_in_val(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    class_folders(tmp_path / "val", {"a": 1, "aa": 1, "b": 1})
    with pytest.raises(AttarError, match=r"'aa' is the first that .*train lacks; name .*, or remove .*val/aa"):
        layout.read(tmp_path, log)


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_class_may_lack_validation_images(tmp_path: Path, class_folders: Make, log: Log, folder: str) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 1, "c": 1})
    class_folders(tmp_path / "val", {"a": 1, "c": 2} | ({"b": 0, "zz": 0} if folder == "empty" else {}))
    found = layout.read(tmp_path, log)
    assert found.classes == ("a", "b", "c")
    assert found.val is not None
    assert found.val.labels.tolist() == [0, 2, 2]


def test_names_of_classes_are_compared_as_they_read(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"cafe\u0301": 1, "tea": 1})  # as a Mac writes it
    class_folders(tmp_path / "val", {"caf\u00e9": 2, "tea": 1})
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert found.val.labels.tolist() == [0, 0, 1]


def test_refuses_a_flat_val(tmp_path: Path, class_folders: Make, noise: Callable, log: Log) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1})
    (tmp_path / "val").mkdir()
    noise(0).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(AttarError, match=r"val has no class folders; sort its images into one .* or move it elsewhere"):
        layout.read(tmp_path, log)


def test_a_flat_test_set_is_left_out(
    tmp_path: Path, class_folders: Make, noise: Callable, log: Log, events: Events
) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1})
    (tmp_path / "test").mkdir()
    noise(0).save(tmp_path / "test" / "1.png")
    assert layout.read(tmp_path, log).val is None
    assert "test has no class folders, so its images have no labels and are left out" in events("warning")[0]["text"]
    class_folders(tmp_path / "valid", {"a": 1, "b": 2})
    found = layout.read(tmp_path, log)
    assert found.val is not None
    assert found.val.labels.tolist() == [0, 1, 1]


def test_refuses_what_is_no_dataset(tmp_path: Path, noise: Callable, log: Log) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(AttarError, match=r"set holds no dataset that attar knows; it should have train/"):
        layout.read(tmp_path / "set", log)
    noise(0).save(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "labels.csv").write_text("file,label\n")
    with pytest.raises(AttarError, match=r"images without class folders; .* by the labels in labels\.csv, see"):
        layout.read(tmp_path / "set", log)
    (tmp_path / "set" / "train").mkdir()
    with pytest.raises(AttarError, match="train has no class folders"):
        layout.read(tmp_path / "set", log)


@pytest.mark.parametrize(("train", "val"), [("Train", "VAL"), ("Training", "Testing"), ("train_images", "val_images")])
def test_splits_are_known_in_any_spelling(
    tmp_path: Path, class_folders: Make, log: Log, train: str, val: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path / train, {"a": 2, "b": 1})
    class_folders(tmp_path / val, {"a": 1, "b": 1})
    class_folders(tmp_path / "extra", {"a": 1})
    found = layout.read(tmp_path, Log())
    assert found.val is not None
    assert (found.train.labels.tolist(), found.val.labels.tolist()) == ([0, 0, 1], [0, 1])
    assert f"attar reads {train} and {val}, and not extra" in capsys.readouterr().err


def test_splits_are_not_taken_for_classes(tmp_path: Path, noise: Callable, log: Log) -> None:
    for name in ("train_images", "test_images"):
        (tmp_path / name).mkdir()
        noise(0).save(tmp_path / name / "1.jpg")
    (tmp_path / "train.csv").write_text("image_id,label\n")
    with pytest.raises(AttarError, match=r"train_images holds images without class folders, as does test_images; sort"):
        layout.read(tmp_path, log)
    (tmp_path / "train_images").rename(tmp_path / "val_images")
    with pytest.raises(AttarError, match="has val_images and test_images and no folder train/"):
        layout.read(tmp_path, log)


def test_a_class_may_be_called_train(tmp_path: Path, class_folders: Make, log: Log, events: Events) -> None:
    class_folders(tmp_path / "set", {"bus": 1, "train": 2})
    found = layout.read(tmp_path / "set", log)
    assert (found.classes, found.train.labels.tolist()) == (("bus", "train"), [0, 1, 1])
    assert "so train is taken as a class" in events("warning")[0]["text"]


@pytest.mark.parametrize("inside", ["archive", "archive/Pets", "archive/train/train"])
def test_folders_that_archives_add_are_passed(tmp_path: Path, class_folders: Make, log: Log, inside: str) -> None:
    class_folders(tmp_path / inside, {"a": 2, "b": 1})
    found = layout.read(tmp_path, log)
    assert (found.classes, found.train.labels.tolist()) == (("a", "b"), [0, 0, 1])


@pytest.mark.parametrize(("names", "told"), [("0 1 10 2", True), ("00 01 02 10", False), ("0 1 2", False)])
def test_numbers_in_the_order_of_text_are_said(
    tmp_path: Path, class_folders: Make, capsys: pytest.CaptureFixture[str], names: str, told: bool
) -> None:
    class_folders(tmp_path, dict.fromkeys(names.split()[::-1], 1))
    assert layout.read(tmp_path, Log()).classes == tuple(names.split())
    said = capsys.readouterr().err
    assert said == (
        "data      the class folders are numbers, in the order of text, as in torchvision: 0, 1, 10, 2, ...\n" * told
    )


def test_results_among_the_classes_are_no_class(tmp_path: Path, class_folders: Make, log: Log, noise: Callable) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    before = layout.read(tmp_path, log)
    for run in (tmp_path / "runs" / "one", tmp_path / "a" / "out"):
        (run / "squeeze").mkdir(parents=True)
        (run / "squeeze" / "plan.json").write_text("{}")
        (run / "report").mkdir()
        noise(9).save(run / "report" / "grid.png")
    found = layout.read(tmp_path, log)
    assert found.classes == ("a", "b")
    assert found.train.identity() == before.train.identity()


def test_splits_inside_the_classes_are_splits(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 2}, inner="Train")
    class_folders(tmp_path, {"cat": 1, "dog": 2}, inner="Test", seed=50)
    found = layout.read(tmp_path, log)
    assert found.classes == ("cat", "dog")
    assert found.val is not None
    assert (found.train.labels.tolist(), found.val.labels.tolist()) == ([0, 0, 0, 1, 1], [0, 1, 1])
    assert "Test" in found.val.where(0)


def test_pictures_beside_papers_are_found(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "images", {"cat": 3, "dog": 2})
    (tmp_path / "attributes").mkdir()
    (tmp_path / "attributes" / "certainties.txt").write_text("1 sure")
    assert layout.read(tmp_path, log).classes == ("cat", "dog")
    (tmp_path / "attributes" / "certainties.txt").unlink()  # a class that nobody has filled yet
    assert layout.read(tmp_path, log).classes == ("attributes", "images")


@pytest.mark.parametrize("split", ["", "train"])
def test_domains_are_refused_with_what_to_do(tmp_path: Path, class_folders: Make, log: Log, split: str) -> None:
    for place, domain in enumerate(("art", "photo")):
        class_folders(
            tmp_path / "pacs" / domain / split, dict.fromkeys(("dog", "elephant", "house"), 2), seed=9 * place
        )
        class_folders(tmp_path / "pacs" / domain / ("val" if split else ""), {"dog": 1}, seed=99)
    with pytest.raises(AttarError) as error:
        layout.read(tmp_path, log)
    held = "splits" if split else "3 class folders (dog, elephant, ...)"
    sentence = (
        f"{tmp_path / 'pacs'} holds 2 folders (art, photo) with the same {held}, so they are domains and not classes"
    )
    assert str(error.value).startswith(sentence)
    assert f"name one of them: {tmp_path / 'pacs' / 'art'}" in str(error.value)
    assert layout.read(tmp_path, log, are_classes=True).classes == ("art", "photo")
    assert len(layout.read(tmp_path / "pacs" / "photo", log).classes) == 3


def test_classes_that_are_alike_inside_are_classes(tmp_path: Path, class_folders: Make, log: Log) -> None:
    for place, name in enumerate(("cat", "dog", "owl")):
        class_folders(tmp_path / name, {"day": 2, "night": 1}, seed=9 * place)
    assert layout.read(tmp_path, log).classes == ("cat", "dog", "owl")


def test_what_many_files_hold_is_remembered(
    tmp_path: Path, class_folders: Make, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "REMEMBERED_FILES", 4)
    path = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    read: list[int] = []
    real = content.of_many
    monkeypatch.setattr(content, "of_many", lambda *given: read.append(1) or real(*given))

    def identity() -> str:
        found = folder.read(path, log)
        assert found is not None
        return found.train.identity()

    before = identity()
    assert (identity(), len(read)) == (before, 1)
    changed = path / "b" / "b_1.png"
    times = changed.stat()
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and cp -p leave it
    assert identity() != before
    assert len(read) == 2
    data[-1] ^= 1
    changed.write_bytes(data)
    kept = next((tmp_path / "cache" / "attar" / "contents").iterdir())
    kept.write_text(kept.read_text().replace("a", "b"))  # damaged
    assert identity() == before
