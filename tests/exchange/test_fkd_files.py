"""exchange/fkd_files.py: what is exported, the plain reader shows as attar does; what cannot be is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import published_layout
from attar import cli
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.exchange import fkd_files as exporter
from attar.ops import codec, replay
from attar.ops.codec import Codec
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.stages.dataset_info import DatasetInfo, LabelInfo, TeacherInfo, write_info
from attar.stages.distilled import Distilled
from attar.stages.protocols import PROTOCOLS
from attar.stages.published_labels import PublishedLabels
from attar.store import fkd, weights
from attar.store import images as image_files
from attar.store import labels as label_files
from attar.store.images import ImageSet
from attar.store.labels import EpochLabels, Header
from published_layout import IPC, NUM_CLASSES, NUM_EPOCHS, SIZE, Kind

KINDS: tuple[Kind, ...] = ("none", "cutmix", "mixup")
COUNT = NUM_CLASSES * IPC
CLASSES = tuple(f"colour {label}" for label in range(NUM_CLASSES))
NAMES = [f"new{label:03d}/class{label:03d}_id{slot:03d}" for slot in range(IPC) for label in range(NUM_CLASSES)]


def make(folder: Path, suffix: str = "jpg", mode: str = "stored", pooled: bool = False, **choices: Any) -> Distilled:
    """A set as relabel leaves it, its labels by the colour teacher, written without a run around them."""
    root = published_layout.make_images(folder / "source", suffix)
    files = [(root / f"{name}.{suffix}").read_bytes() for name in NAMES]
    rows = ((file, place % NUM_CLASSES, place // NUM_CLASSES) for place, file in enumerate(files))
    size = image_files.write(folder / "set" / "data", rows, CLASSES)
    stored = image_files.read(folder / "set" / "data")
    views, mix = choices.get("views", LookChoice()), choices.get("mix", MixChoice())
    header = Header(
        codec=choices.get("codec", Codec()),
        images_sha256=stored.sha256(),
        num_images=COUNT,
        num_classes=NUM_CLASSES,
        num_epochs=NUM_EPOCHS,
        pooled=pooled,
        epochs_per_file=2,
        height=SIZE,
        width=SIZE,
        views=views,
        mix=mix,
        teacher="ab" * 32,
    )
    for name, epochs in header.files().items():
        label_files.write_file(folder / "set" / "labels", header, name, [labelled(stored, header, e) for e in epochs])
    label_files.write_header(folder / "set" / "labels", header)
    info = DatasetInfo(
        name="colours", source="colours", licence="none", classes=CLASSES, titles={}, method="given", recover={},
        num_images=COUNT, ipc=IPC, size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
        images_sha256=stored.sha256(), seed=0,
        teachers=(TeacherInfo(architecture="by colour", weights_sha256="ab" * 32, accuracy=None),),
        labels=LabelInfo(mode=mode, epochs=NUM_EPOCHS, views=views, mix=mix),  # type: ignore[arg-type]
        protocol=PROTOCOLS["sre2l"], image_bytes=size, label_bytes=0, versions={},
    )  # fmt: skip
    write_info(folder / "set", info)
    return Distilled(folder / "set")


def labelled(stored: ImageSet, header: Header, epoch: int) -> EpochLabels:
    order = replay.published_order(stored.labels, stored.slots, epoch) if header.mix.shared_by else None
    stream = torch.Generator().manual_seed(epoch)
    records = replay.draw(COUNT, (SIZE, SIZE), header.views, header.mix, stream, order)
    logits = published_layout.by_colour(replay.show(stored.images, torch.arange(COUNT), records)).float()
    return EpochLabels(records, codec.encode(logits, header.codec))


def export(folder: Path, batch_size: int = 0) -> Path:
    exporter.export(folder / "set", folder / "out", batch_size, Log(quiet=True))
    return folder / "out"


def mixed(kind: Kind, batch: int = 64) -> MixChoice:
    return MixChoice(kind=kind, shared_by=0 if kind == "none" else batch)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "suffix", "crop"),
    [
        ("none", "jpg", "resized"),
        ("cutmix", "jpg", "resized"),
        ("mixup", "png", "resized"),
        ("cutmix", "png", "padded"),
    ],
)
def test_the_plain_reader_shows_what_attar_shows(tmp_path: Path, kind: Kind, suffix: str, crop: str):
    views = LookChoice.of({"crop": crop, "padding": 3}, "the test")
    distilled = make(tmp_path, suffix, mix=mixed(kind), views=views)
    out = export(tmp_path, 64)
    assert tree(out / "images") == tree(tmp_path / "source"), "images are kept byte by byte"
    labels, every = label_files.LabelStore(tmp_path / "set" / "labels"), torch.arange(COUNT)
    stored = [labels.epoch(epoch) for epoch in range(NUM_EPOCHS)]
    shown = [replay.show(distilled.images, every, epoch.records).double() for epoch in stored]
    seen: dict[int, set[str]] = {}
    for epoch, name, picture, logits in published_layout.read(out / "images", out / "labels", 64, NUM_EPOCHS):
        place = NAMES.index(name.removesuffix(f".{suffix}"))
        torch.testing.assert_close(shown[epoch][place], picture, rtol=0, atol=1e-6)
        assert torch.equal(stored[epoch].logits(every[[place]])[0], logits)
        seen.setdefault(epoch, set()).add(name)
    assert [len(names) for names in seen.values()] == [COUNT] * NUM_EPOCHS


@pytest.mark.parametrize("views", [LookChoice(), LookChoice(crop="padded", padding=2), LookChoice(crop="none")])
@pytest.mark.parametrize("kind", KINDS)
def test_export_and_import_give_the_labels_back(tmp_path: Path, kind: Kind, views: LookChoice):
    distilled = make(tmp_path, mix=mixed(kind), views=views)
    out = export(tmp_path, 64)
    stored = ImageSet(distilled.images, distilled.labels, distilled.slots)
    found = PublishedLabels(out / "labels", stored, NUM_CLASSES)
    assert found.num_epochs == NUM_EPOCHS
    assert found.mix.changed(alpha=1.0) == mixed(kind)
    labels = label_files.LabelStore(tmp_path / "set" / "labels")
    for epoch in range(NUM_EPOCHS):
        ours, theirs = labels.epoch(epoch), found.epoch(epoch, Codec())
        assert torch.equal(theirs.encoded_logits["logits"], ours.logits())
        pairs: list[tuple[Tensor, Tensor]] = [
            (theirs.records.look.view.box, ours.records.look.view.box),
            (theirs.records.look.view.flip, ours.records.look.view.flip),
        ]
        if ours.records.mix is not None:
            assert theirs.records.mix is not None
            keys = ("partner", "weight") + (("box",) if kind == "cutmix" else ())
            pairs += [(getattr(theirs.records.mix, key), getattr(ours.records.mix, key)) for key in keys]
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_import_and_export_give_the_published_files_back(tmp_path: Path, kind: Kind):
    """All that the published trainer reads; CutMix's share is told as it came out, which the trainer never looks at."""
    distilled = make(tmp_path, mix=mixed(kind))
    published_layout.write(tmp_path / "source", tmp_path / "theirs", kind)
    stored = ImageSet(distilled.images, distilled.labels, distilled.slots)
    found = PublishedLabels(tmp_path / "theirs", stored, NUM_CLASSES)
    labels = label_files.LabelStore(tmp_path / "set" / "labels")
    for name, epochs in labels.header.files().items():
        label_files.write_file(
            labels.folder, labels.header, name, [found.epoch(epoch, labels.header.codec) for epoch in epochs]
        )
    out = export(tmp_path, 64) / "labels"
    assert sorted(tree(out)) == sorted(tree(tmp_path / "theirs"))
    for name in tree(out):
        ours, theirs = fkd.read_batch(out / name), fkd.read_batch(tmp_path / "theirs" / name)
        for key in ("coords", "flip", "logits", "partner"):
            one, other = getattr(ours, key), getattr(theirs, key)
            assert (one is None and other is None) or torch.equal(one, other)
        assert ours.box == theirs.box
        assert kind == "cutmix" or ours.share == pytest.approx(theirs.share, abs=1e-7)


def test_the_batch_size_is_the_labels_own_or_the_published_one(tmp_path: Path):
    make(tmp_path / "mixed", mix=mixed("cutmix", 32))
    make(tmp_path / "plain")
    for name, batches in (("mixed", 5), ("plain", 1)):
        out = export(tmp_path / name)
        assert fkd.scan(out / "labels").num_batches == batches
    told = (tmp_path / "mixed" / "out" / "README.md").read_text()
    assert "--batch-size 32 --gradient-accumulation-steps 2 --epochs 3 --cos -T 20 --mix-type cutmix`" in told


def test_the_command_line_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path)
    asked = ["export", "fkd", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    cli.main([*asked, "--batch-size", "64"])
    assert "in batches of 64, for the published scripts" in capsys.readouterr().out
    assert fkd.scan(tmp_path / "out" / "labels").num_batches == 3
    with pytest.raises(SystemExit):
        cli.main([*asked, "--batch-size", "-1"])
    assert "use --batch-size 1024" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "ddranking", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--batch-size", "4"])
    assert "has no batches; leave out --batch-size" in capsys.readouterr().err


def test_a_run_is_as_good_as_its_set(tmp_path: Path):
    make(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "set").rename(tmp_path / "run" / "distilled")
    (line,) = exporter.export(tmp_path / "run", tmp_path / "out", log=Log(quiet=True))
    assert "160 images and 3 epochs of labels in batches of 1024" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "images", "labels"]
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir() if not path.name.startswith("epoch_")] == []


@pytest.mark.parametrize(
    ("choices", "asked", "words"),
    [
        (
            {"mix": MixChoice(kind="cutmix")},
            0,
            r"batches of 1024 do not; relabel with --relabel\.mix\.shared-by 1024\.$",
        ),
        ({"mix": MixChoice(kind="mixup")}, 64, r"--relabel\.mix\.shared-by 64\.$"),
        ({"mix": mixed("cutmix", 32)}, 64, r"--relabel\.mix\.shared-by 64, or export with --batch-size 32\.$"),
        ({"mix": mixed("cutmix"), "pooled": True}, 64, r"shared-by 64 --relabel\.pool-epochs 0\.$"),
        ({"views": LookChoice(patch_shuffle=2)}, 0, r"cannot store .*--relabel\.views\.patch-shuffle 1"),
        ({"views": LookChoice(randaugment_ops=1)}, 0, r"--relabel\.views\.randaugment-ops 0"),
        ({"mode": "online"}, 0, r"no stored labels to export; relabel it with --relabel\.mode stored"),
    ],
)
def test_what_the_layout_cannot_express_is_refused(tmp_path: Path, choices: dict[str, Any], asked: int, words: str):
    make(tmp_path, **choices)
    with pytest.raises(AttarError, match=words):
        export(tmp_path, asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"], "something was left behind"


def test_labels_that_only_say_that_they_share_are_refused_and_nothing_is_left(tmp_path: Path):
    make(tmp_path, mix=mixed("cutmix"))
    path = tmp_path / "set" / "labels" / "epochs-00002-00002.safetensors"
    tensors, said = weights.load_weights(path)
    tensors["partner"][0, 5] = (tensors["partner"][0, 5] + 1) % COUNT
    tensors["mix_box"][0, 5, 0] += 1
    weights.save_weights(path, tensors, said)
    with pytest.raises(AttarError, match="should share one mix per batch but do not; relabel again"):
        export(tmp_path, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"]


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path):
    make(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(AttarError, match="out exists and is not an empty folder; choose another --out"):
        export(tmp_path)
    assert tree(tmp_path / "out") == {"mine.txt": b"mine"}
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert fkd.scan(export(tmp_path) / "labels").num_images == COUNT


def test_many_classes_have_longer_names():
    png, jpeg = b"\x89PNG\r\n", b"\xff\xd8\xff"
    assert exporter.image_name(7, 3, 1000, jpeg) == "new007/class007_id003.jpg"
    assert exporter.image_name(7, 3, 1001, png) == "new00007/class00007_id003.png"
