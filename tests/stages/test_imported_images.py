"""stages/imported_images.py: imported images become a set like recover's, or are refused."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from attar import pipeline
from attar.core.device import Execution
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.exchange.fkd_files import image_name
from attar.models.build import build
from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation
from attar.report import figures
from attar.stages import imported_images, teacher_check
from attar.stages.distilled import Distilled
from attar.stages.folder import StageFolder
from attar.stages.run import ImagesMade, images_in
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.store import sealed
from attar.synthesis.task import MethodConfig
from conftest import interrupt, mini_recipe

CLASSES = ("ant", "bee", "cat")
SIZE, IPC = 16, 2
CONFIG = MethodConfig(ipc=IPC)


def picture(label: int, slot: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    values = np.random.default_rng(10 * label + slot).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def jpeg(label: int, slot: int) -> bytes:
    file = io.BytesIO()
    picture(label, slot).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A real dataset of three classes."""
    for name in CLASSES:
        (tmp_path / "real" / name).mkdir(parents=True)
        for slot in range(10):
            picture(ord(name[0]), slot).save(tmp_path / "real" / name / f"{slot}.png")
    return tmp_path / "real"


@pytest.fixture
def space(real: Path, tmp_path: Path) -> Workspace:
    """A run in which squeeze is done, with a teacher that says nothing of its accuracy."""
    return workspace(real, tmp_path / "run")


def workspace(real: Path, out: Path, size: int = SIZE, **values: Any) -> Workspace:
    choice = DataChoice(source=str(real), size=size)
    found = Workspace(out, 0, choice, Execution(device="cpu", threads=1), Log(quiet=True))
    classes = values.get("classes", CLASSES)
    module = build("convnet3", len(classes), size, seed=0)
    grey = Normalisation((0.5,) * 3, (0.25,) * 3)
    Teacher(module, "convnet3", "standard", classes, grey, size, values.get("accuracy")).save(out / "squeeze")
    known = sealed.sha256_of(out / "squeeze" / "teacher.safetensors")
    StageFolder(out / "squeeze", "squeeze", {}, {}).finish({"weights_sha256": known}, 0.0, "the CPU")
    return found


def folders(path: Path, name: Callable[[int], str], ipc: int = IPC) -> Path:
    for label in range(len(CLASSES)):
        (path / name(label)).mkdir(parents=True)
        for slot in range(ipc):
            (path / name(label) / f"class{label:03d}_id{slot:03d}.jpg").write_bytes(jpeg(label, slot))
    return path


def table(path: Path, labels: list[Any], column: str, rows: list[bytes]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    held = {"image": [{"bytes": row, "path": None} for row in rows], column: labels}
    pq.write_table(pa.table(held), path / "train-00000-of-00001-0123456789abcdef.parquet")
    return path


def assert_imported(out: Path, made: ImagesMade) -> None:
    """Slot by slot, the pixels and the very files that were named."""
    stored = image_files.read(out / "data")
    assert stored.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert stored.slots.tolist() == [0, 0, 0, 1, 1, 1]
    for place, (data, label, slot) in enumerate(image_files.encoded(out / "data")):
        assert data == jpeg(label, slot)
        assert torch.equal(stored.images[place], image_files.decode(data))
    assert made == images_in(out)
    assert made.images_sha256 == stored.sha256()
    assert (made.method, made.num_images, made.made_elsewhere) == ("imported", 6, True)
    assert made.classes == CLASSES
    assert made.image_bytes == image_files.num_bytes(out / "data")


@pytest.mark.parametrize(
    "name",
    [
        lambda label: f"new{label:03d}",  # SRe2L, CDA
        lambda label: f"new{label:05d}",  # CDA on ImageNet-21K
        lambda label: f"{label:05d}",  # RDED
        lambda label: str(label),
        lambda label: CLASSES[label],
    ],
)
def test_class_folders_of_every_kind(space: Workspace, tmp_path: Path, name: Callable[[int], str]):
    source = folders(tmp_path / "theirs", name)
    assert_imported(space.out / "recover", imported_images.run(space, str(source), CONFIG))


def test_classes_go_by_their_names_whatever_their_order(real: Path, tmp_path: Path):
    """The table numbers its classes backwards."""
    space = workspace(real, tmp_path / "run")
    rows = [jpeg(label, slot) for label in (2, 1, 0) for slot in range(IPC)]
    schema = {"info": {"features": {"label": {"names": list(CLASSES[::-1]), "_type": "ClassLabel"}}}}
    held = pa.table({"image": [{"bytes": row, "path": None} for row in rows], "label": [0, 0, 1, 1, 2, 2]})
    (tmp_path / "theirs" / "data").mkdir(parents=True)
    metadata = {"huggingface": json.dumps(schema)}
    pq.write_table(held.replace_schema_metadata(metadata), tmp_path / "theirs" / "data" / "train-0.parquet")
    assert_imported(space.out / "recover", imported_images.run(space, str(tmp_path / "theirs"), CONFIG))


@pytest.mark.parametrize("column", ["label", "class_id", "class"])
def test_tables_with_numbers(space: Workspace, tmp_path: Path, column: str):
    """rethinkdc's sets have columns 'image' and 'class_id', rows in any order."""
    rows = [jpeg(label, slot) for slot in range(IPC) for label in (1, 2, 0)]
    source = table(tmp_path / "theirs" / "data", [1, 2, 0] * IPC, column, rows)
    assert_imported(space.out / "recover", imported_images.run(space, str(source.parent), CONFIG))


def test_tables_with_names(space: Workspace, tmp_path: Path):
    rows = [jpeg(label, slot) for slot in range(IPC) for label in (1, 2, 0)]
    source = table(tmp_path / "theirs", ["bee", "cat", "ant"] * IPC, "class", rows)
    assert_imported(space.out / "recover", imported_images.run(space, str(source), CONFIG))


def test_sets_saved_or_fetched_by_the_datasets_package(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    datasets = pytest.importorskip("datasets")
    rows = [{"bytes": jpeg(label, slot), "path": None} for label in range(3) for slot in range(IPC)]
    features = datasets.Features({"image": datasets.Image(), "class_id": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"image": rows, "class_id": [0, 0, 1, 1, 2, 2]}, features=features)
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "saved"))
    first = imported_images.run(space, str(tmp_path / "saved"), CONFIG)
    assert_imported(space.out / "recover", first)
    held = {"org/set": {"train": made}}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: held[name])
    assert imported_images.run(space, "hf:org/set", CONFIG) == first, "the same images from another place"


def test_webp_files_are_kept_but_not_those_with_transparency(space: Workspace, tmp_path: Path):
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    see_through = picture(1, 0).convert("RGBA")
    see_through.putalpha(100)
    for label, one in enumerate((picture(0, 0), see_through)):
        for old in (source / f"new{label:03d}").glob(f"class{label:03d}_id000.*"):
            old.unlink()
        one.save(source / f"new{label:03d}" / "a.webp", quality=80)
    imported_images.run(space, str(source), CONFIG)
    kept = [data for data, _, _ in image_files.encoded(space.out / "recover" / "data")]
    assert (source / "new000" / "a.webp").read_bytes() in kept
    assert (source / "new001" / "a.webp").read_bytes() not in kept
    assert {Image.open(io.BytesIO(data)).mode for data in kept} == {"RGB"}


def test_png_of_odd_kinds_is_made_plain(space: Workspace, tmp_path: Path):
    """Grey, palette and half-transparent pictures are kept as the RGB pixels that everything else sees."""
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    for label, mode in enumerate(("L", "P", "RGBA")):
        (source / f"new{label:03d}" / "class000_id000.jpg").unlink(missing_ok=True)
        (source / f"new{label:03d}" / f"class{label:03d}_id000.jpg").unlink(missing_ok=True)
        odd = picture(label, 0).convert(mode)
        if mode == "RGBA":
            odd.putalpha(100)
        odd.save(source / f"new{label:03d}" / "a.png")
    imported_images.run(space, str(source), CONFIG)
    stored = image_files.read(space.out / "recover" / "data")
    kinds = [Image.open(io.BytesIO(data)).mode for data, _, _ in image_files.encoded(space.out / "recover" / "data")]
    assert set(kinds) == {"RGB"}
    white = (picture(2, 0).convert("RGBA"), Image.new("RGBA", (SIZE, SIZE), "white"))
    white[0].putalpha(100)
    expected = np.asarray(Image.alpha_composite(white[1], white[0]).convert("RGB"))
    assert np.array_equal(stored.images[2].permute(1, 2, 0).numpy(), expected)


def test_a_run_goes_on_with_them(mini_run: Path, squeezed: Path, tmp_path: Path):
    """The images of another run, exported and given back, are labelled and drawn like those made in place."""
    recipe = mini_recipe()
    for data, label, slot in image_files.encoded(mini_run / "recover" / "data"):
        path = tmp_path / "theirs" / image_name(label, slot, 10, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    space = Workspace(squeezed, recipe.seed, recipe.data, recipe.execution, Log(quiet=True))
    made = imported_images.run(space, str(tmp_path / "theirs"), recipe.recover)
    own = images_in(mini_run / "recover")
    for key in ("images_sha256", "num_images", "image_bytes", "classes"):
        assert getattr(made, key) == getattr(own, key)
    pipeline.run(recipe, squeezed, stage="relabel", quiet=True)
    assert Distilled(squeezed / "distilled").info.method == "imported"
    for name in ("labels.json", "epochs-00000-00005.safetensors"):
        theirs, ours = (run / "distilled" / "labels" / name for run in (squeezed, mini_run))
        assert theirs.read_bytes() == ours.read_bytes()
    assert [path.name for path in figures.write_all(squeezed, squeezed / "report", [])] == ["grid.png", "grid.svg"]


def test_a_finished_set_is_kept_and_another_one_is_not_written_over_it(space: Workspace, tmp_path: Path):
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    first = imported_images.run(space, str(source), CONFIG)
    moved = source.rename(tmp_path / "moved")
    assert imported_images.run(space, str(moved), CONFIG) == first
    (moved / "new001" / "class001_id001.jpg").write_bytes(jpeg(5, 5))
    before = (space.out / "recover" / "data" / "train-00000-of-00001.parquet").read_bytes()
    with pytest.raises(AttarError, match="was made with other settings .*recover.images.*choose another --out"):
        imported_images.run(space, str(moved), CONFIG)
    assert (space.out / "recover" / "data" / "train-00000-of-00001.parquet").read_bytes() == before


def test_interrupted_work_is_done_again(space: Workspace, tmp_path: Path):
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    first = imported_images.run(space, str(source), CONFIG)
    interrupt(space.out / "recover")
    again = imported_images.run(space, str(source), CONFIG)
    assert again.images_sha256 == first.images_sha256


def spoil(source: Path, how: str) -> None:
    if how == "unequal":
        (source / "new001" / "class001_id001.jpg").unlink()
    elif how == "class missing":
        shutil.rmtree(source / "new001")
    elif how == "class too many":
        shutil.copytree(source / "new001", source / "new003")
    elif how == "stranger":
        shutil.copytree(source / "new001", source / "dog")
    elif how == "twice":
        shutil.copytree(source / "new001", source / "new00001")
    elif how == "damaged":
        path = source / "new001" / "class001_id001.jpg"
        path.write_bytes(path.read_bytes()[:200])
    elif how == "other size":
        for path in source.rglob("*.jpg"):
            picture(0, 0, (32, 32)).save(path)
    elif how == "not square":
        picture(0, 0, (32, 20)).save(source / "new002" / "class002_id000.jpg")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unequal", "has 2 images of the class 'ant' and 1 of 'bee'; .*every class needs the same number"),
        ("class missing", "has 2 images of the class 'ant' and 0 of 'bee'"),
        ("class too many", "has class number 3, but the data have 3 classes, from 'ant' to 'cat'"),
        ("stranger", "has the class 'dog', but the data have 3 classes"),
        ("twice", "two folders with the same class number"),
        ("damaged", r"class001_id001\.jpg cannot be read as an image .*; fetch the set again"),
        ("other size", r"class000_id000\.jpg has 32x32 pixels, but the data are prepared at 16; use --data\.size 32"),
        ("not square", r"class002_id000\.jpg has 32x20 pixels.*; attar's images are square, so crop them"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_and_nothing_is_written(
    space: Workspace, tmp_path: Path, how: str, words: str
):
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    spoil(source, how)
    with pytest.raises(AttarError, match=words):
        imported_images.run(space, str(source), CONFIG)
    assert not list((space.out / "recover").rglob("*.parquet"))
    assert not (space.out / "recover" / "manifest.json").exists()


def test_other_numbers_of_images_than_asked_for_are_refused(space: Workspace, tmp_path: Path):
    source = folders(tmp_path / "theirs", lambda label: f"new{label:03d}")
    with pytest.raises(AttarError, match=r"2 images per class, but the recipe asks for 10; use --recover\.ipc 2\.$"):
        imported_images.run(space, str(source), MethodConfig(ipc=10))
    with pytest.raises(AttarError, match=r"use --recover\.ipc 2 --recover\.ipc-start 0\.$"):
        imported_images.run(space, str(source), MethodConfig(ipc=2, ipc_start=1))


def test_a_place_without_images_is_refused(space: Workspace, tmp_path: Path):
    with pytest.raises(AttarError, match=r"no folder of images .*nowhere; check the path, or write hf:ORG/NAME"):
        imported_images.run(space, str(tmp_path / "nowhere"), CONFIG)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AttarError, match="empty holds no dataset that attar knows"):
        imported_images.run(space, str(tmp_path / "empty"), CONFIG)


def test_the_teacher_must_be_one_to_rely_on(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teacher_check, "SURE", 0.0)  # of these few validation images
    source = str(folders(tmp_path / "theirs", lambda label: f"new{label:03d}"))
    for name, values, words in (
        ("weak", {"accuracy": 0.0}, "about chance"),
        ("other", {"classes": ("ant", "bee", "cow")}, "knows other classes than the data"),
    ):
        with pytest.raises(AttarError, match=words):
            imported_images.run(workspace(real, tmp_path / name, **values), source, CONFIG)
    accepted = MethodConfig(ipc=IPC, accept_weak_teacher=True)
    assert imported_images.run(workspace(real, tmp_path / "weak", accuracy=0.0), source, accepted).num_images == 6
    none = workspace(real, tmp_path / "none")
    shutil.rmtree(none.out / "squeeze")
    with pytest.raises(AttarError, match="run 'attar squeeze'"):
        imported_images.run(none, source, CONFIG)


def test_images_imported_by_an_earlier_attar_are_still_these(space: Workspace, tmp_path: Path):
    """Manifests called the method 'given' until 26 November 2026."""
    source = str(folders(tmp_path / "theirs", str))
    made = imported_images.run(space, source, CONFIG)
    manifest = json.loads(made.path.read_text())
    for part in ("request", "identity", "result"):
        manifest[part]["method"] = "given"
    sealed.write_json(made.path, {key: value for key, value in manifest.items() if key != "sha256"})
    before = made.path.read_bytes()
    again = imported_images.run(space, source, CONFIG)
    assert (again.method, again.made_elsewhere) == ("imported", True)
    assert made.path.read_bytes() == before
