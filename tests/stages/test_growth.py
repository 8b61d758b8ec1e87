"""A finished set grows: earlier images and labels stay bit for bit, and only the new ones are made."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.recipes.catalogue import recipe_named
from attar.stages import growth
from attar.stages.folder import PLAN
from attar.stages.methods import method_named
from attar.stages.run import Run
from attar.stages.unit_groups import planned
from attar.store import images as image_files
from attar.store import sealed
from conftest import interrupt, mini_recipe


def larger(ipc: int = 3, **settings):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=ipc, **settings))
    return recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=1))


@pytest.fixture(scope="module")
def grown(mini_run: Path, tmp_path_factory) -> Path:
    """The mini run, grown from two images per class to three."""
    out = tmp_path_factory.mktemp("grown") / "run"
    shutil.copytree(mini_run, out)
    times = {path: path.stat().st_mtime_ns for path in (out / "recover" / "units").iterdir()}
    pipeline.run(larger(), out, quiet=True)
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    return out


def test_it_is_the_set_that_a_larger_run_makes(grown: Path, tmp_path: Path):
    shutil.copytree(grown / "squeeze", tmp_path / "run" / "squeeze")
    pipeline.run(larger(), tmp_path / "run", stage="recover", quiet=True)
    fresh, found = (image_files.read(run / "recover" / "data") for run in (tmp_path / "run", grown))
    assert found.slots.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert torch.equal(fresh.images, found.images)


def test_earlier_images_and_labels_are_kept(mini_run: Path, grown: Path):
    before, after = attar.load(mini_run), attar.load(grown)
    assert torch.equal(after.images[:20], before.images)
    assert after.info.ipc == 3
    for epoch in range(6):
        old, new = before.stored.parts(epoch), after.stored.parts(epoch)
        assert old.keys() == new.keys()
        for key, part in old.items():
            assert torch.equal(new[key][:20], part)
        assert int(new["partner"][20:].min()) >= 20
    assert not (grown / growth.BEFORE).exists()
    assert Run(grown).labels.elapsed.seconds > Run(mini_run).labels.elapsed.seconds  # the old labels cost time, too


def test_new_labels_are_the_teachers_answers(grown: Path):
    distilled, network = attar.load(grown), teachers.load(grown / "squeeze")
    shown, targets = distilled.epoch(2).take(torch.arange(30))
    with torch.inference_mode():
        torch.testing.assert_close(network.logits(shown), targets.logits.float(), atol=0.05, rtol=0.02)


def test_scores_and_baselines_are_of_the_larger_set(grown: Path):
    run = Run(grown)
    assert len(image_files.read(grown / "baselines" / "random" / "recover" / "data").labels) == 30
    assert run.images.num_images == 30
    assert run.scores.rows
    manifest = json.loads((grown / "recover" / "manifest.json").read_text())
    assert [(one["ipc"], one["num_images"]) for one in manifest["grown"]] == [(2, 20)]
    assert pipeline.run(larger(), grown, quiet=True).table


def test_growth_that_was_interrupted_continues(mini_run: Path, recovered: Path):
    shutil.copytree(mini_run / "distilled", recovered / "distilled")
    pipeline.run(larger(4), recovered, stage="recover", quiet=True)
    whole = image_files.read(recovered / "recover" / "data").images
    made = json.loads((recovered / "recover" / "manifest.json").read_text())
    interrupt(recovered / "recover")
    plan = sealed.read_json(recovered / "recover" / PLAN, "")
    sealed.write_json(recovered / "recover" / PLAN, plan | {"grown": made["grown"]})
    last = sorted((recovered / "recover" / "units").iterdir())[-1]
    last.unlink()
    first = sorted((recovered / "recover" / "units").iterdir())[0]
    before = first.stat().st_mtime_ns
    pipeline.run(larger(4), recovered, stage="recover", quiet=True)
    assert torch.equal(image_files.read(recovered / "recover" / "data").images, whole)
    assert first.stat().st_mtime_ns == before
    pipeline.run(larger(5), recovered, stage="recover", quiet=True)
    assert torch.equal(image_files.read(recovered / "recover" / "data").images[:40], whole)
    assert (recovered / growth.BEFORE).is_dir()
    pipeline.run(larger(5), recovered, stage="relabel", quiet=True)
    kept, before = attar.load(recovered).stored.parts(3), attar.load(mini_run).stored.parts(3)
    assert torch.equal(kept["logits"][:20], before["logits"])


def test_units_and_batches_of_two_sizes_are_separate():
    config = mini_recipe().recover.changed(ipc=9, unit_slots=2, parallel_units=2)
    earlier = [growth.Earlier(3, 30, ""), growth.Earlier(4, 40, "")]
    found = planned(10, config, earlier)
    assert [[unit.slots[::10] for unit in group] for group in found] == [
        [(0, 1)], [(2,)], [(3,)], [(4, 5), (6, 7)], [(8,)]
    ]  # fmt: skip


def test_what_cannot_grow_says_why(recovered: Path):
    with pytest.raises(AttarError, match="recover was made with other settings .*recover.iterations"):
        pipeline.run(larger(3, iterations=13), recovered, stage="recover", quiet=True)
    with pytest.raises(AttarError, match="recover was made with other settings .*recover.ipc 2 -> 1"):
        pipeline.run(larger(1), recovered, stage="recover", quiet=True)
    made = json.loads((recovered / "recover" / "manifest.json").read_text())
    assert made["request"]["recover"]["ipc"] == 2


def test_methods_say_whether_they_grow():
    for name in ("attar", "cda", "dm", "random", "herding", "rded"):
        assert method_named(name).Config().grows(), name
    for name in ("tesla", "cim", "ncfm"):
        assert not method_named(name).Config().grows(), name


def test_a_class_that_is_made_together_gets_more_images(squeezed: Path):
    recipe = recipe_named("dm/digits-ipc1")
    recipe = recipe.changed(squeeze=mini_recipe().squeeze, recover=recipe.recover.changed(ipc=2, iterations=1))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    before = image_files.read(squeezed / "recover" / "data").images
    pipeline.run(recipe.changed(recover=recipe.recover.changed(ipc=4)), squeezed, stage="recover", quiet=True)
    after = image_files.read(squeezed / "recover" / "data")
    assert torch.equal(after.images[:20], before)
    assert len(after.images.flatten(1).unique(dim=0)) == 40
    assert sorted(after.slots.tolist()) == [slot for slot in range(4) for _ in range(10)]


def test_a_method_whose_images_depend_on_their_number_is_refused(recovered: Path, monkeypatch):
    monkeypatch.setattr(type(mini_recipe().recover), "grows", lambda self: False)
    with pytest.raises(AttarError, match="cannot grow, because the method cda makes each image for a set of a given"):
        pipeline.run(larger(), recovered, stage="recover", quiet=True)
    assert (recovered / "recover" / "manifest.json").is_file()
