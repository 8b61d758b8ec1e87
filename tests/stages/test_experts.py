"""Experts as a product of squeeze, and a unit of trajectory matching through the stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.core.errors import AttarError
from attar.models.build import build
from attar.recipes.recipe import Recipe
from attar.stages.run import Run
from attar.store import checkpoint, trajectories, units
from attar.store.checkpoint import Checkpoint
from conftest import MINI, mini_recipe
from stages.test_determinism import bytes_of, finish, start_ranks

EPOCHS = 3
MATCHING = [
    *("--method", "tesla", "--recover.student-steps", "2", "--recover.max-start-epoch", "2"),
    *("--recover.iterations", "4", "--recover.image-learning-rate", "10", "--recover.rate-learning-rate", "1e-4"),
    *("--squeeze.experts.number", "2", "--squeeze.experts.architecture", "convnet1_in"),
    *("--squeeze.experts.training.epochs", str(EPOCHS)),
]
"""Settings for a command line: two experts and four iterations."""


def matching(method: str = "tesla", **recover: Any) -> Recipe[Any]:
    """The same as a recipe, with changes of the method's settings."""
    recipe = mini_recipe().with_method(method)
    experts = recipe.squeeze.experts
    few = {
        "student_steps": 2,
        "max_start_epoch": 2,
        "iterations": 4,
        "image_learning_rate": 10.0,
        "rate_learning_rate": 1e-4,
    }
    return recipe.changed(
        squeeze=recipe.squeeze.changed(
            experts=experts.changed(
                number=2, architecture="convnet1_in", training=experts.training.changed(epochs=EPOCHS)
            )
        ),
        recover=recipe.recover.changed(**few | recover),
    )


@pytest.fixture(scope="module")
def matched(mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher, experts and images; tests change copies only."""
    out = tmp_path_factory.mktemp("runs") / "matched"
    shutil.copytree(mini_run / "squeeze", out / "squeeze")
    for stage in ("squeeze", "recover"):
        pipeline.run(matching(), out, stage=stage, quiet=True)
    return out


@pytest.fixture
def copied(matched: Path, tmp_path: Path) -> Path:
    shutil.copytree(matched, tmp_path / "run")
    return tmp_path / "run"


def test_experts_are_trained_for_methods_that_ask_for_them(mini_run: Path, matched: Path):
    assert not (mini_run / "squeeze" / "experts").exists()
    files = sorted((matched / "squeeze" / "experts").glob("*.safetensors"))
    assert [path.name for path in files] == ["expert0000.safetensors", "expert0001.safetensors"]
    assert not (matched / "squeeze" / "experts" / "checkpoints").exists()


def test_an_expert_begins_as_a_fresh_network_and_learns(matched: Path):
    folder = matched / "squeeze" / "experts"
    made_for = json.loads((folder / "manifest.json").read_text())["made_for"]
    ways = [trajectories.load(folder, number, made_for) for number in range(2)]
    network = build("convnet1_in", 10, 8, seed=0)
    assert ways[0].shape == ways[1].shape == (1 + EPOCHS, sum(part.numel() for part in network.parameters()))
    assert not torch.equal(ways[0][0], ways[1][0])
    assert ways[0][0].std() > 0.05
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in logged if entry["event"] == "expert"] == ["expert 0", "expert 1"]
    assert all(entry["top1"] > 0.3 for entry in logged if entry["event"] == "expert")


def test_experts_train_in_bf16_where_it_is_asked_for(matched: Path, mini_run: Path, tmp_path: Path):
    shutil.copytree(mini_run / "squeeze", tmp_path / "squeeze")
    recipe = matching()
    quick = recipe.squeeze.changed(experts=recipe.squeeze.experts.changed(precision="bf16"))
    pipeline.run(recipe.changed(squeeze=quick), tmp_path, stage="squeeze", quiet=True)
    manifests = [json.loads((run / "squeeze" / "experts" / "manifest.json").read_text()) for run in (matched, tmp_path)]
    assert "precision" not in manifests[0]["identity"]["experts"]
    assert manifests[1]["identity"]["experts"]["precision"] == "bf16"
    exact, rounded = (
        trajectories.load(run / "squeeze" / "experts", 0, found["made_for"])
        for run, found in zip((matched, tmp_path), manifests, strict=True)
    )
    assert torch.equal(exact[0], rounded[0])
    moved = (exact[-1] - exact[0]).norm()
    assert 1e-4 < (rounded[-1] - exact[-1]).norm() / moved < 0.2


def test_their_time_is_that_of_squeeze_and_images_know_them(matched: Path):
    run = Run(matched)
    assert run.images.used_experts
    assert run.images.learned.keys() == {"student_learning_rate"}
    assert "squeeze/experts" in run.plain()
    assert run.elapsed()["squeeze"].seconds > run.teachers[0].elapsed.seconds


GOLDEN: dict[tuple[str, str], tuple[list[float], float]] = {
    ("tesla", "hard"): ([0.899075, 0.801545, 0.721215, 0.816393], 55.8338),
    ("tesla", "learned"): ([0.860864, 0.794076, 0.624386, 0.876866], 56.6558),
    ("mtt", "hard"): ([0.899075, 0.802851, 0.726678, 0.818357], 55.2942),
    ("mtt", "assigned"): ([0.875455, 0.754656, 0.655634, 0.809486], 58.2508),
}
"""By method and labels: losses of four iterations on digits, and the learned rate in thousandths."""


@pytest.mark.parametrize(("method", "labels"), GOLDEN)
def test_losses_and_rate_on_digits_are_what_they_were(method: str, labels: str, copied: Path):
    shutil.rmtree(copied / "recover")
    recipe = matching(method, labels=labels, rate_learning_rate=1e-3)
    pipeline.run(recipe, copied, stage="recover", quiet=True)
    images = Run(copied).images
    losses = units.first(copied / "recover" / "units").curves["loss"].tolist()
    found = losses, 1000 * images.learned["student_learning_rate"]
    expected = GOLDEN[method, labels]
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    assert found[1] == pytest.approx(expected[1], rel=1e-3)
    assert images.soft_labels == (labels != "hard")


class Killed(BaseException):
    """Ends work in its middle, as a signal does."""


def killed(monkeypatch: pytest.MonkeyPatch, recipe: Recipe[Any], out: Path, stage: str, after: int) -> None:
    """Run a stage with a checkpoint at every chance, until so many were saved."""
    real, left = Checkpoint.offer, [after]

    def offer(self: Checkpoint, state: Any) -> None:
        real(self, state)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "EVERY_SECONDS", 0.0)
        patched.setattr(checkpoint, "MAX_TIME_SHARE", float("inf"))
        patched.setattr(Checkpoint, "offer", offer)
        with pytest.raises(Killed):
            pipeline.run(recipe, out, stage=stage, quiet=True)
    assert list(out.rglob("checkpoints/*.safetensors"))
    pipeline.run(recipe, out, stage=stage, quiet=True)
    assert not list(out.rglob("checkpoints/*.safetensors"))


def test_a_killed_expert_goes_on_and_has_the_same_bytes(
    matched: Path, mini_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(mini_run / "squeeze", tmp_path / "run" / "squeeze")
    killed(monkeypatch, matching(), tmp_path / "run", "squeeze", after=EPOCHS + 2)
    assert bytes_of(tmp_path / "run" / "squeeze") == bytes_of(matched / "squeeze")


def test_a_killed_unit_goes_on_and_has_the_same_bytes(matched: Path, copied: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(copied / "recover")
    killed(monkeypatch, matching(), copied, "recover", after=3)
    assert bytes_of(copied / "recover") == bytes_of(matched / "recover")


def test_two_processes_leave_the_bytes_of_one(mini_run: Path, matched: Path, tmp_path: Path):
    shutil.copytree(mini_run / "squeeze", tmp_path / "two" / "squeeze")
    for stage in ("squeeze", "recover"):
        command = [stage, "digits", "--out", str(tmp_path / "two"), *MINI, *MATCHING]
        for process, said in start_ranks(command, tmp_path):
            finish(process, said)
    assert bytes_of(tmp_path / "two") == bytes_of(matched)
    assert (tmp_path / "two" / "squeeze" / "experts" / "log.rank1.jsonl").exists(), "one process made both experts"


def test_a_damaged_expert_is_made_again(matched: Path, copied: Path):
    path = copied / "squeeze" / "experts" / "expert0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shutil.rmtree(copied / "recover")
    with pytest.raises(AttarError, match=r"expert0001.safetensors is damaged"):
        pipeline.run(matching(), copied, stage="recover", quiet=True)
    pipeline.run(matching(), copied, stage="squeeze", quiet=True)
    assert bytes_of(copied / "squeeze") == bytes_of(matched / "squeeze")


def test_images_need_finished_experts_of_the_same_settings(copied: Path, mini_run: Path, tmp_path: Path):
    shutil.copytree(mini_run / "squeeze", tmp_path / "other" / "squeeze")
    with pytest.raises(AttarError, match=r"experts is not finished; run 'attar squeeze'"):
        pipeline.run(matching(), tmp_path / "other", stage="recover", quiet=True)
    recipe = matching()
    more = recipe.squeeze.experts.changed(number=3)
    with pytest.raises(AttarError, match=r"experts was made with other settings \(experts.number 2 -> 3\)"):
        pipeline.run(recipe.changed(squeeze=recipe.squeeze.changed(experts=more)), copied, stage="squeeze", quiet=True)


@pytest.mark.parametrize(
    ("experts", "fault"),
    [
        ({"architecture": "convnet3"}, "convnet3 keeps running statistics .*experts.architecture convnet3_in"),
        ({"training": {"epochs": 2}}, "after 3 epochs, but they train for 2; raise --squeeze.experts.training.epochs"),
    ],
)
def test_experts_that_cannot_serve_are_refused_before_they_train(experts: dict[str, Any], fault: str, tmp_path: Path):
    recipe = matching()
    changed = recipe.squeeze.experts.plain() | experts
    squeeze = recipe.squeeze.changed(experts=changed)
    with pytest.raises(AttarError, match=fault):
        pipeline.run(recipe.changed(squeeze=squeeze), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "squeeze").exists()
