"""What a short look at a dataset finds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.picture import prepare
from attar.data.survey import SAMPLED, survey
from attar.recipes.network_cost import row_bytes
from attar.store import images

Make = Callable[..., Path]


def test_classes_counts_and_sizes(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 2}, width=20, height=12)
    found = survey(DataChoice(source=str(tmp_path)), log)
    assert (found.classes, found.counts, found.num_val) == (("cat", "dog"), (3, 2), None)
    assert found.sizes == ((20, 12),) * 5
    assert not found.grey


def test_the_split_and_the_chosen_classes_count(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "train", {"cat": 3, "dog": 2, "owl": 4})
    class_folders(tmp_path / "val", {"cat": 1, "dog": 1, "owl": 5}, seed=50)
    found = survey(DataChoice(source=str(tmp_path), classes=("owl", "cat")), log)
    assert (found.classes, found.counts, found.num_val) == (("cat", "owl"), (3, 4), 6)


def test_grey_pictures_of_any_mode(tmp_path: Path, log: Log) -> None:
    for name, mode in (("a", "L"), ("b", "RGB")):
        (tmp_path / name).mkdir()
        Image.linear_gradient("L").convert(mode).save(tmp_path / name / "1.png")
    choice = DataChoice(source=str(tmp_path))
    assert survey(choice, log).grey
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "b" / "2.png")
    assert not survey(choice, log).grey


def test_only_some_pictures_of_a_large_set_are_looked_at(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"cat": 200, "dog": 120}, width=4, height=4)
    found = survey(DataChoice(source=str(tmp_path)), log)
    assert len(found.sizes) == SAMPLED < sum(found.counts) == 320


def test_bytes_at_a_size_are_those_of_a_stored_set(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path / "pictures", {"cat": 30, "dog": 20}, width=40, height=30)
    (tmp_path / "pictures" / "cat" / "cat_0.png").write_bytes(b"no picture")
    choice = DataChoice(source=str(tmp_path / "pictures"), size=24)
    found = survey(choice, log)
    assert found.stored_bytes is not None
    train = load(choice, 0, log).train
    whole = [n for n in range(len(train)) if not train.where(n).endswith("cat_0.png")]
    pictures = [torch.from_numpy(prepare(train.image(n), 24)).permute(2, 0, 1) for n in whole]
    assert found.stored_bytes(24, "png", 0) > found.stored_bytes(24, "jpeg", 75)
    for kind, quality in (("webp", 90), ("png", 0)):
        sizes = [len(images.encode(one, kind, quality)) for one in pictures]
        assert found.stored_bytes(24, kind, quality) == pytest.approx(np.mean(sizes), rel=0.03)
        folders = tmp_path / f"{kind}-few", tmp_path / kind
        for folder, shown in zip(folders, (pictures[:8], pictures), strict=True):
            images.write(folder, ((one, 0, n) for n, one in enumerate(shown)), ("cat",), kind, quality)
        more = images.num_bytes(folders[1]) - images.num_bytes(folders[0])
        assert row_bytes(found.stored_bytes(24, kind, quality)) == pytest.approx(more / (len(pictures) - 8), rel=0.1)


def test_damaged_pictures_are_passed(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"cat": 2, "dog": 1})
    (tmp_path / "cat" / "cat_0.png").write_bytes(b"no picture")
    found = survey(DataChoice(source=str(tmp_path)), log)
    assert len(found.sizes) == 2
    assert found.counts == (1, 1)
    left = load(DataChoice(source=str(tmp_path), holdout=0.5), 0, log).train
    assert found.training(0.5) == (int(not left.where(0).endswith("cat_0.png")), 1)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(AttarError, match=r"None of the pictures of '.*' can be read; the first is .*cat_0.png"):
        survey(DataChoice(source=str(tmp_path)), log)


def test_few_whole_pictures_among_many_cut_off_ones_are_found(tmp_path: Path, class_folders: Make, log: Log) -> None:
    class_folders(tmp_path, {"cat": 150, "dog": 150}, width=30, height=30)
    for path in tmp_path.rglob("*.png"):
        if path.stem.rpartition("_")[2] not in ("7", "8"):
            path.write_bytes(path.read_bytes()[:60])  # its size can be read, and nothing else
    found = survey(DataChoice(source=str(tmp_path)), log)
    assert sum(found.counts) == len(found.sizes) == 4
    assert not found.grey
    assert found.stored_bytes is not None
    assert found.stored_bytes(30, "png", 0) > 100


def test_a_dataset_in_memory(log: Log) -> None:
    found = survey(DataChoice(source="digits"), log)
    assert (set(found.sizes), found.grey, found.num_val, sum(found.counts)) == ({(8, 8)}, True, None, 1797)
