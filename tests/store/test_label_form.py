"""store/label_form.py: tensors that no label has are refused by name, and all that attar writes are accepted."""

import pytest
import torch

from attar.core.errors import AttarError
from attar.ops import codec as codecs
from attar.ops import replay
from attar.ops.choices import Storage
from attar.ops.codec import Codec
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.store import labels, weights
from attar.store.labels import EpochLabels, Header, LabelStore

COUNT, NUM_CLASSES = 6, 5
VIEWS = LookChoice(patch_shuffle=2, randaugment_ops=2, dsa=("crop", "flip"))
STORAGE = Storage(factor=2)


def stored(folder, codec: Codec, kind: str = "cutmix", **values) -> Header:
    header = Header.of(
        {
            "codec": codec, "images_sha256": "ab", "num_images": COUNT, "num_classes": NUM_CLASSES, "num_epochs": 2,
            "epochs_per_file": 2, "height": 8, "width": 8, "views": VIEWS, "teacher": "cd",
            "storage": STORAGE,
            "mix": MixChoice.of({"kind": kind}, "the test"),
        } | values,
        "the test",
    )  # fmt: skip
    epochs = []
    for epoch in range(2):
        stream = torch.Generator().manual_seed(epoch)
        records = replay.draw(COUNT, (8, 8), header.views, header.mix, stream, storage=STORAGE)
        logits = 5 * torch.randn(COUNT, NUM_CLASSES, generator=stream)
        epochs.append(EpochLabels(records, codecs.encode(logits, codec)))
    for name in header.files():
        labels.write_file(folder, header, name, epochs)
    labels.write_header(folder, header)
    return header


CODECS = {
    "fp16": Codec(),
    "topk": Codec(kind="topk", k=2),
    "int8": Codec(kind="topk", k=2, values="int8"),
    "drop": Codec(kind="topk", k=2, remainder="drop"),
    "all": Codec(kind="topk", k=9),
}


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("kind", ["none", "mixup", "cutmix"])
def test_what_attar_writes_is_accepted(tmp_path, codec: str, kind: str):
    header = stored(tmp_path, CODECS[codec], kind)
    assert labels.fault(tmp_path, header, next(iter(header.files()))) == ""
    assert LabelStore(tmp_path).epoch(1).logits().shape == (COUNT, NUM_CLASSES)


NONSENSE = [
    ("fp16", "logits", lambda part: torch.full_like(part, float("nan"))),
    ("fp16", "logits", lambda part: torch.full_like(part, float("inf"))),
    ("fp16", "logits", lambda part: part[..., :3].clone()),
    ("fp16", "logits", lambda part: part.float()),
    ("fp16", "logits", lambda part: part[:1].clone()),
    ("fp16", "partner", lambda part: part + 10**9),
    ("fp16", "partner", lambda part: torch.full_like(part, -1)),
    ("fp16", "mix_weight", lambda part: torch.full_like(part, float("nan"))),
    ("fp16", "mix_weight", lambda part: part + 1.5),
    ("fp16", "mix_box", lambda part: part + 8),
    ("fp16", "mix_box", lambda part: torch.full_like(part, 2**15 - 1)),
    ("fp16", "box", lambda part: torch.zeros_like(part)),
    ("fp16", "flip", lambda part: part + 2),
    ("fp16", "part", lambda part: torch.full_like(part, 5)),
    ("fp16", "siamese", lambda part: torch.full_like(part, 100)),
    ("fp16", "siamese", lambda part: part[..., :10].clone()),
    ("fp16", "patches", lambda part: torch.full_like(part, 255)),
    ("fp16", "patches", lambda part: torch.zeros_like(part)),
    ("fp16", "changes", lambda part: torch.full_like(part, 100)),
    ("fp16", "changes", lambda part: torch.full_like(part, -1)),
    ("topk", "classes", lambda part: part + NUM_CLASSES),
    ("topk", "values", lambda part: torch.full_like(part, float("nan"))),
    ("topk", "rest", lambda part: torch.full_like(part, float("inf"))),
    ("int8", "range", lambda part: part.flip(-1)),
    ("int8", "range", lambda part: torch.full_like(part, float("nan"))),
    *[("fp16", name, None) for name in ("logits", "mix_weight", "partner", "mix_box", "box", "flip", "patches")],
    *[("int8", name, None) for name in ("classes", "values", "range", "rest")],
]


@pytest.mark.parametrize(("codec", "name", "change"), NONSENSE)
def test_nonsense_is_refused_by_name(tmp_path, codec: str, name: str, change):
    """Also where the file is whole, or has no seal: whoever made it may have written it so."""
    header = stored(tmp_path, CODECS[codec])
    (file,) = header.files()
    tensors, said = weights.load_weights(tmp_path / file)
    changed = {key: value for key, value in tensors.items() if key != name}
    if change is not None:
        changed[name] = change(tensors[name]).contiguous()
    weights.save_weights(tmp_path / file, changed, said, sealed=True)
    with pytest.raises(AttarError, match=rf"{file} .*'{name}'.*; delete it and run the same command again"):
        LabelStore(tmp_path).epoch(0).logits()
    assert f"'{name}'" in labels.fault(tmp_path, header, file)


@pytest.mark.parametrize(
    ("operations", "most"), [("torchvision", (13, 30)), ("timm", (20, 120))], ids=["torchvision", "timm"]
)
def test_the_limits_of_randaugment_are_those_of_its_operations(tmp_path, operations: str, most: tuple[int, int]):
    header = stored(tmp_path, CODECS["fp16"], views=VIEWS.changed(randaugment_set=operations))
    (file,) = header.files()
    assert labels.fault(tmp_path, header, file) == ""
    tensors, said = weights.load_weights(tmp_path / file)
    for extra in ((0, 0), (1, 0), (0, 1)):
        furthest = torch.tensor(most) + torch.tensor(extra)
        changed = tensors | {"changes": tensors["changes"] * 0 + furthest.to(torch.int8)}
        weights.save_weights(tmp_path / file, changed, said, sealed=True)
        assert ("'changes'" in labels.fault(tmp_path, header, file)) == (sum(extra) > 0)


def test_tensors_that_the_header_does_not_tell_of_are_refused(tmp_path):
    (file,) = stored(tmp_path, CODECS["fp16"], "none").files()
    tensors, said = weights.load_weights(tmp_path / file)
    weights.save_weights(tmp_path / file, tensors | {"more": torch.zeros(2)}, said)
    with pytest.raises(AttarError, match="holds a tensor 'more' that labels.json does not mention"):
        LabelStore(tmp_path).epoch(0)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("files", ["one file", "many"])
def test_a_thousand_million_epochs_are_refused_at_once(tmp_path, pooled: bool, files: str):
    header = stored(tmp_path, CODECS["fp16"])
    (old,) = header.files()
    many = 10**9
    vast = header.changed(num_epochs=many, epochs_per_file=many if files == "one file" else 2, pooled=pooled)
    (tmp_path / old).rename(tmp_path / vast.file_of(0)[0])
    labels.write_header(tmp_path, vast)
    with pytest.raises(AttarError, match="epochs-"):
        LabelStore(tmp_path).epoch(0)
