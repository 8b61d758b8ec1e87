"""store/labels.py: records come back by (epoch, image), and whatever is not whole or not ours is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops import codec, replay
from attar.ops.codec import Codec
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice, Records
from attar.store import labels, weights
from attar.store.labels import HEADER, EpochLabels, Header, LabelStore, StoredEpoch

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
        "views": LookChoice(crop="padded"),
        "mix": MixChoice.of({"kind": kind, "alpha": 0.8}, "the test"),
        "teacher": "cd" * 32,
    }
    return Header.of(fixed | values, "the test")


def record(header: Header, epoch: int) -> EpochLabels:
    generator = torch.Generator().manual_seed(epoch)
    size = (header.height, header.width)
    records = replay.draw(header.num_images, size, header.views, header.mix, generator, storage=header.storage)
    logits = 10 * torch.randn(header.num_images, header.num_classes, generator=generator)
    return EpochLabels(records, codec.encode(logits.half(), header.codec))


def stored(folder: Path, header: Header) -> Path:
    for name, epochs in header.files().items():
        labels.write_file(folder, header, name, [record(header, epoch) for epoch in epochs])
    labels.write_header(folder, header)
    return folder


def tensors_of(records: Records) -> list[Tensor | None]:
    """Everything that records say, in an order."""
    found: list[Tensor | None] = []
    for look in (records.look, records.partner_look):
        found += [None] * 7 if look is None else look.tensors()
    mix = records.mix
    return found + ([None] * 3 if mix is None else [mix.partner, mix.box, mix.weight])


def assert_same(found: StoredEpoch, expected: EpochLabels) -> None:
    assert torch.equal(found.logits(), expected.encoded_logits["logits"])
    for one, other in zip(tensors_of(found.records), tensors_of(expected.records), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("epochs_per_file", [1, 3, 100])
def test_records_come_back_as_they_were(tmp_path: Path, kind: str, crop: str, epochs_per_file: int):
    header = header_of(kind, epochs_per_file, views={"crop": crop})
    found = LabelStore(stored(tmp_path, header))
    assert found.header == header
    for epoch in (6, 0, 3, 5, 1, 2, 4):
        assert_same(found.epoch(epoch), record(header, epoch))


MOSAIC = {"storage": {"factor": 2}, "views": {"crop": "padded", "dsa": ["colour", "rotate"], "dsa_combine": "one"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooled", [False, True])
def test_records_of_mosaics_say_which_part_is_shown_and_how_it_is_augmented(tmp_path: Path, kind: str, pooled: bool):
    header = header_of(kind, pooled=pooled, **MOSAIC)
    found = LabelStore(stored(tmp_path, header))
    assert found.header.storage.factor == 2
    if pooled:
        looks = [found.epoch(epoch).records.look for epoch in range(NUM_EPOCHS)]
        numbers = torch.stack([look.part.number for look in looks if look.part is not None])
        drawn = [record(header, epoch).records.look for epoch in range(NUM_EPOCHS)]
        expected = torch.stack([look.part.number for look in drawn if look.part is not None])
        assert torch.equal(numbers.sort(0).values, expected.sort(0).values)
        return
    for epoch in (6, 0, 3):
        assert_same(found.epoch(epoch), record(header, epoch))
    part, siamese = found.epoch(0).records.look.tensors()[-2:]
    assert part is not None
    assert siamese is not None
    assert (part.dtype, siamese.dtype) == (torch.uint8, torch.int8)


def test_a_part_takes_one_byte_and_siamese_augmentation_eleven():
    plain, mosaic = header_of(views={"crop": "padded"}), header_of(storage={"factor": 2})
    assert mosaic.record_bytes == plain.record_bytes + 1
    assert header_of(**MOSAIC).record_bytes == plain.record_bytes + 12


def test_epochs_past_the_last_start_over(tmp_path: Path):
    found = LabelStore(stored(tmp_path, header_of()))
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
@pytest.mark.parametrize("more", [{}, MOSAIC], ids=["plain", "mosaic"])
def test_the_bytes_of_a_record_are_those_of_its_tensors(tmp_path: Path, kind: str, more: dict[str, Any]):
    header = header_of(kind, **more)
    stored(tmp_path, header)
    total = 0
    for name in header.files():
        tensors, _ = weights.load_weights(tmp_path / name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert total == NUM_IMAGES * NUM_EPOCHS * header.record_bytes
    files = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert LabelStore(tmp_path).num_bytes() == files > total


def test_files_are_about_as_large_as_they_should_be():
    mix = MixChoice(kind="cutmix")
    for num_images, num_classes in ((100, 10), (50_000, 1000), (10, 10_450)):
        record_bytes = labels.record_bytes(num_classes, Codec(), LookChoice(), mix)
        each = num_images * record_bytes
        epochs = labels.epochs_per_file(num_images, record_bytes)
        assert epochs >= 1
        assert epochs == 1 or epochs * each <= labels.SHARD_BYTES < (epochs + 1) * each


RANDAUGMENT = [
    {"randaugment_set": operations, "randaugment_place": place}
    for operations in ("torchvision", "timm")
    for place in ("after-crop", "before-crop")
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", RANDAUGMENT)
def test_further_augmentation_comes_back_too(tmp_path: Path, kind: str, how: dict[str, str]):
    """What is read shows the very pixels that were labelled."""
    header = header_of(kind, views={"patch_shuffle": 2, "randaugment_ops": 2} | how)
    found = LabelStore(stored(tmp_path, header))
    shape = (NUM_IMAGES, 3, HEIGHT, WIDTH)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for epoch in range(NUM_EPOCHS):
        assert_same(found.epoch(epoch), record(header, epoch))
        everyone = torch.arange(NUM_IMAGES)
        seen, labelled = (
            replay.show(images, everyone, records)
            for records in (found.epoch(epoch).records, record(header, epoch).records)
        )
        assert torch.equal(seen, labelled)
    taken = sum(part.numel() * part.element_size() for name in header.files() for part in found._file(name).values())
    assert taken == NUM_IMAGES * NUM_EPOCHS * header.record_bytes


@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_few_logits_come_back_as_the_codec_rebuilds_them(tmp_path: Path, values: str):
    header = header_of(codec={"kind": "topk", "k": 2, "values": values})
    found = LabelStore(stored(tmp_path, header))
    some = torch.tensor([7, 0, 7, 3])
    for epoch in (0, 4, 6):
        rebuilt = codec.decode(record(header, epoch).encoded_logits, NUM_CLASSES)
        assert torch.equal(found.epoch(epoch).logits(), rebuilt)
        assert torch.equal(found.epoch(epoch).logits(some), rebuilt[some])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epochs_per_file", [1, 3, 100])
def test_a_pool_deals_every_record_once_each_time_round(tmp_path: Path, kind: str, epochs_per_file: int):
    header = header_of(kind, epochs_per_file, pooled=True)
    found, expected = LabelStore(stored(tmp_path, header)), [record(header, epoch) for epoch in range(NUM_EPOCHS)]
    for around in range(2):
        dealt = [found.epoch(around * NUM_EPOCHS + place) for place in range(NUM_EPOCHS)]
        for image in range(NUM_IMAGES):
            met = []
            for epoch in dealt:
                logits = epoch.logits(torch.tensor([image]))[0]
                (which,) = [
                    at
                    for at, other in enumerate(expected)
                    if torch.equal(other.encoded_logits["logits"][image], logits)
                ]
                met.append(which)
                one = tensors_of(epoch.records)
                for mine, theirs in zip(one, tensors_of(expected[which].records), strict=True):
                    assert (mine is None) == (theirs is None)
                    assert mine is None or theirs is None or torch.equal(mine[image], theirs[image])
            assert sorted(met) == list(range(NUM_EPOCHS))
    orders = {tuple(found.epoch(e).logits()[image, 0].item() for e in range(NUM_EPOCHS)) for image in range(NUM_IMAGES)}
    assert len(orders) == NUM_IMAGES
    first, later = found.epoch(0), found.epoch(NUM_EPOCHS)
    assert not torch.equal(first.logits(), later.logits())
    assert torch.equal(first.logits(), LabelStore(tmp_path).epoch(0).logits())


def planned(num_images: int, num_classes: int, num_epochs: int, codec: Codec) -> float:
    """Gigabytes of labels of CutMix views, without a file."""
    return (
        num_images * num_epochs * labels.record_bytes(num_classes, codec, LookChoice(), MixChoice(kind="cutmix")) / 1e9
    )


def test_published_sizes_and_what_they_can_become():
    """28 GB and 1.3 TB in the published layout (logits alone); budgets of 0.7 and 16 GB can be chosen."""
    logits_alone = 50_000 * 300 * Codec().record_bytes(1000) / 1e9, 209_000 * 300 * Codec().record_bytes(10_450) / 1e9
    assert [round(size) for size in logits_alone] == [30, 1310]
    assert planned(50_000, 1000, 30, Codec(kind="topk", k=100)) <= 0.7
    assert planned(50_000, 1000, 300, Codec(kind="topk", k=5, values="int8")) <= 0.7
    assert planned(209_000, 10_450, 30, Codec(kind="topk", k=500)) <= 16
    assert planned(209_000, 10_450, 300, Codec(kind="topk", k=50)) <= 16


def test_a_store_of_ten_thousand_classes_is_as_large_as_planned(tmp_path: Path):
    """ImageNet-21K-P's class count with few images: bytes on disk are those planned, in proportion to the images."""
    choice = Codec(kind="topk", k=50)
    header = header_of(num_images=20, num_classes=10_450, num_epochs=6, codec=choice, epochs_per_file=3)
    stored(tmp_path, header)
    found = LabelStore(tmp_path)
    planned_bytes = 20 * 6 * header.record_bytes
    assert planned_bytes <= found.num_bytes() <= planned_bytes + 4000
    assert found.num_bytes() * (209_000 / 20) * (300 / 6) <= 16e9
    assert found.epoch(5).logits().shape == (20, 10_450)


def test_a_file_of_another_shape_is_refused(tmp_path: Path):
    header = header_of("none")
    stored(tmp_path, header)
    name = next(iter(header.files()))
    tensors, said = weights.load_weights(tmp_path / name)
    weights.save_weights(tmp_path / name, tensors | {"flip": tensors["flip"][:, 1:].contiguous()}, said)
    with pytest.raises(AttarError, match=rf"{name} holds 'flip' with shape \(3, 11\) .* requires \(3, 12\) .*; delete"):
        LabelStore(tmp_path).epoch(0)


def test_half_precision_keeps_three_digits_and_never_overflows(tmp_path: Path):
    header = header_of("none", num_epochs=1)
    logits = torch.linspace(-60, 60, NUM_IMAGES * NUM_CLASSES).reshape(NUM_IMAGES, NUM_CLASSES)
    logits[3, 2], logits[4, 1] = 1e6, -1e6
    kept = record(header, 0)
    (name,) = header.files()
    labels.write_file(tmp_path, header, name, [EpochLabels(kept.records, codec.encode(logits, header.codec))])
    labels.write_header(tmp_path, header)
    found = LabelStore(tmp_path).epoch(0).logits()
    assert found.dtype == torch.float16
    assert (found[3, 2].item(), found[4, 1].item()) == (65504, -65504)
    logits[3, 2] = logits[4, 1] = found[3, 2] = found[4, 1] = 0
    torch.testing.assert_close(found.float(), logits, rtol=2**-11, atol=2**-25)  # half of a half's last bit


def test_unfinished_labels_are_refused(tmp_path: Path):
    stored(tmp_path, header_of())
    (tmp_path / HEADER).unlink()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AttarError, match=rf"{folder} holds no finished soft labels \(labels\.json\); run"):
            LabelStore(folder)


@pytest.mark.parametrize("text", ["", '{"format": 1, ', "\xff\xfe", "null", "[1, 2]", "3"])
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, text: str):
    stored(tmp_path, header_of())
    (tmp_path / HEADER).write_bytes(text.encode("latin-1"))
    with pytest.raises(AttarError, match=rf"{tmp_path / HEADER}"):
        LabelStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codecc": "fp16"}, "unknown key 'codecc'; did you mean 'codec'"),
        ({"format": 1}, "is of format 1 and this version reads 2"),
        ({"codec": {"kind": "top-k"}}, r"codec.kind must be .*, not 'top-k'"),
        ({"num_images": "many"}, "num_images"),
        ({"teacher": None}, "teacher"),
    ],
)
def test_a_header_of_another_format_is_refused_with_the_key(tmp_path: Path, change: dict[str, Any], words: str):
    stored(tmp_path, header_of())
    values = json.loads((tmp_path / HEADER).read_text()) | change
    (tmp_path / HEADER).write_text(json.dumps(values))
    with pytest.raises(AttarError, match=words) as caught:
        LabelStore(tmp_path)
    assert str(tmp_path / HEADER) in str(caught.value)


def test_a_header_that_lacks_a_key_is_refused(tmp_path: Path):
    stored(tmp_path, header_of())
    values = json.loads((tmp_path / HEADER).read_text())
    del values["images_sha256"]
    (tmp_path / HEADER).write_text(json.dumps(values))
    with pytest.raises(AttarError, match=r"labels\.json lacks the key 'images_sha256'"):
        LabelStore(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path):
    stored(tmp_path, header_of())
    (tmp_path / "epochs-00003-00005.safetensors").unlink()
    with pytest.raises(AttarError, match=r"has no file epochs-00003-00005\.safetensors; run"):
        LabelStore(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named_when_its_epochs_are_read(tmp_path: Path, kept: float):
    file = stored(tmp_path, header_of()) / "epochs-00003-00005.safetensors"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    found = LabelStore(tmp_path)
    assert_same(found.epoch(2), record(header_of(), 2))
    with pytest.raises(AttarError, match=r"epochs-00003-00005\.safetensors is damaged \(.+\); delete it and run"):
        found.epoch(3)


def test_labels_of_other_images_are_refused(tmp_path: Path):
    stored(tmp_path / "mine", header_of())
    stored(tmp_path / "other", header_of(images_sha256="ef" * 32))
    name = "epochs-00003-00005.safetensors"
    (tmp_path / "other" / name).replace(tmp_path / "mine" / name)
    found = LabelStore(tmp_path / "mine")
    with pytest.raises(AttarError, match=rf"{name} belongs to other images; delete it and run"):
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
        LabelStore(folder).epoch(3)
