"""store/mapped.py: a set is the same in memory and mapped, and its cache is whole, right, or made again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import images as image_files
from attar.store import mapped
from attar.store.images import ImageSet

CLASSES = ("apple", "pear")
COUNT, SIDE = 11, 6


def pictures(seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=stream, dtype=torch.uint8)


def written(folder: Path, images: Tensor) -> tuple[Path, str]:
    """A set's folder and identity."""
    image_files.write(folder, ((image, place % 2, place // 2) for place, image in enumerate(images)), CLASSES)
    return folder, image_files.read(folder).sha256()


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A set in several files."""
    monkeypatch.setattr(image_files, "SHARD_BYTES", 500)
    folder, identity = written(tmp_path / "set", pictures())
    assert len(list(folder.iterdir())) > 2
    return folder, identity


def opened(stored: tuple[Path, str], tmp_path: Path, limit: int = 0) -> ImageSet:
    return mapped.read(*stored, "the test", limit, tmp_path / "cache")


def assert_whole(found: ImageSet) -> None:
    assert torch.equal(found.images, pictures())
    assert found.labels.tolist() == [place % 2 for place in range(COUNT)]
    assert found.slots.tolist() == [place // 2 for place in range(COUNT)]


def cache_of(stored: tuple[Path, str], tmp_path: Path) -> Path:
    return tmp_path / "cache" / f"{stored[1]}.npy"


def test_sets_up_to_the_limit_are_in_memory_and_larger_ones_mapped(stored: tuple[Path, str], tmp_path: Path):
    size = pictures().numel()
    assert_whole(opened(stored, tmp_path, size))
    assert not (tmp_path / "cache").exists()
    found = opened(stored, tmp_path, size - 1)
    assert_whole(found)
    assert found.sha256() == stored[1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{stored[1]}.npy"]
    assert str(cache_of(stored, tmp_path)) in Path("/proc/self/maps").read_text()


def test_identity_is_that_of_the_set_in_memory(stored: tuple[Path, str]):
    assert image_files.identity(stored[0]) == (stored[1], COUNT)


def test_a_large_set_is_never_in_memory_as_a_whole(
    stored: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def forbidden(*_: object) -> None:
        raise AssertionError("the whole set was read")

    monkeypatch.setattr(image_files, "read", forbidden)
    monkeypatch.setattr(torch, "stack", forbidden)
    assert_whole(opened(stored, tmp_path))


def test_images_are_decoded_once(stored: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened(stored, tmp_path)
    decoded = []
    right = image_files.decode
    monkeypatch.setattr(image_files, "decode", lambda data: decoded.append(1) or right(data))
    assert_whole(opened(stored, tmp_path))
    assert len(decoded) == 1, "the first, for its size"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


def of_another_shape(path: Path) -> None:
    np.save(path, np.load(path).reshape(3, COUNT, SIDE, SIDE))


def of_objects(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("damage", [truncated, emptied, one_bit_flipped, of_another_shape, of_objects])
def test_a_damaged_cache_is_made_again(stored: tuple[Path, str], tmp_path: Path, damage: Callable[[Path], None]):
    opened(stored, tmp_path)
    whole = cache_of(stored, tmp_path).read_bytes()
    damage(cache_of(stored, tmp_path))
    assert_whole(opened(stored, tmp_path))
    assert cache_of(stored, tmp_path).read_bytes() == whole


@pytest.mark.parametrize("before", [False, True], ids=["new", "damaged"])
def test_an_interrupted_decoding_leaves_nothing_half(
    stored: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
):
    if before:
        opened(stored, tmp_path)
        truncated(cache_of(stored, tmp_path))
    places, right = iter(range(COUNT + 1)), image_files.decode

    def interrupted(data: bytes) -> Tensor:
        if next(places) == COUNT - 2:
            raise KeyboardInterrupt
        return right(data)

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(stored, tmp_path)
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left == ([f"{stored[1]}.npy"] if before else [])
    assert_whole(opened(stored, tmp_path))


@pytest.mark.parametrize("limit", [0, 10**6], ids=["mapped", "in memory"])
def test_other_images_are_refused_and_leave_no_cache(tmp_path: Path, limit: int):
    folder, _ = written(tmp_path / "set", pictures())
    _, other = written(tmp_path / "other", pictures(1))
    with pytest.raises(AttarError, match=rf"The images in {folder} are not those of the test; use another copy\."):
        opened((folder, other), tmp_path, limit)
    assert not list((tmp_path / "cache").glob("*"))


def test_images_of_different_sizes_are_refused_before_a_cache_is_there(tmp_path: Path):
    rows = [(pictures()[0], 0, 0), (pictures()[1, :, 1:], 1, 0)]
    image_files.write(tmp_path / "set", iter(rows), CLASSES)
    with pytest.raises(AttarError, match="holds images of different sizes"):
        opened((tmp_path / "set", "0" * 64), tmp_path)
    assert not list((tmp_path / "cache").glob("*"))


def test_images_lie_on_the_device_where_they_fit():
    images, meta = pictures(), torch.device("meta")
    assert mapped.placed(images, meta, images.numel()).device == meta
    assert mapped.placed(images, meta, images.numel() - 1) is images
    assert mapped.placed(images, torch.device("cpu"), 0) is images
