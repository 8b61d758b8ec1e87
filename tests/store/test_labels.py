"""store/labels.py: records come back by (epoch, image), and whatever is not whole or not ours is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops import replay
from attar.ops.mixing import MixChoice
from attar.ops.views import ViewChoice
from attar.store import labels, weights
from attar.store.labels import HEADER, EpochLabels, Header, Labels

NUM_IMAGES, NUM_CLASSES, NUM_EPOCHS = 12, 5, 7
HEIGHT, WIDTH = 16, 24
KINDS = ["none", "mixup", "cutmix"]


def header_of(kind: str = "cutmix", epochs_per_file: int = 3, **values: Any) -> Header:
    fixed = {
        "images_sha256": "ab" * 32,
        "num_images": NUM_IMAGES,
        "num_classes": NUM_CLASSES,
        "num_epochs": NUM_EPOCHS,
        "epochs_per_file": epochs_per_file,
        "height": HEIGHT,
        "width": WIDTH,
        "views": ViewChoice(crop="padded"),
        "mix": MixChoice.of({"kind": kind, "alpha": 0.8}, "the test"),
        "teacher": "cd" * 32,
    }
    return Header.of(fixed | values, "the test")


def record(header: Header, epoch: int) -> EpochLabels:
    generator = torch.Generator().manual_seed(epoch)
    size = (header.height, header.width)
    view, mix = replay.draw(header.num_images, size, header.views, header.mix, generator)
    logits = 10 * torch.randn(header.num_images, header.num_classes, generator=generator)
    return EpochLabels(view, mix, logits.half())


def stored(folder: Path, header: Header) -> Path:
    for name, epochs in header.files().items():
        labels.write_file(folder, header, name, [record(header, epoch) for epoch in epochs])
    labels.write_header(folder, header)
    return folder


def assert_same(found: EpochLabels, expected: EpochLabels) -> None:
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (found.view.box, expected.view.box),
        (found.view.flip, expected.view.flip),
        (found.view.shift, expected.view.shift),
        (found.logits, expected.logits),
    ]
    assert (found.mix is None) == (expected.mix is None)
    if found.mix is not None and expected.mix is not None:
        pairs += [(found.mix.partner, expected.mix.partner), (found.mix.weight, expected.mix.weight)]
        assert (found.mix.box is None) == (expected.mix.box is None)
        if found.mix.box is not None:
            pairs.append((found.mix.box, expected.mix.box))
    for one, other in pairs:
        assert one is not None
        assert other is not None
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("epochs_per_file", [1, 3, 100])
def test_records_come_back_as_they_were(tmp_path: Path, kind: str, crop: str, epochs_per_file: int):
    header = header_of(kind, epochs_per_file, views={"crop": crop})
    found = Labels(stored(tmp_path, header))
    assert found.header == header
    for epoch in (6, 0, 3, 5, 1, 2, 4):
        assert_same(found.epoch(epoch), record(header, epoch))


def test_epochs_past_the_last_start_over(tmp_path: Path):
    found = Labels(stored(tmp_path, header_of()))
    for epoch in range(NUM_EPOCHS, 3 * NUM_EPOCHS + 1):
        assert_same(found.epoch(epoch), record(header_of(), epoch % NUM_EPOCHS))


@pytest.mark.parametrize("epochs_per_file", [1, 2, 3, 7, 100])
def test_files_hold_every_epoch_once(epochs_per_file: int):
    header = header_of(epochs_per_file=epochs_per_file)
    files = header.files()
    assert [epoch for epochs in files.values() for epoch in epochs] == list(range(NUM_EPOCHS))
    assert all(0 < len(epochs) <= epochs_per_file for epochs in files.values())
    assert list(files) == sorted(files)
    for name, epochs in files.items():
        for place, epoch in enumerate(epochs):
            assert header.file_of(epoch) == (name, place)
    assert header_of(epochs_per_file=3).files() == {
        "epochs-00000-00002.safetensors": range(3),
        "epochs-00003-00005.safetensors": range(3, 6),
        "epochs-00006-00006.safetensors": range(6, 7),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_record_are_those_of_its_tensors(tmp_path: Path, kind: str):
    header = header_of(kind)
    stored(tmp_path, header)
    total = 0
    for name in header.files():
        tensors, _ = weights.load_weights(tmp_path / name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert total == NUM_IMAGES * NUM_EPOCHS * labels.record_bytes(NUM_CLASSES, header.mix)
    files = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert Labels(tmp_path).num_bytes() == files > total


def test_files_are_about_as_large_as_they_should_be():
    mix = MixChoice(kind="cutmix")
    for num_images, num_classes in ((100, 10), (50_000, 1000), (10, 10_450)):
        each = num_images * labels.record_bytes(num_classes, mix)
        epochs = labels.epochs_per_file(num_images, num_classes, mix)
        assert epochs >= 1
        assert epochs == 1 or epochs * each <= labels.SHARD_BYTES < (epochs + 1) * each


def test_half_precision_keeps_three_digits_and_never_overflows(tmp_path: Path):
    header = header_of("none", num_epochs=1)
    logits = torch.linspace(-60, 60, NUM_IMAGES * NUM_CLASSES).reshape(NUM_IMAGES, NUM_CLASSES)
    logits[3, 2], logits[4, 1] = 1e6, -1e6
    kept = record(header, 0)
    (name,) = header.files()
    labels.write_file(tmp_path, header, name, [EpochLabels(kept.view, None, logits)])
    labels.write_header(tmp_path, header)
    found = Labels(tmp_path).epoch(0).logits
    assert found.dtype == torch.float16
    assert (found[3, 2].item(), found[4, 1].item()) == (65504, -65504)
    logits[3, 2] = logits[4, 1] = found[3, 2] = found[4, 1] = 0
    torch.testing.assert_close(found.float(), logits, rtol=2**-11, atol=2**-25)  # half of a half's last bit


def test_unfinished_labels_are_refused(tmp_path: Path):
    stored(tmp_path, header_of())
    (tmp_path / HEADER).unlink()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AttarError, match=rf"{folder} holds no finished soft labels \(labels\.json\); relabel"):
            Labels(folder)


@pytest.mark.parametrize("text", ["", '{"format": 1, ', "\xff\xfe", "null", "[1, 2]", "3"])
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, text: str):
    stored(tmp_path, header_of())
    (tmp_path / HEADER).write_bytes(text.encode("latin-1"))
    with pytest.raises(AttarError, match=rf"{tmp_path / HEADER}"):
        Labels(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codecc": "fp16"}, "unknown key 'codecc'; did you mean 'codec'"),
        ({"format": 2}, r"format: .*\(it is 2\)"),
        ({"codec": "top-k"}, r"codec: .*\(it is 'top-k'\)"),
        ({"num_images": "many"}, "num_images"),
        ({"teacher": None}, "teacher"),
    ],
)
def test_a_header_of_another_format_is_refused_with_the_key(tmp_path: Path, change: dict[str, Any], words: str):
    stored(tmp_path, header_of())
    values = json.loads((tmp_path / HEADER).read_text()) | change
    (tmp_path / HEADER).write_text(json.dumps(values))
    with pytest.raises(AttarError, match=words) as caught:
        Labels(tmp_path)
    assert str(tmp_path / HEADER) in str(caught.value)


def test_a_header_that_lacks_a_key_is_refused(tmp_path: Path):
    stored(tmp_path, header_of())
    values = json.loads((tmp_path / HEADER).read_text())
    del values["images_sha256"]
    (tmp_path / HEADER).write_text(json.dumps(values))
    with pytest.raises(AttarError, match=r"labels\.json lacks the key 'images_sha256'"):
        Labels(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path):
    stored(tmp_path, header_of())
    (tmp_path / "epochs-00003-00005.safetensors").unlink()
    with pytest.raises(AttarError, match=r"lacks epochs-00003-00005\.safetensors; relabel"):
        Labels(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named_when_its_epochs_are_read(tmp_path: Path, kept: float):
    file = stored(tmp_path, header_of()) / "epochs-00003-00005.safetensors"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    found = Labels(tmp_path)
    assert_same(found.epoch(2), record(header_of(), 2))
    with pytest.raises(AttarError, match=r"epochs-00003-00005\.safetensors is damaged \(.+\); relabel"):
        found.epoch(3)


def test_labels_of_other_images_are_refused(tmp_path: Path):
    stored(tmp_path / "mine", header_of())
    stored(tmp_path / "other", header_of(images_sha256="ef" * 32))
    name = "epochs-00003-00005.safetensors"
    (tmp_path / "other" / name).replace(tmp_path / "mine" / name)
    found = Labels(tmp_path / "mine")
    with pytest.raises(AttarError, match=rf"{name} belongs to other images; relabel"):
        found.epoch(4)


def test_equal_labels_are_equal_bytes(tmp_path: Path):
    for place in ("a", "b"):
        stored(tmp_path / place, header_of())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_renamed_file_is_refused(tmp_path: Path):
    header = header_of(epochs_per_file=3)
    folder = stored(tmp_path, header)
    first, second = sorted(header.files())[:2]
    (folder / second).write_bytes((folder / first).read_bytes())
    with pytest.raises(AttarError, match=f"holds the epochs of {first}"):
        Labels(folder).epoch(3)
