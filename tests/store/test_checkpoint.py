"""store/checkpoint.py: states of unfinished work."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.store import checkpoint as checkpoints
from attar.store import weights
from attar.store.checkpoint import Checkpoint


def state(number: int) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((3,), float(number))}


def test_what_is_saved_comes_back_to_the_same_work_alone(tmp_path: Path):
    path = tmp_path / "deep" / "one.safetensors"
    Checkpoint(path, "mine", every_seconds=0).offer(lambda: state(4))
    found = Checkpoint(path, "mine").load()
    assert found is not None
    assert found["number"] == 4
    assert torch.equal(found["weights"], torch.full((3,), 4.0))
    assert Checkpoint(path, "another").load() is None
    Checkpoint(path, "mine").remove()
    assert not path.exists()
    assert Checkpoint(path, "mine").load() is None


def test_it_is_saved_by_the_clock_and_costs_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, asked = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def save(path: Path, tree: Any) -> None:
        now[0] += 10  # a slow disk
        asked.append(tree["state"])

    monkeypatch.setattr(checkpoints.weights, "save_tree", save)
    one = Checkpoint(tmp_path / "one", "mine")
    for second in (30, 59, 60, 71, 130, 269, 270):
        now[0] = float(second)
        one.offer(lambda second=second: second)
    assert asked == [60, 270], "after 60 seconds, and then after 20 times what saving takes"


@pytest.mark.parametrize("damage", ["cut off", "changed", "no tree", "empty"])
def test_a_damaged_one_is_not_used(damage: str, tmp_path: Path):
    path = tmp_path / "one.safetensors"
    Checkpoint(path, "mine", every_seconds=0).offer(lambda: state(4))
    content = path.read_bytes()
    if damage == "no tree":
        weights.save_weights(path, {"weights": torch.ones(3)}, {})
    else:
        path.write_bytes({"cut off": content[:-2], "changed": content[:-1] + b"x", "empty": b""}[damage])
    assert Checkpoint(path, "mine").load() is None
