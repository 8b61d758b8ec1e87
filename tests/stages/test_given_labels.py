"""Soft labels and a learning rate that a method made with its images, through relabel and evaluate."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.recipes.recipe import Recipe
from attar.stages.protocols import PROTOCOLS
from attar.stages.rows import DISTILLED
from attar.stages.run import Run
from attar.store import learned_labels
from conftest import edit_json, mini_recipe

METHOD = '''"""Real images with soft labels that lean towards the class, and a learning rate."""

import torch

from attar.synthesis.method import MethodConfig, Needs
from attar.synthesis.starts import real
from attar.synthesis.task import Recovered


class Config(MethodConfig):
    """As they are."""

    fault: str = ""
    """What is wrong with the labels."""

    def needs(self):
        return super().needs() | Needs(real_images=True, unit="set")

    def learns(self):
        return frozenset({"soft_labels", "student_learning_rate"})


def recover(task, config):
    labels = torch.full((len(task.labels), 10), 0.05)
    labels[torch.arange(len(labels)), task.labels] = 0.55
    if config.fault == "memory":
        raise MemoryError
    if config.fault == "shape":
        labels = labels[:, :9]
    elif config.fault == "sum":
        labels = 2 * labels
    return Recovered(real(task), None if config.fault == "none" else labels, {"student_learning_rate": 0.025})
'''


@pytest.fixture
def out(mini_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with a teacher only; the working folder has the method 'giving.method'."""
    shutil.copytree(mini_run / "squeeze", tmp_path / "run" / "squeeze")
    (tmp_path / "giving").mkdir()
    (tmp_path / "giving" / "__init__.py").touch()
    (tmp_path / "giving" / "method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("giving", "giving.method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "run"


def giving(mix: str = "none", fault: str = "", **protocol: Any) -> Recipe[Any]:
    """Two images per class; students of one seed train for three epochs."""
    recipe = mini_recipe().with_method("giving.method")
    relabel = recipe.relabel.changed(mode="given", mix={"kind": mix})
    training = {"temperature": 1.0, "learned_rate": True, **protocol}
    return recipe.changed(
        recover=recipe.recover.changed(fault=fault),
        relabel=relabel,
        evaluate=recipe.evaluate.changed(
            protocol=recipe.evaluate.protocol.changed(**training), num_seeds=1, rows=("distilled", "random-soft")
        ),
    )


def test_labels_that_a_method_does_not_make_are_refused_before_a_teacher_is_trained(tmp_path: Path):
    recipe = mini_recipe()
    recipe = recipe.changed(relabel=recipe.relabel.changed(mode="given"))
    with pytest.raises(
        AttarError, match=r"^The method cda learns no soft labels with its images; use --relabel.mode stored"
    ):
        attar.run(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "squeeze").exists()


def test_a_rate_that_a_method_does_not_learn_is_warned_of(
    mini_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    shutil.copytree(mini_run / "squeeze", tmp_path / "run" / "squeeze")
    recipe = mini_recipe().with_method("random")
    protocol = recipe.evaluate.protocol.changed(learned_rate=True)
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(protocol=protocol))
    attar.run(recipe, tmp_path / "run", stage="recover")
    assert "the method random learns no learning rate for students" in capsys.readouterr().err


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_every_view_of_an_image_has_its_given_label(mix: str, out: Path):
    for stage in ("recover", "relabel"):
        pipeline.run(giving(mix), out, stage=stage, quiet=True)
    opened = attar.load(out / "distilled")
    assert opened.info.learned == {"student_learning_rate": 0.025}
    seen = list(opened.views(1, 8, "cpu", seed=0))
    assert sum(len(images) for images, _ in seen) == 20
    for _, targets in seen:
        assert targets.logits is not None
        expected = torch.full((len(targets.labels), 10), 0.05)
        expected[torch.arange(len(expected)), targets.labels] += 0.5 if mix == "none" else 0.5 * targets.weight
        if targets.partner_labels is not None and targets.weight is not None:
            expected[torch.arange(len(expected)), targets.partner_labels] += 0.5 * (1 - targets.weight)
        torch.testing.assert_close(targets.logits.softmax(1), expected)
    assert [targets.logits for _, targets in opened.views(1, 8, "cpu", seed=0, soft=False)] == [None] * len(seen)


def test_students_take_the_learned_rate_and_real_images_the_protocols_own(out: Path, monkeypatch: pytest.MonkeyPatch):
    from attar.stages import students

    rates = list[float]()
    real = students.fit
    monkeypatch.setattr(
        students,
        "fit",
        lambda network, units, batches, loss, how, *rest, **more: (
            rates.append(how.learning_rate),
            real(network, units, batches, loss, how, *rest, **more),
        ),
    )
    pipeline.run(giving(), out, quiet=True)
    own = giving().evaluate.protocol.training.learning_rate
    assert rates == [0.025, own]
    assert (out / "baselines" / "random" / "distilled" / "teacher").is_dir(), "real images are labelled online"
    labels = out / "distilled" / "labels" / learned_labels.FILE
    assert Run(out).scores.rows[DISTILLED].label_bytes == labels.stat().st_size
    pipeline.run(giving(learned_rate=False), out, stage="evaluate", quiet=True)
    assert rates == [0.025, own, own], "the score of real images does not depend on the option"


def test_labels_are_checked_when_they_are_opened(out: Path):
    for stage in ("recover", "relabel"):
        pipeline.run(giving(), out, stage=stage, quiet=True)
    path = out / "distilled" / "labels" / learned_labels.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AttarError, match=r"given.safetensors is damaged"):
        attar.load(out / "distilled")
    path.unlink()
    with pytest.raises(AttarError, match=r"given.safetensors is missing"):
        attar.load(out / "distilled")
    learned_labels.save(path, torch.full((20, 10), 0.1), "others")
    edit_json(out / "distilled" / "dataset.json", files={})
    with pytest.raises(AttarError, match="belong to other images; relabel again"):
        attar.load(out / "distilled")


@pytest.mark.parametrize(
    ("fault", "stage", "said"),
    [
        ("shape", "recover", r"soft labels of shape \(20, 9\) and not \(20, 10\)"),
        ("sum", "recover", "soft labels that are no probabilities .rows sum to 2 to 2"),
        ("memory", "recover", "Not enough memory for .* with 20 images at a time; lower --recover.ipc, or use"),
        ("none", "relabel", "The method made no soft labels with the images .*use --relabel.mode stored"),
    ],
)
def test_a_set_that_cannot_be_made_or_labelled_is_refused(fault: str, stage: str, said: str, out: Path):
    if stage == "relabel":
        pipeline.run(giving(fault=fault), out, stage="recover", quiet=True)
    with pytest.raises(AttarError, match=said):
        pipeline.run(giving(fault=fault), out, stage=stage, quiet=True)


def test_probabilities_are_no_logits(out: Path):
    with pytest.raises(AttarError, match="squared error needs logits.*--evaluate.protocol.loss soft"):
        pipeline.run(giving(loss="mse"), out, quiet=True)


def test_a_protocol_without_the_option_keeps_its_identity():
    assert "learned_rate" not in PROTOCOLS["digits"].identity()
    assert json.loads(json.dumps(PROTOCOLS["digits"].plain()))["learned_rate"] is False
