"""store/fkd.py: the published layout comes back as it was written, nothing in it is run, and what is wrong is named."""

import io
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import published_layout
from attar.core.errors import AttarError
from attar.store import fkd
from attar.store.fkd import FkdBatch

COUNT, NUM_CLASSES = 6, 5


def content(count: int = COUNT, num_classes: int = NUM_CLASSES, kind: str = "cutmix", seed: int = 0) -> list[Any]:
    """A file's content as the published writer leaves it."""
    stream = torch.Generator().manual_seed(seed)
    coords = torch.rand(count, 4, generator=stream) / 2 + 0.1
    flip = torch.rand(count, generator=stream) < 0.5
    logits = torch.randn(count, num_classes, generator=stream).half()
    if kind == "none":
        return [coords, flip, None, None, None, logits]
    partner = torch.randperm(count, generator=stream)
    box = [np.int64(1), np.int64(0), np.int64(9), np.int64(4)] if kind == "cutmix" else None
    return [coords, flip, partner, 0.25, box, logits]


def save(path: Path, parts: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, path)
    return path


def make(folder: Path, counts: tuple[int, ...] = (COUNT, COUNT, 2), num_epochs: int = 3, **values: Any) -> Path:
    for epoch in range(num_epochs):
        for batch, count in enumerate(counts):
            save(fkd.batch_path(folder, epoch, batch), content(count, seed=10 * epoch + batch, **values))
    return folder


def assert_same(found: FkdBatch, parts: list[Any]) -> None:
    coords, flip, partner, share, box, logits = parts
    assert torch.equal(found.coords, coords)
    assert torch.equal(found.flip, flip)
    assert torch.equal(found.logits, logits)
    assert found.logits.dtype == logits.dtype
    assert (found.partner is None) == (partner is None)
    assert partner is None or torch.equal(found.partner, partner)
    assert found.share == share
    assert found.box == (None if box is None else tuple(box))


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("half", [True, False])
def test_a_published_file_is_read_as_it_is(tmp_path: Path, kind: str, half: bool):
    parts = content(kind=kind)
    parts[5] = parts[5] if half else parts[5].float()
    found = fkd.read_batch(save(tmp_path / "b.tar", parts))
    assert_same(found, parts)
    assert found.kind == kind
    assert found.box is None or all(type(edge) is int for edge in found.box)


def test_numbers_of_older_and_other_numpy_are_read(tmp_path: Path):
    """NumPy 1 kept ``scalar`` in another module, and some writers keep the share as a NumPy number."""
    parts = content()
    parts[3] = np.float64(0.25)
    parts[4] = [np.int32(1), np.int16(0), np.uint8(9).astype(np.uint16), np.dtype(">i8").type(4)]
    path = save(tmp_path / "b.tar", parts)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    older = {name: data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") for name, data in files.items()}
    assert older != files
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in older.items():
            archive.writestr(name, data)
    parts[3] = 0.25
    assert_same(fkd.read_batch(path), parts)


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup"])
def test_what_is_written_the_published_reader_loads(tmp_path: Path, kind: str):
    parts = content(kind=kind)
    batch = fkd.read_batch(save(tmp_path / "theirs.tar", parts))
    for name in ("a.tar", "b.tar"):
        fkd.write_batch(tmp_path / "epoch_0" / name, batch)
    assert (tmp_path / "epoch_0" / "a.tar").read_bytes() == (tmp_path / "epoch_0" / "b.tar").read_bytes()
    loaded = torch.load(tmp_path / "epoch_0" / "a.tar", weights_only=True)
    assert isinstance(loaded, list)
    assert_same(batch, loaded)


class Crafted:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", range(6))
def test_a_crafted_file_is_refused_and_not_run(tmp_path: Path, place: int):
    marker = tmp_path / "marker"
    parts = content()
    parts[place] = Crafted(marker)
    path = save(tmp_path / "batch_0.tar", parts)
    with pytest.raises(
        AttarError, match=r"batch_0\.tar contains 'posix\.system', which is code .*attar ran none of it"
    ):
        fkd.read_batch(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_crafted_plain_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int):
    path, marker = tmp_path / "batch_0.tar", tmp_path / "marker"
    path.write_bytes(pickle.dumps([Crafted(marker)], protocol=protocol))
    with pytest.raises(AttarError, match=r"batch_0\.tar"):
        fkd.read_batch(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the file is harmless, so the test shows nothing"


def test_numpy_objects_that_are_no_numbers_are_refused(tmp_path: Path):
    for what in (np.arange(4), np.datetime64("2020-01-01"), np.array("text")[()], np.complex64(1)):
        with pytest.raises(AttarError, match=r"b\.tar"):
            fkd.read_batch(save(tmp_path / "b.tar", [*content()[:4], [what, 0, 1, 1], content()[5]]))


def replaced(place: int, value: Any) -> list[Any]:
    return [value if at == place else part for at, part in enumerate(content())]


WRONG = {
    "a dict": ({"coords": 1}, "a dict of 1 instead of a list of six"),
    "five parts": (content()[:5], "a list of 5 instead of a list of six"),
    "a tensor": (torch.zeros(6), "a Tensor instead of a list of six"),
    "nothing for crops": (replaced(0, None), "a NoneType instead of crops"),
    "crops of three": (replaced(0, torch.rand(COUNT, 3)), r"crops of torch.float32 and shape \[6, 3\]"),
    "crops in pixels": (replaced(0, torch.full((COUNT, 4), 3.0)), "not fractions"),
    "crops not finite": (replaced(0, torch.full((COUNT, 4), torch.nan)), "not fractions"),
    "empty crops": (replaced(0, torch.zeros(COUNT, 4)), "not fractions"),
    "float64 crops": (replaced(0, torch.rand(COUNT, 4).double()), "crops of torch.float64"),
    "no images": ([torch.zeros(0, 4), torch.zeros(0) > 1, None, None, None, torch.zeros(0, 5)], "not fractions"),
    "flips as numbers": (replaced(1, torch.zeros(COUNT)), "flips of torch.float32"),
    "too few flips": (replaced(1, torch.zeros(COUNT - 1) > 0), r"flips of torch.bool and shape \[5\]"),
    "cut-outs": (replaced(1, torch.rand(COUNT, 7)), "cut-outs instead of flips"),
    "partners outside": (replaced(2, torch.arange(1, COUNT + 1)), "partners outside its 6 images"),
    "partners before": (replaced(2, torch.arange(-1, COUNT - 1)), "partners outside its 6 images"),
    "partners in int32": (replaced(2, torch.arange(COUNT).int()), "partners of torch.int32"),
    "a box and no partners": (replaced(2, None), "a mixing share or box but no partners"),
    "a share above one": (replaced(3, 1.5), "1.5 instead of a mixing share"),
    "no number for a share": (replaced(3, float("nan")), "nan instead of a mixing share"),
    "a true share": (replaced(3, True), "a bool instead of a mixing share"),
    "no share": (replaced(3, None), "a NoneType instead of a mixing share"),
    "a box of three": (replaced(4, [1, 2, 3]), "a list of 3 instead of a box"),
    "a box of fractions": (replaced(4, [0.1, 0.2, 0.3, 0.4]), "a list of 4 instead of a box of four whole numbers"),
    "a box backwards": (replaced(4, [5, 0, 4, 1]), r"the box \[5, 0, 4, 1\], whose end"),
    "logits as whole numbers": (replaced(5, torch.zeros(COUNT, 5).long()), "logits of torch.int64"),
    "too many logits": (replaced(5, torch.zeros(COUNT + 1, 5)), r"logits of torch.float32 and shape \[7, 5\]"),
    "sparse logits": (replaced(5, torch.zeros(COUNT, 5).to_sparse()), "instead of logits of shape"),
    "unstored logits": (replaced(5, torch.zeros(1).expand(COUNT, 10**9)), "logits whose values are mostly not stored"),
    "a subclass": (replaced(5, torch.nn.Parameter(torch.zeros(COUNT, 5))), "a Parameter instead of logits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_batch_is_refused_with_what_it_holds(tmp_path: Path, name: str):
    parts, words = WRONG[name]
    with pytest.raises(AttarError, match=rf"b\.tar is not a batch of the FKD layout: it holds .*{words}"):
        fkd.read_batch(save(tmp_path / "b.tar", parts))


def test_harmless_objects_of_torch_are_no_batch_either(tmp_path: Path):
    with pytest.raises(AttarError, match="an? OrderedDict of 1 instead of a list"):
        fkd.read_batch(save(tmp_path / "b.tar", OrderedDict(a=torch.zeros(1))))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float):
    path = save(tmp_path / "batch_7.tar", content())
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(AttarError, match=r"batch_7\.tar is not a complete batch .*copy or download it again"):
        fkd.read_batch(path)


def test_other_archives_and_missing_files_are_named(tmp_path: Path):
    with tarfile.open(tmp_path / "real.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    with zipfile.ZipFile(tmp_path / "zip.tar", "w") as archive:
        archive.writestr("hello", "world")
    for name in ("real.tar", "zip.tar"):
        with pytest.raises(AttarError, match=rf"{name} is not a complete batch"):
            fkd.read_batch(tmp_path / name)
    with pytest.raises(AttarError, match=r"no file .*nowhere\.tar"):
        fkd.read_batch(tmp_path / "nowhere.tar")


def test_a_folder_is_measured(tmp_path: Path):
    told: list[int] = []
    found = fkd.scan(make(tmp_path), told.append)
    assert (found.num_epochs, found.num_batches, found.batch_size, found.num_images) == (3, 3, COUNT, 2 * COUNT + 2)
    assert (found.num_classes, found.kind) == (NUM_CLASSES, "cutmix")
    assert [found.rows(batch) for batch in range(3)] == [slice(0, 6), slice(6, 12), slice(12, 14)]
    assert sum(told) == 9


def test_one_batch_or_a_full_last_one_is_measured_too(tmp_path: Path):
    assert fkd.scan(make(tmp_path / "one", (4,), 1)).num_images == 4
    assert fkd.scan(make(tmp_path / "full", (4, 4), 1)).num_images == 8


def test_the_identity_follows_from_the_content_alone(tmp_path: Path):
    first = fkd.scan(make(tmp_path / "a")).identity
    assert fkd.scan(make(tmp_path / "b")).identity == first
    save(fkd.batch_path(tmp_path / "b", 1, 2), content(2, seed=99))
    assert fkd.scan(tmp_path / "b").identity != first


def test_hidden_files_and_the_list_of_another_writer_are_let_lie(tmp_path: Path):
    make(tmp_path)
    for name in (".DS_Store", "sampler_indices_epoch.json", "epoch_1/.nfs0001"):
        (tmp_path / name).touch()
    assert fkd.scan(tmp_path).num_epochs == 3


def spoil(folder: Path, how: str) -> None:
    """Make the one mistake that ``how`` names."""
    path = folder / "epoch_1" / "batch_1.tar"
    if how == "missing batch":
        path.unlink()
    elif how == "missing last batch":
        (folder / "epoch_1" / "batch_2.tar").unlink()
    elif how == "missing epoch":
        shutil.rmtree(folder / "epoch_1")
    elif how == "missing first epoch":
        shutil.rmtree(folder / "epoch_0")
    elif how == "begun epoch":
        save(folder / "epoch_3" / "batch_0.tar", content())
    elif how == "empty epoch":
        (folder / "epoch_3").mkdir()
    elif how == "foreign file":
        (folder / "epoch_1" / "notes.txt").touch()
    elif how == "foreign folder":
        (folder / "checkpoints").mkdir()
    elif how == "double name":
        shutil.copy(path, folder / "epoch_1" / "batch_01.tar")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "swapped with the last":
        last = folder / "epoch_1" / "batch_2.tar"
        last.rename(folder / "kept")
        path.rename(last)
        (folder / "kept").rename(path)
    elif how == "other batch size":
        save(path, content(COUNT + 1))
    elif how == "other classes":
        save(path, content(num_classes=NUM_CLASSES + 1))
    elif how == "other mixing":
        save(path, content(kind="mixup"))


SPOILT = {
    "missing batch": r"epoch_1/batch_1\.tar is missing; copy",
    "missing last batch": r"epoch_1 has 2 batches, but epoch_0 has 3; copy epoch_1 again",
    "missing epoch": r"epoch_1 is missing; copy",
    "missing first epoch": r"epoch_0 is missing; copy",
    "begun epoch": r"epoch_3 has 1 batches, but epoch_0 has 3; .*or remove it if it was never finished",
    "empty epoch": r"epoch_3/batch_0\.tar is missing",
    "foreign file": r"epoch_1/notes\.txt is not part of the FKD layout.*remove it",
    "foreign folder": r"checkpoints is not part of the FKD layout",
    "double name": r"batch_01\.tar is not part of the FKD layout",
    "truncated": r"epoch_1/batch_1\.tar is not a complete batch",
    "zero bytes": r"epoch_1/batch_1\.tar is not a complete batch .*it is empty",
    "swapped with the last": r"epoch_1/batch_1\.tar is for 2 images and should be for 6: .*the last one 2; copy",
    "other batch size": r"epoch_1/batch_1\.tar is for 7 images and should be for 6",
    "other classes": r"epoch_1/batch_1\.tar has logits of 6 classes, but the first file has 5",
    "other mixing": r"epoch_1/batch_1\.tar uses the mixing 'mixup', but the first file uses 'cutmix'",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_folder_that_is_not_whole_is_refused_by_name(tmp_path: Path, how: str):
    folder = make(tmp_path / "labels")
    spoil(folder, how)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(AttarError, match=SPOILT[how]):
        fkd.scan(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_folder_above_is_refused_with_the_one_meant(tmp_path: Path):
    make(tmp_path / "outer" / "FKD_cutmix_fp16")
    with pytest.raises(AttarError, match=rf"name {re.escape(str(tmp_path / 'outer' / 'FKD_cutmix_fp16'))}"):
        fkd.scan(tmp_path / "outer")
    with pytest.raises(AttarError, match="There is no folder .*nowhere"):
        fkd.scan(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AttarError, match="epoch_0 is missing"):
        fkd.scan(tmp_path / "empty")


def test_the_plain_writer_of_the_tests_writes_the_layout(tmp_path: Path):
    published_layout.write(
        published_layout.make_images(tmp_path / "images"), tmp_path / "labels", "cutmix", num_epochs=1
    )
    found = fkd.scan(tmp_path / "labels")
    assert (found.num_images, found.num_batches) == (published_layout.NUM_CLASSES * published_layout.IPC, 3)
