"""models/foreign.py: every layout, every refusal."""

import argparse
import os
import pathlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attar.core.errors import AttarError
from attar.models.build import build
from attar.models.foreign import load_into, read_checkpoint
from attar.store.weights import save_weights

STATE = {
    "fc.weight": torch.arange(6.0).reshape(2, 3),
    "fc.bias": torch.ones(2),
    "bn.num_batches_tracked": torch.tensor(4),
}
ARGS = argparse.Namespace(model="resnet18", lr=0.5, output=pathlib.Path("runs"), seen=np.float64(0.5), n=np.int64(3))

LAYOUTS: dict[str, Any] = {
    "plain": STATE,
    "torchvision": {
        "model": STATE,
        "optimizer": {"state": {}},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": ARGS,
    },
    "timm": {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": STATE,
        "state_dict_ema": {},
        "args": ARGS,
        "metric": np.float32(1),
    },
    "named model": {"model": "resnet18", "state_dict": STATE},
    "tutorial": {"model_state_dict": STATE, "loss": 0.1},
    "kuangliu": {"net": STATE, "acc": 95.0, "epoch": 3},
    "nested": {"model": {"state_dict": STATE}},
    "prefixed": {"model": {f"module.{key}": value for key, value in STATE.items()}},
    "compiled": {f"module._orig_mod.{key}": value for key, value in STATE.items()},
    "averaged": {"model_ema": {"n_averaged": torch.tensor(2), **{f"module.{k}": v for k, v in STATE.items()}}},
    "timm averaged alone": {"state_dict_ema": STATE, "epoch": 2},
    "averaged beside": {"model": STATE, "model_ema": {key: value + 1 for key, value in STATE.items()}},
    "lightning": {
        "state_dict": {f"model.{key}": value for key, value in STATE.items()},
        "pytorch-lightning_version": "2.5",
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1},
    },
    "an epoch among the weights": {**STATE, "epoch": 3},
    "compiled first": {f"_orig_mod.module.model.{key}": value for key, value in STATE.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pth", ".tar", ".bin"])
def test_layouts(tmp_path: Path, layout: str, suffix: str):
    path = tmp_path / f"checkpoint{suffix}"
    torch.save(LAYOUTS[layout], path, _use_new_zipfile_serialization=suffix != ".tar")
    state, classes = read_checkpoint(path)
    assert classes is None
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


def test_a_prefix_that_only_some_keys_have_stays(tmp_path: Path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth")[0].keys() == {"module.a", "b"}


def test_safetensors_and_class_names(tmp_path: Path):
    save_weights(tmp_path / "c.safetensors", {f"module.{key}": value for key, value in STATE.items()}, {})
    state, classes = read_checkpoint(tmp_path / "c.safetensors")
    assert state.keys() == STATE.keys()
    assert classes is None
    torch.save({"model": STATE, "classes": ["cat", "dog"]}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt")[1] == ("cat", "dog")


def test_the_names_of_the_outputs_are_read(tmp_path: Path):
    torch.save({"state_dict": STATE, "class_to_idx": {"dog": 1, "cat": 0}}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt")[1] == ("cat", "dog")
    torch.save({"state_dict": STATE, "hyper_parameters": {"classes": ["b", "a"]}}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt")[1] == ("b", "a")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class Copier:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("payload", [Payload, Copier])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, payload: Any, zipped: bool):
    target = tmp_path / "was-run"
    path = tmp_path / "c.pth"
    torch.save({"model": STATE, "args": payload(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AttarError, match=r"c\.pth contains '(posix\.system|os\.system|io\.open|_io\.open)'"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert target.exists()


def test_a_whole_pickled_network_is_refused_by_its_class(tmp_path: Path):
    torch.save(nn.Linear(1, 1), tmp_path / "c.pth")
    with pytest.raises(AttarError, match=r"torch\.nn\.modules\.linear\.Linear.*state dict"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing", "folder", "legacy truncated"])
def test_damaged_files_are_named(tmp_path: Path, damage: str):
    path = tmp_path / "c.pth"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        torch.save(STATE, path, _use_new_zipfile_serialization=not damage.startswith("legacy"))
        whole = path.read_bytes()
        path.write_bytes({"text": b"<html>404</html>", "empty": b""}.get(damage, whole[: len(whole) // 2]))
    with pytest.raises(AttarError, match=r"c\.pth") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "optimizer": {}}, "the keys epoch, optimizer"),
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "nothing"),
        ({"model": {}}, "the keys model"),
        ({"model": {"fc.weight": "no tensor"}}, "the keys model"),
    ],
)
def test_unknown_layouts_say_what_was_found(tmp_path: Path, content: Any, found: str):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(AttarError, match=rf"c\.pth holds .*{found}.*, but no weights"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_checkpoint_nested_in_itself_ends(tmp_path: Path):
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(AttarError, match="but no weights"):
        read_checkpoint(tmp_path / "c.pth")


PATH = Path("some/c.pth")


def test_load_into_copies_weights():
    source, target = build("resnet20", 4, 32, seed=1), build("resnet20", 4, 32, seed=2)
    load_into(target, source.state_dict(), PATH)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize("wrap", ["network", "checkpoint"])
def test_load_into_reconciles_wrappers(wrap: str):
    plain = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.ModuleDict({"model": nn.ModuleDict({"module": nn.Sequential(nn.Linear(2, 2))})})
    source, target = (plain, wrapped) if wrap == "network" else (wrapped, plain)
    load_into(target, source.state_dict(), PATH)
    for given, loaded in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(given, loaded)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "squeezenet1_1", "timm/vit_tiny_patch16_224"])
def test_other_classes_are_counted(name: str):
    state = build(name, 1000, 64, seed=0).state_dict()
    with pytest.raises(AttarError, match=r"c\.pth .* the checkpoint has 1000 classes, the data 10;"):
        load_into(build(name, 10, 64, seed=0), state, PATH)


def test_another_stem_is_hinted_at():
    state = build("resnet18", 10, 64, stem="standard", seed=0).state_dict()
    with pytest.raises(AttarError, match=r"7x7 convolution 'conv1.weight', but ResNet has 3x3.*--squeeze\.stem"):
        load_into(build("resnet18", 10, 64, stem="small", seed=0), state, PATH)


def test_the_first_wrong_weight_is_named():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    state = network.state_dict()
    with pytest.raises(AttarError, match=r"has no weight '1.weight', which Sequential needs"):
        load_into(network, {key: state[key] for key in ("0.weight", "0.bias")}, PATH)
    with pytest.raises(AttarError, match=r"has the weight '2.bias', which Sequential does not have"):
        load_into(network, {**state, "2.bias": torch.zeros(1)}, PATH)
    with pytest.raises(AttarError, match=r"has '0.weight' of shape \[4, 5\], but Sequential needs \[4, 3\]"):
        load_into(network, {**state, "0.weight": torch.zeros(4, 5)}, PATH)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def test_what_evaluation_does_not_read_may_be_missing_or_too_much():
    source, target = build("resnet20", 4, 32, seed=1), build("resnet20", 4, 32, seed=2)
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_into(target, {**old, "bn1.total_ops": torch.zeros(1), "aux1.fc.weight": torch.zeros(3)}, PATH)
    assert torch.equal(target.get_parameter("fc.weight"), source.get_parameter("fc.weight"))
    assert target.get_buffer("bn1.num_batches_tracked") == 0
    del old["bn1.running_mean"]
    with pytest.raises(AttarError, match=r"has no weight 'bn1\.running_mean'"):
        load_into(target, old, PATH)


@pytest.mark.parametrize("prefix", ["net.", "backbone.encoder."])
def test_a_network_among_other_weights_is_found(prefix: str):
    source, target = build("resnet20", 4, 32, seed=1), build("resnet20", 4, 32, seed=2)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    load_into(target, {**state, "criterion.weight": torch.ones(4)}, PATH)
    assert torch.equal(target.get_parameter("fc.weight"), source.get_parameter("fc.weight"))
    twice = {f"{who}.{key}": value for key, value in source.state_dict().items() for who in ("student", "teacher")}
    with pytest.raises(AttarError, match=r"holds several such networks \(student, teacher\)"):
        load_into(target, twice, PATH)


@pytest.mark.parametrize(("key", "value"), [("fc.weight", float("nan")), ("bn1.running_var", float("inf"))])
def test_weights_that_are_no_numbers_are_refused_by_name(key: str, value: float):
    network = build("resnet20", 4, 32, seed=1)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state[key].view(-1)[0] = value
    with pytest.raises(AttarError, match=rf"c\.pth has NaN or infinite values in the weight '{key}'"):
        load_into(network, state, PATH)
    assert network.get_parameter("fc.weight").isfinite().all()


def test_masks_may_be_infinite():
    network = nn.Sequential(nn.Linear(2, 2))
    network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    load_into(network, network.state_dict(), PATH)


class AttributeDict(dict):
    """Stands for Lightning's."""


def test_lightnings_settings_are_harmless(tmp_path: Path):
    AttributeDict.__module__, AttributeDict.__qualname__ = "lightning.fabric.utilities.data", "AttributeDict"
    module = types.ModuleType("lightning.fabric.utilities.data")
    module.AttributeDict = AttributeDict  # pyright: ignore[reportAttributeAccessIssue]
    names = ["lightning", "lightning.fabric", "lightning.fabric.utilities", "lightning.fabric.utilities.data"]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, module)
        content = {"state_dict": STATE, "hyper_parameters": AttributeDict(classes=["b", "a"])}
        torch.save(content, tmp_path / "c.ckpt")
    state, classes = read_checkpoint(tmp_path / "c.ckpt")
    assert state.keys() == STATE.keys()
    assert classes == ("b", "a")
