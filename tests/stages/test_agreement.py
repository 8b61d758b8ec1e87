"""Whether a teacher sees the classes that images stand for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.models.committee import Committee
from attar.models.teacher import Teacher
from attar.ops import mosaic
from attar.ops.choices import Storage
from attar.ops.pixels import Normalisation
from attar.stages import agreement
from attar.stages.agreement import Agreement, teacher_agreement, warning

CLASSES = ("n1", "n2", "n3")


class Brightest(nn.Module):
    """Takes the brightest channel for the class."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_the_fraction_is_that_of_first_choices():
    teacher = Teacher(Brightest(), "brightest", "standard", CLASSES, Normalisation(), 4)
    shown = torch.tensor([0, 1, 2, 0, 0])
    images = (255 * nn.functional.one_hot(shown, 3)).to(torch.uint8)[:, :, None, None].repeat(1, 1, 4, 4)
    found = teacher_agreement(images, torch.tensor([0, 1, 0, 0, 1]), Committee([teacher]), "cpu", batch_size=2)
    assert found.fraction == 3 / 5
    assert found.per_class == (2 / 3, 1 / 2, None)


def test_every_image_that_a_stored_one_holds_is_asked_about():
    teacher = Teacher(Brightest(), "brightest", "standard", CLASSES, Normalisation(), 4)
    shown = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 0]])
    parts = (255 * nn.functional.one_hot(shown, 3)).to(torch.uint8)[..., None, None].expand(-1, -1, -1, 4, 4)
    images = mosaic.pack(parts, 2)
    found = teacher_agreement(
        images, torch.tensor([1, 0]), Committee([teacher]), "cpu", batch_size=4, storage=Storage(factor=2)
    )
    assert found.fraction == 6 / 8
    assert found.per_class == (3 / 4, 3 / 4, None)


def test_a_warning_names_the_worst_classes_by_their_titles():
    titles = {"n2": "tench"}
    text = warning(Agreement(0.4, (0.5, 0.1, None)), CLASSES, titles)
    assert text.startswith("the teacher recognises 40% of the distilled images")
    assert "(worst: 'tench' 10%, 'n1' 50%)" in text
    assert "--recover.iterations" in text
    assert warning(Agreement(0.5, (0.9, 0.1, None)), CLASSES, titles) == ""


def test_a_class_that_the_teacher_does_not_know_is_named_though_the_others_are_known():
    text = warning(Agreement(0.9, (1.0, 0.0, None)), CLASSES, {CLASSES[1]: "tench"})
    assert "recognises no distilled image of 'tench', so their soft labels teach other classes" in text
    many = [f"class {number}" for number in range(9)]
    assert "'class 0', 'class 1', 'class 2' and 6 more classes" in warning(Agreement(0.5, (0.0,) * 9), many, {})


FOUND = Agreement(0.5, (0.25, None, 0.75))


def kept(folder: Path) -> Path:
    agreement.write(folder / "one.json", "an identity", FOUND)
    return folder / "one.json"


def read(path: Path, identity: str = "an identity") -> tuple[Agreement | None, list[str]]:
    log = Log(path.parent / "log.jsonl", quiet=True)
    found = agreement.read(path, identity, 3, log)
    lines = (path.parent / "log.jsonl").read_text().splitlines() if (path.parent / "log.jsonl").exists() else []
    return found, [json.loads(line)["text"] for line in lines]


def test_what_was_measured_is_measured_once(tmp_path: Path):
    assert read(kept(tmp_path)) == (FOUND, [])
    assert read(tmp_path / "other.json") == (None, [])
    content = json.loads((tmp_path / "one.json").read_text())
    older = {key: content[key] for key in ("fraction", "per_class")}
    (tmp_path / "one.json").write_text(json.dumps(older))
    assert read(tmp_path / "one.json") == (FOUND, [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"fraction": 0.5}', '{"fraction": 0.5, "per_class": [0.5]}', '"' + "\\u0000" * 9],
)
def test_a_damaged_file_is_told_and_measured_again(tmp_path: Path, text: str):
    path = kept(tmp_path)
    path.write_text(text)
    found, (told,) = read(path)
    assert found is None
    assert told.startswith(str(path))
    assert told.endswith("it is measured again")


@pytest.mark.parametrize("values", [{"fraction": 9.87}, {"fraction": math.nan}, {"per_class": [0.25, None, -1]}])
@pytest.mark.parametrize("seal", [True, False])
def test_impossible_fractions_are_measured_again(tmp_path: Path, values: dict[str, Any], seal: bool):
    path = kept(tmp_path)
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if seal or key != "sha256"}))
    assert read(path)[0] is None


def test_one_of_other_images_is_measured_again(tmp_path: Path):
    assert read(kept(tmp_path), "another identity")[0] is None


def test_a_teacher_without_numbers_is_refused():
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) / images.mean((2, 3)).sum(1, keepdim=True)  # of black: 0 / 0

    teacher = Teacher(Broken(), "broken", "standard", CLASSES, Normalisation((0.0,) * 3, (1.0,) * 3), 4)
    images = torch.full((3, 3, 4, 4), 9, dtype=torch.uint8)
    images[1] = 0
    with pytest.raises(AttarError, match="logits of 1 of 3 images are not numbers"):
        teacher_agreement(images, torch.tensor([0, 1, 2]), Committee([teacher]), "cpu")
