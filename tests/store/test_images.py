"""store/images.py: round trips, shards, refusals, and that Hugging Face ``datasets`` opens the folder as it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.choices import ImageFormat
from attar.store import images as image_files
from attar.store.images import ImageSet

CLASSES = ("apple", "Bär", "c/d e")
COUNT, HEIGHT, WIDTH = 9, 10, 14

Row = tuple[Tensor, int, int]


def noisy(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def smooth() -> Tensor:
    """Pictures that JPEG is made for."""
    ramp = torch.arange(HEIGHT)[:, None] * 9.0 + torch.arange(WIDTH) * 7.0
    return torch.stack([(ramp + 5 * place).expand(3, HEIGHT, WIDTH) for place in range(COUNT)]).to(torch.uint8)


def rows(images: Tensor) -> Iterator[Row]:
    for place, image in enumerate(images):
        yield image, place % 3, place // 3


def write(folder: Path, images: Tensor, image_format: ImageFormat = "png", quality: int = 75) -> int:
    return image_files.write(folder, rows(images), CLASSES, image_format, quality)


def assert_same(found: ImageSet, images: Tensor) -> None:
    assert torch.equal(found.images, images)
    assert found.labels.tolist() == [place % 3 for place in range(len(images))]
    assert found.slots.tolist() == [place // 3 for place in range(len(images))]


def test_png_comes_back_exactly(tmp_path: Path):
    size = write(tmp_path / "data", noisy())
    assert_same(image_files.read(tmp_path / "data"), noisy())
    files = list((tmp_path / "data").iterdir())
    assert [file.name for file in files] == ["train-00000-of-00001.parquet"]
    assert size == image_files.num_bytes(tmp_path / "data") == files[0].stat().st_size


def test_what_is_a_file_already_is_kept_byte_by_byte(tmp_path: Path):
    files = [image_files.encode(image, "jpeg" if place % 2 else "png", 90) for place, image in enumerate(noisy())]
    image_files.write(tmp_path, ((data, place % 3, place // 3) for place, data in enumerate(files)), CLASSES)
    assert [(data, label, slot) for data, label, slot in image_files.encoded(tmp_path)] == [
        (data, place % 3, place // 3) for place, data in enumerate(files)
    ]
    assert_same(image_files.read(tmp_path), torch.stack([image_files.decode(data) for data in files]))
    names = [row["path"] for row in pq.read_table(next(tmp_path.iterdir()))["image"].to_pylist()]
    assert [name.rpartition(".")[2] for name in names[:2]] == ["png", "jpg"]


@pytest.mark.parametrize("lossy", ["jpeg", "webp"])
def test_lossy_images_come_back_nearly_and_are_smaller_the_lower_their_quality(tmp_path: Path, lossy: ImageFormat):
    pictures = noisy(height=64, width=64)
    sizes = {quality: write(tmp_path / str(quality), pictures, lossy, quality) for quality in (95, 75, 20)}
    assert write(tmp_path / "png", pictures) > sizes[95] > sizes[75] > sizes[20]
    write(tmp_path / "smooth", smooth(), lossy, 90)
    found = image_files.read(tmp_path / "smooth")
    assert (found.images.int() - smooth().int()).abs().float().mean() < 3
    assert not torch.equal(found.images, smooth())
    assert found.labels.tolist() == [place % 3 for place in range(COUNT)]


def test_webp_takes_the_fewest_bytes_of_a_small_picture(tmp_path: Path):
    sizes = [len(image_files.encode(smooth()[0], kind, 90)) for kind in ("webp", "jpeg")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_pillow_without_webp_is_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_files.features, "check", lambda name: False)
    with pytest.raises(AttarError, match="cannot write WebP; install another build, or use"):
        image_files.encode(smooth()[0], "webp", 90)


@pytest.mark.parametrize(("image_format", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_rows_hold_whole_files_of_the_format(tmp_path: Path, image_format: ImageFormat, magic: bytes):
    write(tmp_path, noisy(), image_format)
    cells = pq.read_table(next(tmp_path.iterdir()))["image"].to_pylist()
    assert all(cell["bytes"].startswith(magic) for cell in cells)
    assert len({cell["path"] for cell in cells}) == COUNT
    assert {Path(cell["path"]).suffix for cell in cells} == {
        {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}[image_format]
    }


def test_a_large_set_is_several_shards_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    size = write(tmp_path, noisy())
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 3
    assert names == [f"train-{place:05d}-of-{len(names):05d}.parquet" for place in range(len(names))]
    assert size == image_files.num_bytes(tmp_path)
    assert_same(image_files.read(tmp_path), noisy())


def test_a_new_set_leaves_nothing_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as few:
        few.setattr(image_files, "SHARD_BYTES", 1000)
        write(tmp_path, noisy())
    write(tmp_path, smooth())
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000-of-00001.parquet"]
    assert_same(image_files.read(tmp_path), smooth())


def test_a_failure_on_the_way_leaves_the_old_set_and_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing() -> Iterator[Row]:
        yield from rows(smooth())
        raise AttarError("a unit is damaged")

    write(tmp_path, noisy())
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    with pytest.raises(AttarError, match="a unit is damaged"):
        image_files.write(tmp_path, failing(), CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000-of-00001.parquet"]
    assert_same(image_files.read(tmp_path), noisy())


def test_old_and_new_shards_never_pass_for_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The process ends between two shards' renames."""
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    write(tmp_path, noisy())
    move = Path.replace

    def last_one_fails(self: Path, target: Path) -> Path:
        if self.name.endswith("-00002.tmp"):
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", last_one_fails)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 255 - noisy())
    with pytest.raises(AttarError, match="no complete set"):
        image_files.read(tmp_path)


def test_a_missing_shard_is_refused_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    write(tmp_path / "set", noisy())
    for gone in sorted((tmp_path / "set").iterdir())[1::2]:
        gone.unlink()
    for folder in (tmp_path / "set", tmp_path / "nothing"):
        with pytest.raises(AttarError, match=f"{folder} holds no complete set of images"):
            image_files.read(folder)


def test_shards_that_attar_did_not_name_are_no_complete_set(tmp_path: Path):
    write(tmp_path, noisy())
    next(tmp_path.iterdir()).rename(tmp_path / "train-of-mine.parquet")
    with pytest.raises(AttarError, match="no complete set"):
        image_files.read(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: float):
    write(tmp_path, noisy())
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(
        AttarError, match=r"train-00000-of-00001\.parquet is damaged \(.+\); delete it and run the same command"
    ):
        image_files.read(tmp_path)


def test_flipped_bits_are_refused_or_harmless_but_never_a_traceback(tmp_path: Path):
    write(tmp_path, noisy(3))
    file = next(tmp_path.iterdir())
    whole, refused = file.read_bytes(), 0
    places = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(whole)
        broken[places.integers(len(whole))] ^= 1 << places.integers(8)
        file.write_bytes(broken)
        try:
            image_files.read(tmp_path)
        except AttarError as error:
            assert file.name in str(error)  # noqa: PT017 - not every flip is an error
            refused += 1
    assert refused > 30


def test_a_broken_picture_in_a_whole_file_is_refused_by_name(tmp_path: Path):
    write(tmp_path, noisy(3))
    file = next(tmp_path.iterdir())
    table = pq.read_table(file)
    cells = table["image"].to_pylist()
    for data in (b"", b"text", cells[1]["bytes"][:-30], None):
        cells[1]["bytes"] = data
        pq.write_table(table.set_column(0, "image", pa.array(cells)), file)
        with pytest.raises(AttarError, match=r"train-00000-of-00001\.parquet is damaged"):
            image_files.read(tmp_path)


def test_a_picture_that_fills_the_memory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, noisy(3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(AttarError, match=r"train-00000-of-00001\.parquet is damaged \(Image size .* exceeds limit"):
        image_files.read(tmp_path)


@pytest.mark.parametrize("column", ["image", "label", "slot"])
def test_foreign_columns_are_refused_by_name(tmp_path: Path, column: str):
    write(tmp_path, noisy(3))
    file = next(tmp_path.iterdir())
    pq.write_table(pq.read_table(file).drop_columns([column]), file)
    with pytest.raises(AttarError, match=rf"train-00000-of-00001\.parquet has no column '{column}'"):
        image_files.read(tmp_path)


def test_a_foreign_image_column_is_refused_by_name(tmp_path: Path):
    write(tmp_path, noisy(3))
    file = next(tmp_path.iterdir())
    pq.write_table(pq.read_table(file).set_column(0, "image", pa.array([b"a", b"b", b"c"])), file)
    with pytest.raises(AttarError, match=r"train-00000-of-00001\.parquet is damaged"):
        image_files.read(tmp_path)


def test_images_of_different_sizes_are_refused(tmp_path: Path):
    pictures = [(noisy()[0], 0, 0), (noisy()[1, :, :5], 1, 0)]
    image_files.write(tmp_path, iter(pictures), CLASSES)
    with pytest.raises(AttarError, match="different sizes"):
        image_files.read(tmp_path)


def test_the_identity_is_that_of_pixels_and_labels():
    def identity(images: Tensor, labels: list[int], slots: list[int]) -> str:
        return ImageSet(images, torch.tensor(labels), torch.tensor(slots)).sha256()

    pictures = noisy(2)
    changed = pictures.clone()
    changed[1, 2, 3, 4] ^= 1
    whole = identity(pictures, [0, 1], [0, 0])
    assert whole == identity(pictures.clone(), [0, 1], [0, 0])
    strided = pictures.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert whole == identity(strided, [0, 1], [0, 0])
    others = [
        identity(changed, [0, 1], [0, 0]),
        identity(pictures, [1, 0], [0, 0]),
        identity(pictures.flip(0), [0, 1], [0, 0]),
        identity(pictures.reshape(2, 3, WIDTH, HEIGHT), [0, 1], [0, 0]),
    ]
    assert len({whole, *others}) == 5


def test_the_identity_does_not_depend_on_how_a_set_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "one", noisy())
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    write(tmp_path / "many", noisy())
    assert image_files.read(tmp_path / "one").sha256() == image_files.read(tmp_path / "many").sha256()


def test_a_picture_to_look_at_is_a_png(tmp_path: Path):
    image_files.save_picture(tmp_path / "deep" / "a.png", noisy()[0])
    assert torch.equal(image_files.decode((tmp_path / "deep" / "a.png").read_bytes()), noisy()[0])


def test_hugging_face_datasets_opens_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(image_files, "SHARD_BYTES", 1000)
    write(tmp_path / "distilled" / "data", noisy())
    loaded = datasets.load_dataset(str(tmp_path / "distilled"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    train = loaded["train"]
    assert train.features["label"].names == list(CLASSES)
    assert isinstance(train.features["image"], datasets.Image)
    assert train.features["slot"].dtype == "int64"
    assert len(train) == COUNT
    for place, row in enumerate(train):
        assert np.array_equal(np.asarray(row["image"]), noisy()[place].permute(1, 2, 0).numpy())
        assert (row["label"], row["slot"]) == (place % 3, place // 3)
