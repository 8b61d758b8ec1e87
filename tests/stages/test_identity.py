"""What is the same work: manifests of former/, which an earlier attar wrote, and changes that alter no result."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.core.config import digest
from attar.core.errors import AttarError
from attar.recipes.recipe import Recipe
from attar.stages import evaluate
from attar.stages.folder import FEED, StageFolder
from attar.stages.rows import FULL
from attar.stages.scores import ScoreFile
from attar.stages.workspace import Workspace
from attar.store import sealed, units
from attar.store.units import Unit
from conftest import interrupt, mini_recipe

FORMER = Path(__file__).parent / "former"
"""Manifests of ``mini_recipe``, written when every default was a part of the identity."""
FULL_SCORE = "2307836f2fc025ebea53f33e338a274e53ab641834d1893a801e226818e1958f"
"""Identity of the score of all real images in that run."""


def folder_of(recipe: Recipe[Any], stage: str, path: Path) -> StageFolder:
    """A stage's folder as the stage itself opens it, for the device and teacher of the manifests in ``former``."""
    made = json.loads((FORMER / f"{stage}.json").read_text())
    space = Workspace(path.parent, recipe.seed, recipe.data, recipe.execution)
    parts: dict[str, dict[str, Any]] = {
        "squeeze": {"squeeze": recipe.squeeze, "precision": "bf16", FEED: "resident"},
        "recover": {"method": recipe.method, "recover": recipe.recover, "precision": "bf16"},
        "distilled": {"relabel": recipe.relabel},
    }
    return StageFolder(path, made["stage"], space.request(**parts[stage]), made["parents"])


def former(tmp_path: Path, stage: str) -> Path:
    path = tmp_path / stage
    path.mkdir()
    shutil.copy(FORMER / f"{stage}.json", path / "manifest.json")
    return path


STAGES = ["squeeze", "recover", "distilled"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_manifest_of_an_earlier_attar_is_this_work(tmp_path: Path, stage: str):
    folder = folder_of(mini_recipe(), stage, former(tmp_path, stage))
    assert folder.finished() == json.loads((FORMER / f"{stage}.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_files_of_work_that_an_earlier_attar_began_carry_its_hash_until_the_end(tmp_path: Path, stage: str):
    path = former(tmp_path, stage)
    made = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").unlink()
    (path / "part.safetensors").touch()
    sealed.write_json(path / "plan.json", {key: made[key] for key in ("stage", "request", "parents")})
    folder, known_by = (
        folder_of(mini_recipe(), stage, path),
        digest([made[key] for key in ("stage", "request", "parents")]),
    )
    assert folder.finished() is None
    assert folder.identity == known_by
    folder.begin()
    assert folder.identity == known_by
    assert folder.finish({}, 0.0, "the CPU")["made_for"] == folder.identity == known_by


@pytest.mark.parametrize(
    ("stage", "field"),
    [("squeeze", "squeeze.training.ema_decay"), ("recover", "recover.keep"), ("distilled", "relabel.mix.shared_by")],
)
def test_a_manifest_without_a_newer_field_is_this_work_while_the_field_is_at_its_default(
    tmp_path: Path, stage: str, field: str
):
    path = former(tmp_path, stage)
    made = json.loads((path / "manifest.json").read_text())
    *groups, name = field.split(".")
    inner = made["request"]
    for group in groups:
        inner = inner[group]
    default = inner.pop(name)
    (path / "manifest.json").write_text(json.dumps(made))
    assert folder_of(mini_recipe(), stage, path).finished() == made
    inner[name] = "another"
    (path / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(AttarError, match=rf'made with other settings \({field} "another" -> {json.dumps(default)}'):
        folder_of(mini_recipe(), stage, path).finished()


def without_effect(stage: str) -> Recipe[Any]:
    recipe = mini_recipe()
    data = recipe.data.changed(root="elsewhere", source="also-digits", on_corrupt="stop")
    if stage == "squeeze":
        return recipe.changed(data=data, squeeze=recipe.squeeze.changed(checkpoint_epochs=3))
    if stage == "recover":
        more = {"verifier": "resnet18:w.pth", "snapshots": (5,), "accept_weak_teacher": True, "jpeg_quality": 50}
        return recipe.changed(data=data, recover=recipe.recover.changed(accept_other_classes=True, **more))
    codec = recipe.relabel.codec.changed(k=3, temperature=2.0)
    return recipe.changed(data=data, relabel=recipe.relabel.changed(batch_size=7, codec=codec))


@pytest.mark.parametrize("stage", STAGES)
def test_what_alters_nothing_is_no_other_work(tmp_path: Path, stage: str):
    before, after = (folder_of(recipe, stage, tmp_path / stage) for recipe in (mini_recipe(), without_effect(stage)))
    assert before.identity == after.identity
    after = folder_of(without_effect(stage), stage, former(tmp_path, stage))
    assert after.finished() is not None


def test_what_alters_something_is_refused_with_old_and_new_value_and_the_mend(tmp_path: Path):
    recipe = mini_recipe()
    other = recipe.changed(recover=recipe.recover.changed(iterations=13))
    words = r"other settings \(recover.iterations 12 -> 13\); set them back, choose another"
    with pytest.raises(AttarError, match=words):
        folder_of(other, "recover", former(tmp_path, "recover")).finished()
    assert folder_of(other, "recover", tmp_path / "a").identity != folder_of(recipe, "recover", tmp_path / "a").identity


def test_a_setting_that_was_used_and_no_longer_exists_is_told(tmp_path: Path):
    path = former(tmp_path, "recover")
    made = json.loads((path / "manifest.json").read_text())
    made["request"]["recover"]["spirals"] = 3
    made["identity"] = {"recover": {"iterations": 12}}
    (path / "manifest.json").write_text(json.dumps(made))
    assert folder_of(mini_recipe(), "recover", path).finished() == made, "it stood at its default"
    made["identity"]["recover"]["spirals"] = 3
    (path / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(AttarError, match="recover.spirals 3, which no longer exists"):
        folder_of(mini_recipe(), "recover", path).finished()


def test_a_score_of_an_earlier_attar_is_found(mini_run: Path, tmp_path: Path):
    """The full-data score of its run. core/legacy.py knows the fields of those days."""
    recipe = mini_recipe()
    space = Workspace(mini_run, recipe.seed, recipe.data, recipe.execution.changed(precision="bf16"))
    jobs = evaluate._jobs(space, recipe.evaluate.changed(rows=("full",), num_seeds=1), recipe.squeeze, {})
    assert [job.former_identity for job in jobs] == [FULL_SCORE]
    name = f"convnet3-seed0-{FULL_SCORE[:16]}.json"
    assert jobs[0].path.name != name
    kept = ScoreFile(FULL, "convnet3", 0, jobs[0].identity, tmp_path, FULL_SCORE)
    (tmp_path / name).touch()
    assert kept.path.name == name


def test_units_stay_when_other_snapshots_are_asked_for(finished: Path, capsys: pytest.CaptureFixture[str]):
    """They keep the snapshots that they have; units that are made now have those asked for."""
    interrupt(finished / "recover")
    first, second = sorted((finished / "recover" / "units").iterdir())
    kept = first.read_bytes()
    second.unlink()
    recipe = mini_recipe()
    more = recipe.changed(recover=recipe.recover.changed(snapshots=(3, 8)))
    pipeline.run(more, finished, stage="recover")
    assert "1 of 2 units are there already" in capsys.readouterr().err
    assert first.read_bytes() == kept
    found = [units.load(first.parent, Unit(slot, 0, tuple(range(10)))).snapshots for slot in (0, 1)]
    assert [set(each) for each in found] == [{4, 8, 12}, {3, 8, 12}]


def test_training_images_read_otherwise_are_another_teacher(squeezed: Path, tmp_path: Path):
    """Crops of a resident feed are cut from the prepared image, those of a streaming one from the original."""
    recipe = mini_recipe()
    made = json.loads((squeezed / "squeeze" / "manifest.json").read_text())
    assert made["request"][FEED] == "resident"
    pipeline.run(recipe.changed(data=recipe.data.changed(resident="on")), squeezed, stage="squeeze", quiet=True)
    streaming = recipe.changed(data=recipe.data.changed(resident="off"))
    words = "data.resident: real images were resident and are now streaming"
    with pytest.raises(AttarError, match=words):
        pipeline.run(streaming, squeezed, stage="squeeze", quiet=True)
    scores = [
        evaluate._jobs(Workspace(squeezed, 0, each.data, each.execution), each.evaluate, each.squeeze, {})
        for each in (recipe, streaming)
    ]
    assert not {job.identity for job in scores[0]} & {job.identity for job in scores[1]}
    taken = streaming.changed(squeeze=streaming.squeeze.changed(weights=str(squeezed / "squeeze")))
    pipeline.run(taken, tmp_path / "taken", stage="squeeze", quiet=True)
    pipeline.run(taken.changed(data=recipe.data), tmp_path / "taken", stage="squeeze", quiet=True)


def test_a_moved_checkpoint_is_no_other_work(squeezed: Path, tmp_path: Path):
    recipe = mini_recipe()
    for place in ("here", "there"):
        shutil.copytree(squeezed / "squeeze", tmp_path / place)
        taken = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(tmp_path / place)))
        pipeline.run(taken, tmp_path / "taken", stage="squeeze", quiet=True)
        shutil.rmtree(tmp_path / place)
