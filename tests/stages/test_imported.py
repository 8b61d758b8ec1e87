"""stages/imported.py and examine.py: teachers from elsewhere, known by content, and what would waste hours refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.ops.pixels import Normalisation
from attar.recipes.recipe import Recipe
from attar.stages.imported import parted
from conftest import mini_recipe

SHIFTED = [*range(1, 10), 0]
"""Output k stands for class SHIFTED[k]."""


@pytest.fixture
def state(mini_run: Path) -> dict[str, torch.Tensor]:
    return dict(teachers.load(mini_run / "squeeze").module.state_dict())


@pytest.fixture
def shifted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same teacher with its outputs in another order."""
    head = {key: value[SHIFTED] for key, value in state.items() if value.shape[:1] == (10,)}
    assert len(head) == 2
    return state | head


def with_weights(path: Path | str) -> Recipe[Any]:
    recipe = mini_recipe()
    return recipe.changed(squeeze=recipe.squeeze.changed(weights=str(path)))


def squeeze(recipe: Recipe[Any], out: Path, **more: Any) -> float:
    """The teacher's accuracy."""
    pipeline.run(recipe, out, stage="squeeze", quiet=True, **more)
    return json.loads((out / "squeeze" / "manifest.json").read_text())["result"]["top1"]


def accuracy_of(run: Path) -> float:
    return json.loads((run / "squeeze" / "manifest.json").read_text())["result"]["top1"]


NAMES = [str(label) for label in SHIFTED]


@pytest.mark.parametrize("named", [{"classes": NAMES}, {"class_to_idx": {name: k for k, name in enumerate(NAMES)}}])
def test_names_in_a_checkpoint_put_its_outputs_in_order(mini_run, shifted, tmp_path: Path, named: dict[str, Any]):
    torch.save({"state_dict": shifted, **named}, tmp_path / "told.pth")
    assert squeeze(with_weights(tmp_path / "told.pth"), tmp_path / "run") == accuracy_of(mini_run)


@pytest.mark.parametrize("named", [{}, {"classes": [f"LABEL_{k}" for k in range(10)]}])
def test_another_order_without_names_is_refused_before_anything_is_written(shifted, tmp_path: Path, named):
    torch.save({"state_dict": shifted, **named}, tmp_path / "silent.pth")
    with pytest.raises(AttarError, match=r"another order .* outputs are 1, 2, 3, 4, 5, 6, 7, 8, 9, 0; save them"):
        squeeze(with_weights(tmp_path / "silent.pth"), tmp_path / "run")
    assert not (tmp_path / "run" / "squeeze").exists()


def test_names_that_are_not_the_datas_are_left_for_recover_to_refuse(state, tmp_path: Path):
    torch.save({"state_dict": state, "classes": list("abcdefghij")}, tmp_path / "c.pth")
    with pytest.raises(AttarError, match="knows other classes than the data"):
        pipeline.run(with_weights(tmp_path / "c.pth"), tmp_path / "run", quiet=True)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, how: str = "") -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, images: torch.Tensor) -> Any:
        logits = self.inner(images)
        if self.how == "shifted":
            return logits[:, SHIFTED]
        if self.how == "not a number":
            return logits + torch.where(images.mean((1, 2, 3)) > 0, torch.nan, 0.0)[:, None]
        if self.how == "softmax":
            return logits.softmax(1)
        return (logits,) if self.how == "tuple" else logits.sigmoid() if self.how == "sigmoid" else logits


def wrapped(run: Path, how: str = "") -> Wrapped:
    return Wrapped(teachers.load(run / "squeeze").module, how)


def test_a_teacher_from_python_may_name_its_outputs(mini_run: Path, tmp_path: Path):
    with pytest.raises(AttarError, match=r"another order .*; set them on the module as 'classes'"):
        squeeze(mini_recipe(), tmp_path / "run", teacher=wrapped(mini_run, "shifted"))
    module = wrapped(mini_run, "shifted")
    module.classes = NAMES  # pyright: ignore[reportArgumentType]
    assert squeeze(mini_recipe(), tmp_path / "run", teacher=module) == accuracy_of(mini_run)
    module.classes = list("abcdefghij")  # pyright: ignore[reportArgumentType]
    with pytest.raises(AttarError, match="another order"):
        squeeze(mini_recipe(), tmp_path / "other", teacher=module)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("not a number", r"returns values that are not numbers .NaN"), ("softmax", r"returns probabilities.*softmax")],
)
def test_answers_without_use_are_refused(mini_run: Path, tmp_path: Path, how: str, reason: str):
    with pytest.raises(AttarError, match=reason):
        squeeze(mini_recipe(), tmp_path / "run", teacher=wrapped(mini_run, how))
    assert not (tmp_path / "run" / "squeeze").exists()


def test_what_may_be_a_sigmoid_is_warned_of(mini_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pipeline.run(mini_recipe(), tmp_path / "run", stage="squeeze", teacher=wrapped(mini_run, "sigmoid"))
    assert "between 0 and 1; if it ends in a sigmoid" in capsys.readouterr().err
    pipeline.run(mini_recipe(), tmp_path / "plain", stage="squeeze", teacher=wrapped(mini_run))
    assert "warning" not in capsys.readouterr().err


def test_another_normalisation_that_suits_it_better_is_told(
    mini_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    class Shifting(Wrapped):
        """Expects images in [-1, 1] and far from where the data's normalisation puts them."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).undo(images)
            return self.inner(teachers.load(mini_run / "squeeze").normalisation.apply(pixels.clamp(0, 1)))

    module = Shifting(teachers.load(mini_run / "squeeze").module)
    pipeline.run(mini_recipe(), tmp_path / "run", stage="squeeze", teacher=module)
    assert "--data.mean 0.5 0.5 0.5 --data.std 0.5 0.5 0.5" in " ".join(capsys.readouterr().err.split())
    told = mini_recipe()
    told = told.changed(data=told.data.changed(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert squeeze(told, tmp_path / "told", teacher=module) > 0.9
    assert "--data.mean" not in capsys.readouterr().err


def test_a_tuple_in_half_precision_serves_every_stage(mini_run: Path, tmp_path: Path):
    module = wrapped(mini_run, "tuple").half()
    recipe = mini_recipe()
    recipe = recipe.changed(
        relabel=recipe.relabel.changed(mode="online"), evaluate=recipe.evaluate.changed(rows=("distilled",))
    )
    attar.run(recipe, tmp_path / "run", teacher=module, quiet=True)
    assert accuracy_of(tmp_path / "run") == pytest.approx(accuracy_of(mini_run), abs=0.01)
    assert next(module.parameters()).dtype == torch.float16
    (images, targets), *_ = attar.load(tmp_path / "run" / "distilled", teacher=module).batches(0, 4)
    assert images.isfinite().all()
    assert targets.logits is not None
    assert targets.logits.shape == (4, 10)


def test_a_teacher_from_python_is_named_in_the_recipe(mini_run: Path, tmp_path: Path):
    squeeze(mini_recipe(), tmp_path / "run", teacher=wrapped(mini_run))
    written = attar.recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert written.squeeze.architecture == f"python:{Wrapped.__module__}.Wrapped"
    squeeze(written, tmp_path / "run", teacher=wrapped(mini_run))  # the same work
    for out in ("other", "run"):
        with pytest.raises(AttarError, match=r"passed from Python \(.*Wrapped\); pass it again with .*teacher=module"):
            squeeze(written, tmp_path / out)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet18:IMAGENET1K_V1", ("resnet18", "IMAGENET1K_V1")),
        ("timm/resnet18:pretrained", ("timm/resnet18", "pretrained")),
        ("hf-hub:timm/resnet18.a1_in1k:pretrained", ("hf-hub:timm/resnet18.a1_in1k", "pretrained")),
        ("hf_hub:timm/resnet18.a1_in1k", ("hf_hub:timm/resnet18.a1_in1k", "")),
        ("mynets:Net:c.pth", ("mynets:Net", "c.pth")),
        ("my.nets:Net:runs/a/c.pth", ("my.nets:Net", "runs/a/c.pth")),
        ("resnet18", ("resnet18", "")),
    ],
)
def test_verifiers_are_named_by_network_and_weights(name: str, parts: tuple[str, str]):
    assert parted(name) == parts


def test_no_module_is_refused(tmp_path: Path):
    with pytest.raises(AttarError, match=r"takes a torch\.nn\.Module, not a function"):
        squeeze(mini_recipe(), tmp_path / "run", teacher=lambda images: images)


def test_the_same_weights_elsewhere_are_the_same_work_and_others_there_are_not(state, shifted, tmp_path: Path):
    torch.save({"model": state}, tmp_path / "a.pth")
    recipe = with_weights(tmp_path / "a.pth")
    squeeze(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "squeeze" / "manifest.json").read_bytes()
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    squeeze(with_weights(tmp_path / "b.pth"), tmp_path / "run")
    training = recipe.squeeze.training.changed(epochs=99)  # plays no part in it
    squeeze(recipe.changed(squeeze=recipe.squeeze.changed(training=training)), tmp_path / "run")
    assert (tmp_path / "run" / "squeeze" / "manifest.json").read_bytes() == before
    torch.save({"model": shifted}, tmp_path / "a.pth")
    with pytest.raises(AttarError, match="made from a teacher that is not the current one"):
        squeeze(recipe, tmp_path / "run")
    with pytest.raises(AttarError, match="made with other settings.*weights"):
        squeeze(mini_recipe(), tmp_path / "run")
    (tmp_path / "a.pth").unlink()
    squeeze(recipe, tmp_path / "run")  # the teacher that was made from it stands
    with pytest.raises(AttarError, match="made with other settings"):
        squeeze(with_weights(tmp_path / "never.pth"), tmp_path / "run")


def test_a_squeeze_folder_is_known_by_its_content(mini_run: Path, tmp_path: Path):
    shutil.copytree(mini_run / "squeeze", tmp_path / "one")
    squeeze(with_weights(tmp_path / "one"), tmp_path / "run")
    shutil.move(tmp_path / "one", tmp_path / "two")
    squeeze(with_weights(tmp_path / "two"), tmp_path / "run")


def test_another_network_from_python_of_the_same_class_is_noticed(mini_run: Path, tmp_path: Path):
    squeeze(mini_recipe(), tmp_path / "run", teacher=wrapped(mini_run))
    squeeze(mini_recipe(), tmp_path / "run", teacher=wrapped(mini_run))
    other = wrapped(mini_run)
    next(other.parameters()).data.mul_(1.01)
    with pytest.raises(AttarError, match="made from a teacher that is not the current one"):
        squeeze(mini_recipe(), tmp_path / "run", teacher=other)


def test_folders_from_before_contents_were_recorded_stay_usable(state, tmp_path: Path):
    torch.save({"model": state}, tmp_path / "a.pth")
    recipe = with_weights(tmp_path / "a.pth")
    squeeze(recipe, tmp_path / "run")
    path = tmp_path / "run" / "squeeze" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["parents"]["teacher"], manifest["result"]["weights_from"]
    manifest["request"]["squeeze"] = recipe.squeeze.plain()
    manifest.pop("sha256", None)
    path.write_text(json.dumps(manifest))
    squeeze(recipe, tmp_path / "run")
    with pytest.raises(AttarError, match=r"squeeze\.weights"):
        squeeze(with_weights(tmp_path / "b.pth"), tmp_path / "run")


def test_every_imported_teacher_of_a_committee_is_checked_before_any_is_trained(shifted, tmp_path: Path):
    torch.save({"state_dict": shifted}, tmp_path / "silent.pth")
    recipe = mini_recipe()
    several = ({}, {"weights": str(tmp_path / "silent.pth")})
    with pytest.raises(AttarError, match="another order"):
        squeeze(recipe.changed(squeeze=recipe.squeeze.changed(members=several)), tmp_path / "run")
    assert not (tmp_path / "run" / "squeeze").exists()
