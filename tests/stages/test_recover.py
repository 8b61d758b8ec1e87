import errno
import json
import os

import pyarrow.parquet as pq
import pytest
import torch

from attar import pipeline
from attar.core.errors import AttarError
from attar.store import atomic, images, units
from conftest import mini_recipe


def unit_of(run, name):
    plan = {unit.name: unit for unit in units.plan(10, 0, 2, 100)}
    return units.load(run / "recover" / "units", plan[name])


def test_every_class_has_its_images_and_the_set_is_what_the_units_hold(mini_run):
    stored = images.read(mini_run / "recover" / "data")
    assert stored.labels.tolist() == [*range(10), *range(10)]
    assert stored.slots.tolist() == [0] * 10 + [1] * 10
    parts = [unit_of(mini_run, f"slot{slot:05d}-block0000").images for slot in range(2)]
    assert torch.equal(stored.images, torch.cat(parts))
    manifest = json.loads((mini_run / "recover" / "manifest.json").read_text())
    assert manifest["result"]["images_sha256"] == stored.sha256()
    assert manifest["result"]["image_bytes"] == images.num_bytes(mini_run / "recover" / "data")


def test_curves_snapshots_and_previews_are_kept(mini_run):
    unit = unit_of(mini_run, "slot00000-block0000")
    assert set(unit.snapshots) == {4, 8, 12}
    assert torch.equal(unit.snapshots[12], unit.images)
    assert not torch.equal(unit.snapshots[4], unit.snapshots[8])
    assert {name: len(values) for name, values in unit.curves.items()} == dict.fromkeys(
        ("loss", "cross_entropy", "bn_distance", "view_accuracy"), 12
    )
    weight = mini_recipe().recover.bn_weight
    total = unit.curves["cross_entropy"] + weight * unit.curves["bn_distance"]
    torch.testing.assert_close(unit.curves["loss"], total)
    names = sorted(path.name for path in (mini_run / "recover" / "previews").iterdir())
    assert names == ["iteration-000004.png", "iteration-000008.png", "iteration-000012.png"]


def test_units_are_of_so_many_classes_and_slots_start_where_told(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=3, ipc_start=1, unit_classes=4, iterations=2))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    names = sorted(path.stem for path in (squeezed / "recover" / "units").iterdir())
    assert names == [f"slot{slot:05d}-block{block:04d}" for slot in (1, 2) for block in (0, 1, 2)]
    assert set(images.read(squeezed / "recover" / "data").slots.tolist()) == {1, 2}


def test_a_slot_does_not_depend_on_how_many_there_are(mini_run, squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=1))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    name = "slot00000-block0000"
    assert torch.equal(unit_of(squeezed, name).images, unit_of(mini_run, name).images)


def test_a_verifier_rates_and_changes_nothing(mini_run, squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(verifier=str(mini_run / "squeeze")))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    rated, plain = unit_of(squeezed, "slot00001-block0000"), unit_of(mini_run, "slot00001-block0000")
    assert set(rated.verifier) == {4, 8, 12}
    assert all(0 <= value <= 1 for value in rated.verifier.values())
    assert torch.equal(rated.images, plain.images)


def test_a_verifier_without_weights_is_refused(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(verifier="mobilenet_v2"))
    with pytest.raises(AttarError, match="has no weights; give ARCHITECTURE:WEIGHTS"):
        pipeline.run(recipe, squeezed, stage="recover", quiet=True)


def test_papers_storage_is_an_option(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(recover=recipe.recover.changed(image_format="jpeg", rounding="truncate"))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    stored = images.read(squeezed / "recover" / "data")
    made = torch.cat([unit_of(squeezed, f"slot{slot:05d}-block0000").images for slot in range(2)])
    assert not torch.equal(stored.images, made)
    table = pq.read_table(next((squeezed / "recover" / "data").iterdir()))
    assert all(row["bytes"].startswith(b"\xff\xd8") for row in table["image"].to_pylist()), "not JPEG"
    manifest = json.loads((squeezed / "recover" / "manifest.json").read_text())
    assert manifest["result"]["images_sha256"] == stored.sha256(), "labels must be for the images as stored"


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(squeezed, mini_run, monkeypatch):
    """The disk fills up in the middle of the second unit."""
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(list((squeezed / "recover" / "units").glob("slot*.safetensors"))) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(AttarError, match="disk is full"):
        pipeline.run(mini_recipe(), squeezed, stage="recover", quiet=True)
    assert [path.name for path in (squeezed / "recover" / "units").iterdir()] == ["slot00000-block0000.safetensors"]
    monkeypatch.setattr(atomic.os, "fsync", real)
    pipeline.run(mini_recipe(), squeezed, stage="recover", quiet=True)
    stored = images.read(squeezed / "recover" / "data")
    assert stored.sha256() == images.read(mini_run / "recover" / "data").sha256()


def test_random_takes_real_images_without_replacement(squeezed):
    from attar.core.log import Log
    from attar.data.load import load

    recipe = mini_recipe().with_method("random")
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=20))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    stored = images.read(squeezed / "recover" / "data")
    pool = load(recipe.data, 0, Log(quiet=True)).train
    known = {(bytes(pool.image(place).tobytes()), int(pool.labels[place])) for place in range(len(pool))}
    taken = [
        (image.permute(1, 2, 0).contiguous().numpy().tobytes(), label)
        for image, label in zip(stored.images, stored.labels.tolist(), strict=True)
    ]
    assert set(taken) <= known
    assert len(set(taken)) == 200


@pytest.mark.parametrize("architecture", ["timm/test_vit", "timm/test_convnext"])
def test_a_teacher_without_batchnorm_is_matched_in_statistics_collected_of_the_real_images(tmp_path, architecture):
    """By the recipe's own method, cda, with nothing else set but the size that its patches fit into."""
    recipe = mini_recipe()
    recipe = recipe.changed(
        data=recipe.data.changed(size=32),
        squeeze=recipe.squeeze.changed(
            architecture=architecture, training=recipe.squeeze.training.changed(epochs=1, learning_rate=0.01)
        ),
        recover=recipe.recover.changed(ipc=1, iterations=2, statistics_images=4, accept_weak_teacher=True),
    )
    for stage in ("squeeze", "recover"):
        pipeline.run(recipe, tmp_path, stage=stage, quiet=True)
    curves = unit_of(tmp_path, "slot00000-block0000").curves
    assert (curves["bn_distance"] > 0).all()
    assert len(list((tmp_path / "prepared").rglob("*.safetensors"))) == 1
