"""store/atomic.py and store/weights.py: whole files or none, and exact round trips."""

import errno
import hashlib
import json
import secrets
from pathlib import Path

import pytest
import safetensors.torch
import torch

from attar.core.errors import AttarError
from attar.store import atomic
from attar.store.weights import (
    check_seal,
    load_tree,
    load_weights,
    read_metadata,
    save_tree,
    save_weights,
    tensors_sha256,
)


def write_half(path: Path, interruption: BaseException) -> None:
    with atomic.replace(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_bytes(b"half of the n")
        raise interruption


def test_replace_moves_a_finished_file_into_place_and_makes_its_folder(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "file.bin"
    atomic.write_bytes(path, b"one")
    atomic.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, interruption: type[BaseException]):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(interruption):
        write_half(path, interruption())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_are_readable_like_any_other(tmp_path: Path):
    (tmp_path / "plain").touch()
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_and_text_round_trip(tmp_path: Path):
    value = {"name": "Häuser", "list": [1, 2.5, None, True]}
    atomic.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value
    atomic.write_text(tmp_path / "a.txt", "grün")
    assert (tmp_path / "a.txt").read_bytes() == "grün".encode()


def test_sha256_is_of_the_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    assert atomic.sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 300_000).hexdigest()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EPERM, "permission"),
    ],
)
def test_disk_errors_become_sentences_that_name_the_file(tmp_path: Path, number: int, words: str):
    with pytest.raises(AttarError, match=words) as caught:
        write_half(tmp_path / "unit.safetensors", OSError(number, "as the system says"))
    assert str(tmp_path / "unit.safetensors") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_are_not_disguised(tmp_path: Path):
    with pytest.raises(OSError, match="odd"):
        write_half(tmp_path / "a", OSError(errno.EIO, "odd"))


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path):
    (tmp_path / "runs").touch()
    for path in (tmp_path / "runs" / "a.json", tmp_path / "runs" / "deeper" / "a.json"):
        with pytest.raises(AttarError, match=r"a\.json.*is a file"):
            atomic.write_json(path, {})


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's always full device")
def test_a_truly_full_disk_while_weights_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    (tmp_path / ".weights.safetensors.known.tmp").symlink_to("/dev/full")
    with pytest.raises(AttarError, match=r"disk is full.*the same command again"):
        save_weights(path, {"a": torch.zeros(100_000)}, {})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


TENSORS = {
    "double": torch.arange(3, dtype=torch.float64),
    "float": torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([[1.5]], dtype=torch.bfloat16),
    "long": torch.tensor([2**60, -1]),
    "byte": torch.arange(5, dtype=torch.uint8),
    "flag": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7.0),
    "nothing": torch.zeros(0, 3),
}


def test_weights_round_trip_every_kind_of_tensor(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, {"who": "Ä", "what": '{"a": 1}'})
    tensors, metadata = load_weights(path)
    assert metadata == {"who": "Ä", "what": '{"a": 1}'} == read_metadata(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_safetensors_library_reads_the_same(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, {})
    theirs = safetensors.torch.load(path.read_bytes())
    assert theirs.keys() == TENSORS.keys()
    assert all(torch.equal(theirs[name], TENSORS[name]) for name in TENSORS)
    assert read_metadata(path) == {}


def test_equal_content_gives_equal_bytes_whatever_the_order_of_tensors(tmp_path: Path):
    metadata = {f"key{index}": "value" for index in range(9)}
    save_weights(tmp_path / "a", TENSORS, metadata)
    save_weights(tmp_path / "b", dict(reversed(TENSORS.items())), metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_views_shared_and_trained_tensors_are_stored_as_they_look(tmp_path: Path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "same": base, "turned": base.T, "part": base[:, 1:3], "wide": base[:1].expand(5, 4)}
    tensors["trained"] = torch.nn.Parameter(base)
    save_weights(tmp_path / "w", tensors, {})
    loaded, _ = load_weights(tmp_path / "w")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    loaded["base"].zero_()
    assert torch.equal(loaded["same"], base)
    assert torch.equal(load_weights(tmp_path / "w")[0]["base"], base)


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing", "folder"])
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path: Path, damage: str):
    path = tmp_path / "w.safetensors"
    if damage == "truncated":
        save_weights(path, TENSORS, {})
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"PK\x03\x04" + b"x" * 200)
    for read in (load_weights, read_metadata, load_tree):
        with pytest.raises(AttarError, match=r"w\.safetensors"):
            read(path)


def header(size: int, *, shape: int = 1, end: int = 4) -> bytes:
    tensor = json.dumps({"x": {"dtype": "F32", "shape": [shape], "data_offsets": [0, end]}}).encode()
    return (size or len(tensor)).to_bytes(8, "little") + tensor + b"0000"


@pytest.mark.parametrize(
    "content",
    [header(1 << 62), header(0, shape=1 << 40, end=1 << 42), header(0, shape=1 << 40), header(0, end=1 << 42)],
    ids=["header", "tensor", "shape", "place"],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path, content: bytes):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    for read in (load_weights, read_metadata, load_tree):
        with pytest.raises(AttarError, match=r"w\.safetensors is not a complete safetensors file"):
            read(path)
    if content.startswith(header(1 << 62)[:8]):
        with pytest.raises(AttarError, match=r"w\.safetensors is damaged"):
            check_seal(path)


def test_a_tree_comes_back_exactly(tmp_path: Path):
    tree = {
        "epoch": 3,
        0: {"step": torch.tensor(4.0), "0": "text", None: None, True: [1, 2.5, float("inf"), -0.0, 1e-300]},
        "tuple": (0.9, 0.999, ()),
        "empty": {"list": [], "dict": {}},
        "tensors": [TENSORS["half"], TENSORS["flag"], [TENSORS["nothing"]]],
    }
    save_tree(tmp_path / "tree", tree)
    loaded = load_tree(tmp_path / "tree")
    assert _plain(loaded) == _plain(tree)


def test_training_goes_on_from_a_stored_optimiser_as_if_uninterrupted(tmp_path: Path):
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        network = torch.nn.Linear(4, 2)
        torch.nn.init.constant_(network.weight, 0.1)
        torch.nn.init.constant_(network.bias, 0.0)
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
        return network, optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 6)

    def step(network, optimiser, schedule) -> None:
        optimiser.zero_grad()
        network(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimiser.step()
        schedule.step()

    whole, first, second = make(), make(), make()
    for _ in range(6):
        step(*whole)
    for _ in range(3):
        step(*first)
    save_tree(tmp_path / "state", [part.state_dict() for part in first])
    for part, state in zip(second, load_tree(tmp_path / "state"), strict=True):
        part.load_state_dict(state)
    for _ in range(3):
        step(*second)
    assert torch.equal(second[0].weight, whole[0].weight)


@pytest.mark.parametrize("tree", [{"a": object()}, [{1, 2}], {(1, 2): 3}, b"bytes"])
def test_what_json_cannot_say_is_a_type_error_and_writes_nothing(tmp_path: Path, tree: object):
    with pytest.raises(TypeError, match="cannot store"):
        save_tree(tmp_path / "tree", tree)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_not_taken_for_a_tree(tmp_path: Path):
    save_weights(tmp_path / "w", TENSORS, {})
    with pytest.raises(AttarError, match="not a saved state"):
        load_tree(tmp_path / "w")


def _plain(value: object) -> object:
    """Tensors as comparable values, and keys with their types, for 1 == True in Python."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.tolist())
    if isinstance(value, dict):
        return {(type(key), key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_plain(item) for item in value]
    return type(value), repr(value)


def test_a_single_value_of_a_larger_tensor_is_kept(tmp_path: Path):
    column = torch.arange(10.0).reshape(1, 10)[:, 3]
    assert column.is_contiguous()
    assert column.stride() == (10,)
    save_weights(tmp_path / "one.safetensors", {"one": column}, {})
    assert load_weights(tmp_path / "one.safetensors")[0]["one"].tolist() == [3.0]
    assert tensors_sha256({"one": column}) == tensors_sha256({"one": column.clone()})
