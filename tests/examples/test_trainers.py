"""The trainers of other packages learn from a distilled set's soft labels."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attar
from attar.store import sealed
from conftest import edit_json

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


def divergence(network: torch.nn.Module, place: Path) -> float:
    """The student's distance from the teacher, on views of an epoch that it has not seen."""
    soft = attar.load(place).soft_dataset()
    soft.set_epoch(5)
    images, wanted = (torch.stack(part) for part in zip(*soft, strict=True))
    with torch.no_grad():
        said = network.cpu().eval()(images).log_softmax(1)
    return float(torch.nn.functional.kl_div(said, wanted, reduction="batchmean"))


@pytest.mark.parametrize("trainer", ["lightning", "accelerate", "timm"])
def test_students_come_closer_to_the_teacher(trainer: str, mini_run: Path, monkeypatch, capsys):
    pytest.importorskip(trainer, reason=f"{trainer} is not installed; pip install 'attar[examples]'")
    module = script(f"{trainer}_student", monkeypatch)
    model = "test_resnet" if trainer == "timm" else "convnet3"
    longer = 30 if trainer == "timm" else 5  # what is judged of timm's is an average over a hundred steps
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [module.train(str(mini_run), model, epochs, batch_size=10) for epochs in (1, longer)]
        module.main([str(mini_run), "--model", model, "--epochs", "1"])
    assert "after 1 epochs" in capsys.readouterr().out
    networks = [one.network if trainer == "lightning" else one[0] for one in found]
    short, long = (divergence(network, mini_run) for network in networks)
    assert long < short


def test_a_set_without_soft_labels_is_refused_in_a_sentence(mini_run: Path, tmp_path: Path):
    pytest.importorskip("timm")
    shutil.copytree(mini_run / "distilled", tmp_path / "set")
    labels = sealed.read_json(tmp_path / "set" / "dataset.json", "")["labels"]
    edit_json(tmp_path / "set" / "dataset.json", labels={**labels, "mode": "none", "scored": "hard"}, teachers=[])
    command = [sys.executable, str(EXAMPLES / "timm_student.py"), str(tmp_path / "set")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"timm_student.py: {tmp_path / 'set'} has no soft labels")
    assert ended.stderr.count("\n") == 1
