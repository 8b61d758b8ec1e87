import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from attar.data import picture
from attar.data.picture import Unreadable, decode, prepare, rgb


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def colours(data: bytes) -> list[tuple[int, int, int]]:
    picture = decode(data, "here")
    assert picture.mode == "RGB"
    return [tuple(row) for row in np.asarray(picture).reshape(-1, 3).tolist()]


def test_grey_and_bits() -> None:
    grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    assert colours(encode(grey, "PNG")) == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]
    assert colours(encode(grey.convert("1", dither=Image.Dither.NONE), "PNG"))[-1] == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    grey = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert colours(encode(grey, kind)) == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_transparency_lies_on_white() -> None:
    layers = np.array([[[200, 0, 0, 255], [200, 0, 0, 0]]], np.uint8)
    assert colours(encode(Image.fromarray(layers, "RGBA"), "PNG")) == [(200, 0, 0), (255, 255, 255)]
    assert colours(encode(Image.fromarray(layers[..., 2:], "LA"), "PNG")) == [(0, 0, 0), (255, 255, 255)]
    half = np.array([[[0, 0, 0, 128]]], np.uint8)
    assert colours(encode(Image.fromarray(half, "RGBA"), "PNG")) == [(127, 127, 127)]


def test_palette_with_and_without_transparency() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert colours(encode(picture, "PNG")) == [(10, 20, 30), (40, 50, 60)]
    assert colours(encode(picture, "PNG", transparency=1)) == [(10, 20, 30), (255, 255, 255)]
    assert colours(encode(picture, "GIF", transparency=0))[0] == (255, 255, 255)


def test_transparent_colour_of_an_rgb_png() -> None:
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert colours(encode(picture, "PNG", transparency=(1, 2, 3))) == [(255, 255, 255), (4, 5, 6)]


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "LA", "HSV", "YCbCr", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.new(mode, (3, 2))
    assert rgb(picture).mode == "RGB"
    assert rgb(picture).size == (3, 2)


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    first = colours(encode(red, "JPEG", quality=100))[0]
    assert first[0] > 240
    assert max(first[1:]) < 15


def test_floats_are_refused() -> None:
    with pytest.raises(Unreadable, match=r"here cannot be read as an image \(floating-point pixels"):
        decode(encode(Image.new("F", (2, 2)), "TIFF"), "here")


def test_damaged_files(tmp_path: Path, noise: Callable[..., Image.Image]) -> None:
    whole = encode(noise(0, 64, 64), "JPEG")
    for data, reason in [(b"hello", "known format"), (whole[: len(whole) // 2], "truncated")]:
        with pytest.raises(Unreadable, match=reason) as error:
            decode(data, "x.jpg")
        assert str(error.value).endswith("or skip such images with --data.on-corrupt skip.")
        assert "0x" not in str(error.value)
    with pytest.raises(Unreadable, match=r"absent.png cannot be read as an image \(No such file or directory\)"):
        decode(tmp_path / "absent.png", "absent.png")
    again = pickle.loads(pickle.dumps(Unreadable("a.png", "why")))
    assert (again.where, again.reason) == ("a.png", "why")


def test_a_fitting_picture_keeps_its_pixels(noise: Callable[..., Image.Image]) -> None:
    picture = noise(1, 32, 32)
    assert np.array_equal(prepare(picture, 32), np.asarray(picture))
    assert np.array_equal(prepare(picture, 32, 36), np.asarray(picture))
    assert prepare(picture, 32).flags.writeable


@pytest.mark.parametrize("shape", [(50, 40), (40, 51), (33, 33), (17, 90), (9, 7)])
@pytest.mark.parametrize("resize", [None, 37])
def test_equals_torchvision(noise: Callable[..., Image.Image], shape: tuple[int, int], resize: int | None) -> None:
    picture = noise(2, *shape)
    theirs = v2.CenterCrop(32)(v2.Resize(resize or 32)(picture))
    assert np.array_equal(prepare(picture, 32, resize), np.asarray(theirs))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (4000, 3)])
def test_tiny_and_elongated(noise: Callable[..., Image.Image], shape: tuple[int, int]) -> None:
    picture = prepare(noise(3, *shape), 32, 36)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8


def test_the_middle_of_an_elongated_picture_is_shown() -> None:
    values = np.zeros((1, 301, 3), np.uint8)
    values[:, 100:201] = 255
    assert prepare(Image.fromarray(values), 8).min() == 255


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS; fetch the files"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC, which attar does not read; convert it to JPEG"),
        (b"%PDF-1.7", "it is a PDF"),
    ],
)
def test_what_is_often_taken_for_a_picture_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    for encoded in (data, tmp_path / "a.jpg"):
        with pytest.raises(Unreadable, match=reason):
            decode(encoded, "a.jpg")


@pytest.mark.parametrize(("low", "high", "said"), [(-1000, 0, r"below zero \(-1000\)"), (0, 70000, r"above 65535")])
def test_pixels_without_a_known_range_are_refused(low: int, high: int, said: str) -> None:
    scan = Image.fromarray(np.array([[low, high]], np.int32))
    with pytest.raises(Unreadable, match=said):
        decode(encode(scan, "TIFF"), "slice.tif")


def test_a_picture_that_fills_the_memory_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(9))), chunk(b"IEND", b"")]
    with pytest.raises(Unreadable, match=r"bomb.png .*2,500,000,000 pixels, more than the 178,956,970 that"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts), "bomb.png")


def test_the_limit_holds_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(picture, "MOST_PIXELS", 11)
    with pytest.raises(Unreadable, match="it has 12 pixels, more than the 11 that attar opens; make it smaller"):
        decode(encode(Image.new("RGB", (4, 3)), "PNG"), "x.png")
    assert decode(encode(Image.new("RGB", (3, 3)), "PNG"), "x.png").size == (3, 3)
