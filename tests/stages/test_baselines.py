"""Baselines that several runs share, and the sets without augmentation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attar import pipeline
from attar.stages import squeeze, students
from attar.stages.baselines import baseline_config
from attar.stages.dataset_info import read_info
from attar.stages.distilled import Distilled
from attar.store import images as image_files
from conftest import mini_recipe


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What students were trained on, in order."""
    found: list[str] = []

    def counted(module, name, what):
        real = getattr(module, name)

        def call(*args, **kwargs):
            found.append(what(args))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(students, "_fit_small", lambda args: Path(args[2].folder).parent.name.partition("-ipc")[0])
    counted(squeeze, "full_data", lambda args: "full")
    return found


def test_a_second_method_has_the_firsts_baselines(squeezed, tmp_path, trained):
    recipe = mini_recipe()
    rows = ("distilled", "distilled-hard", "random-soft", "random-hard", "kcentre-hard", "random-noaug", "full")
    judging = recipe.evaluate.changed(rows=rows, num_seeds=1, baselines=str(tmp_path / "shared"))
    first = recipe.changed(evaluate=judging)
    tables = [pipeline.run(first, squeezed, quiet=True).table]
    assert sorted(trained) == sorted(["run"] * 2 + ["random"] * 3 + ["kcentre", "full"])
    trained.clear()
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    (other / "squeeze").symlink_to(squeezed / "squeeze")
    second = first.with_method("sre2l").changed(name="another")
    second = second.changed(recover=second.recover.changed(unit_slots=2, iterations=3))
    tables.append(pipeline.run(second, other, quiet=True).table)
    assert trained == ["run", "run"]
    for before, after in list(zip(*tables, strict=True))[2:]:
        assert before == replace(after, method=before.method, aim=before.aim)  # accuracy, bytes and seconds
    assert not (squeezed / "baselines").exists()
    folders = sorted(path.name for path in (tmp_path / "shared").iterdir())
    assert [name.partition("-ipc2-")[0] for name in folders] == ["kcentre", "random", "scores"]
    assert len(list((other / "evaluate" / "scores").iterdir())) == 2


def test_other_storage_is_another_baseline_in_the_same_folder(squeezed, tmp_path, trained):
    recipe = mini_recipe()
    judging = recipe.evaluate.changed(rows=("random-hard",), num_seeds=1, baselines=str(tmp_path / "shared"))
    for image_format in ("png", "jpeg"):
        recover = recipe.recover.changed(image_format=image_format)
        run = tmp_path / image_format
        run.mkdir()
        (run / "squeeze").symlink_to(squeezed / "squeeze")
        pipeline.run(recipe.changed(recover=recover, evaluate=judging), run, quiet=True)
    assert trained == ["random", "random"]
    assert len(list((tmp_path / "shared").glob("random-*"))) == 2


def test_labels_without_augmentation_are_those_of_the_images_as_they_are(finished):
    recipe = mini_recipe()
    rows = ("distilled-noaug", "random-noaug")
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(rows=rows, num_seeds=1))
    table = pipeline.run(recipe, finished, quiet=True).table
    assert [line.row for line in table] == list(rows)
    for name in ("distilled", "random"):
        plain = Distilled(finished / "baselines" / name / "noaug")
        whole = read_info(finished / "distilled" if name == "distilled" else finished / "baselines/random/distilled")
        assert plain.info.images_sha256 == whole.images_sha256
        for epoch in (0, 5):  # one stored epoch serves all
            shown = torch.cat([images for images, _ in plain.views(epoch, 7, "cpu", 0)])
            assert sorted(map(str, (255 * shown).round().tolist())) == sorted(map(str, plain.images.float().tolist()))


def test_a_baseline_follows_nothing_of_the_method_but_number_and_storage():
    recipe = mini_recipe()
    odd = recipe.recover.changed(unit_classes=3, unit_slots=2, parallel_units=4, image_format="jpeg")
    config = baseline_config("herding", odd)
    assert (config.image_format, config.ipc) == ("jpeg", 2)
    assert config == baseline_config("herding", recipe.recover.changed(image_format="jpeg"))


@pytest.mark.parametrize("method", ["herding", "kcentre"])
def test_chosen_images_depend_on_no_units(squeezed, tmp_path, method):
    """Whoever makes which slots, and beside which others."""
    recipe = mini_recipe().with_method(method)
    found = []
    for number, units in enumerate(({"unit_classes": 3}, {"unit_slots": 2}, {"parallel_units": 2})):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "squeeze").symlink_to(squeezed / "squeeze")
        pipeline.run(recipe.changed(recover=recipe.recover.changed(**units)), run, stage="recover", quiet=True)
        stored = image_files.read(run / "recover" / "data")
        places = zip(stored.labels.tolist(), stored.slots.tolist(), stored.images, strict=True)
        found.append({(label, slot): image for label, slot, image in places})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(image, found[0][place]) for place, image in other.items())
    manifest = json.loads((tmp_path / "0" / "recover" / "manifest.json").read_text())
    assert manifest["result"]["method"] == method
