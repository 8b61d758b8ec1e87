"""models/teacher.py: logits, folders, alignment of classes, accuracy."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.build import batchnorm_layers, build
from attar.models.foreign import read_checkpoint
from attar.models.teacher import Teacher, accuracy, aligned, load, of_module
from attar.ops.pixels import Normalisation

NORMALISATION = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
CLASSES = ("ant", "bee", "cat", "dog")
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make(name: str = "resnet20", size: int = 16) -> Teacher:
    network = build(name, len(CLASSES), size, seed=1)
    return Teacher(network, name, "standard", CLASSES, NORMALISATION, size, accuracy=0.75, extra={"epochs": 3})


def same_fields(one: Teacher, two: Teacher) -> bool:
    fields = [field.name for field in dataclasses.fields(Teacher) if field.name != "module"]
    return all(getattr(one, name) == getattr(two, name) for name in fields)


class Own(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(images).mean((2, 3)))


def test_a_teacher_is_frozen_and_normalises():
    teacher = make()
    assert not teacher.module.training
    assert not any(weight.requires_grad for weight in teacher.module.parameters())
    images = IMAGES.clone().requires_grad_()
    logits = teacher.logits(images)
    assert torch.equal(logits, teacher.module(NORMALISATION.apply(IMAGES)))
    logits.sum().backward()
    assert images.grad is not None


def test_logits_are_float32_at_any_precision():
    teacher = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher.logits(IMAGES).dtype == torch.float32


def test_classes_have_names_of_their_own():
    with pytest.raises(AttarError, match="two classes named 'bee'"):
        dataclasses.replace(make(), classes=("ant", "bee", "bee", "dog"))


@pytest.mark.parametrize("name", ["resnet20", "convnet3", "resnet18", "timm/vit_tiny_patch16_224"])
def test_save_and_load(tmp_path: Path, name: str):
    teacher = make(name)
    if name == "resnet18":
        teacher = dataclasses.replace(teacher, stem="small")
    teacher.save(tmp_path / "t")
    loaded = load(tmp_path / "t")
    assert same_fields(loaded, teacher)
    assert torch.equal(loaded.logits(IMAGES), teacher.logits(IMAGES))
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["teacher.json", "teacher.safetensors"]


def test_the_record_is_plain_json_and_repeated_in_the_weights(tmp_path: Path):
    make().save(tmp_path)
    written = json.loads((tmp_path / "teacher.json").read_text())
    assert written["classes"] == list(CLASSES)
    assert written["accuracy"] == 0.75
    assert read_checkpoint(tmp_path / "teacher.safetensors")[1] == CLASSES


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(teachers, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path)
    assert (tmp_path / "teacher.safetensors").exists()
    with pytest.raises(AttarError, match=r"no finished teacher: teacher\.json is missing"):
        load(tmp_path)


def test_parts_of_two_teachers_are_refused(tmp_path: Path):
    make().save(tmp_path)
    (tmp_path / "teacher.json").write_text((tmp_path / "teacher.json").read_text().replace("ant", "asp"))
    with pytest.raises(AttarError, match="belong to different teachers"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 2}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str):
    make().save(tmp_path)
    (tmp_path / "teacher.json").write_text(text)
    with pytest.raises(AttarError, match=r"teacher\.json holds no teacher record"):
        load(tmp_path)


def test_a_callers_own_network(tmp_path: Path):
    teacher = of_module(Own(4), CLASSES, NORMALISATION, 16)
    assert teacher.architecture == f"python:{Own.__module__}.Own"
    teacher.save(tmp_path)
    with pytest.raises(AttarError, match=r"your own .*Own.*teacher=module"):
        load(tmp_path)
    loaded = load(tmp_path, module=Own(4))
    assert same_fields(loaded, teacher)
    assert torch.equal(loaded.logits(IMAGES), teacher.logits(IMAGES))
    with pytest.raises(AttarError, match="the checkpoint has 4 classes, the data 5"):
        load(tmp_path, module=Own(5))
    with pytest.raises(AttarError, match=r"\[2, 5\], not \[2, 4\]"):
        of_module(Own(5), CLASSES, NORMALISATION, 16)


def test_aligned_selects_columns():
    teacher = make()
    assert aligned(teacher, list(CLASSES)) is teacher
    subset = aligned(teacher, ("dog", "ant"))
    assert subset.classes == ("dog", "ant")
    assert torch.equal(subset.logits(IMAGES), teacher.logits(IMAGES)[:, [3, 0]])
    assert subset.accuracy is None
    again = aligned(subset, ("ant",))
    assert torch.equal(again.logits(IMAGES), teacher.logits(IMAGES)[:, [0]])
    assert batchnorm_layers(subset.module) == batchnorm_layers(teacher.module)
    assert not subset.module.training


def test_aligned_names_the_first_unknown_class():
    with pytest.raises(AttarError, match=r"does not know the class 'eel'.*ant, bee, cat.*train a teacher"):
        aligned(make(), ("ant", "eel", "fox"))


def test_an_aligned_teacher_is_saved_and_loaded(tmp_path: Path):
    subset = aligned(make(), ("dog", "ant"))
    subset.save(tmp_path)
    loaded = load(tmp_path)
    assert same_fields(loaded, subset)
    assert torch.equal(loaded.logits(IMAGES), subset.logits(IMAGES))
    assert torch.equal(aligned(loaded, ("ant", "dog")).logits(IMAGES), subset.logits(IMAGES)[:, [1, 0]])
    state, classes = read_checkpoint(tmp_path / "teacher.safetensors")
    assert classes == CLASSES
    assert len(state["fc.weight"]) == 4


def test_accuracy_counts_over_batches():
    scores = torch.tensor([[9, 0, 0, 0, 0, 0, 0, 0, 1], [1, 9, 8, 7, 6, 5, 0, 0, 0], [1, 2, 9, 4, 5, 6, 7, 0, 0]])
    images, labels = scores.float().view(3, 3, 1, 3), torch.tensor([0, 2, 0])
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    assert accuracy(lambda images: images.flatten(1), batches) == pytest.approx((1 / 3, 2 / 3))
    few = [(torch.eye(3).view(3, 3, 1, 1), torch.tensor([0, 1, 0]))]
    assert accuracy(lambda images: images.flatten(1), few) == pytest.approx((2 / 3, 1.0))
    with pytest.raises(AttarError, match="no validation images"):
        accuracy(lambda images: images, [])


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.factor is None:
            self.factor = torch.arange(1.0, 4.0)
        return images.mean((2, 3)) * self.factor


def test_measuring_leaves_a_network_that_caches_differentiable():
    teacher = Teacher(Caching(), "python:Caching", "standard", CLASSES[:3], NORMALISATION, 16)
    accuracy(teacher.logits, [(IMAGES, torch.tensor([0, 1, 2]))])
    images = IMAGES.clone().requires_grad_()
    teacher.logits(images).sum().backward()
    assert images.grad is not None
