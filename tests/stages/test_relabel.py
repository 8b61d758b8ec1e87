"""Relabel: labels by running or batch statistics, few or many; and what is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.committee import Committee, batch_normalised
from attar.recipes.recipe import Recipe
from attar.stages import label_choice
from attar.stages.dataset_info import read_info
from conftest import mini_recipe


def with_labels(**values: object) -> Recipe:
    """The small recipe with other labels."""
    recipe = mini_recipe()
    return recipe.changed(relabel=recipe.relabel.changed(**values))


def labelled(run: Path, recipe: Recipe) -> attar.stages.distilled.Distilled:
    """The artefact that relabel makes of it."""
    pipeline.run(recipe, run, stage="relabel", quiet=True)
    return attar.load(run / "distilled")


def seen_and_said(distilled, epoch: int, batch_size: int = 20):
    """Images in [0, 1] and logits of an epoch."""
    batches = list(distilled.views(epoch, batch_size, "cpu", seed=0))
    return torch.cat([images for images, _ in batches]), torch.cat([targets.logits.float() for _, targets in batches])


def test_labels_by_batch_statistics(recovered: Path):
    """With every image in one batch the answer is that of the network with this batch's statistics."""
    recipe = with_labels(committee={"batchnorm": "train", "batchnorm_batch": 20}, epochs=2)
    distilled = labelled(recovered, recipe)
    images, said = seen_and_said(distilled, 1)
    teacher = teachers.load(recovered / "squeeze")
    expected = batch_normalised(teacher.module)(teacher.normalisation.apply(images))
    torch.testing.assert_close(said, expected, atol=4e-3 * float(expected.abs().max()), rtol=4e-3)
    assert not torch.allclose(said, teacher.logits(images), atol=0.05)


def test_batch_specific_labels_depend_on_their_batches_and_not_on_how_many_are_asked_at_a_time(
    mini_run: Path, tmp_path: Path
):
    found = {}
    for name, batch, at_a_time in (("a", 8, 8), ("b", 8, 256), ("c", 5, 256)):
        for folder in ("squeeze", "recover"):
            shutil.copytree(mini_run / folder, tmp_path / name / folder)
        committee = {"batchnorm": "train", "batchnorm_batch": batch}
        distilled = labelled(tmp_path / name, with_labels(committee=committee, batch_size=at_a_time, epochs=1))
        found[name] = seen_and_said(distilled, 0)[1]
    torch.testing.assert_close(found["a"], found["b"], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(found["a"], found["c"], atol=0.05)


def test_a_pool_and_few_logits_take_a_part_of_the_bytes(mini_run: Path, recovered: Path):
    codec = {"kind": "topk", "k": 3, "values": "int8"}
    distilled = labelled(recovered, with_labels(pool_epochs=2, codec=codec))
    full = attar.load(mini_run / "distilled").info.label_bytes
    assert distilled.info.label_bytes < full / 2
    manifest = json.loads((recovered / "distilled" / "manifest.json").read_text())
    assert manifest["result"]["label_bytes"] == distilled.info.label_bytes
    planned = label_choice.planned_bytes(20, 10, with_labels(pool_epochs=2, codec=codec).relabel, 8)
    assert 0.9 * planned < distilled.info.label_bytes <= planned
    teacher = teachers.load(recovered / "squeeze")
    met = set()
    for epoch in range(8):
        images, said = seen_and_said(distilled, epoch)
        answer = teacher.logits(images)
        top = answer.topk(3).indices
        torch.testing.assert_close(said.gather(1, top), answer.gather(1, top), atol=0.1, rtol=0.02)
        met.add(tuple(said[:, 0].tolist()))
    assert len(met) > 2  # other company each time round


def test_students_train_on_a_pool_of_few_logits(recovered: Path):
    recipe = with_labels(pool_epochs=2, codec={"kind": "topk", "k": 3})
    pipeline.run(recipe, recovered, stage="relabel", quiet=True)
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=1))
    (line,) = pipeline.run(recipe, recovered, stage="evaluate", quiet=True).table
    assert line.label_bytes == attar.load(recovered / "distilled").info.label_bytes
    assert line.top1_mean > 5


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_a_mix_shared_by_batches_follows_the_published_order(recovered: Path, mode: str):
    from attar.ops.replay import published_order

    recipe = with_labels(mode=mode, mix={"kind": "cutmix", "shared_by": 8}, epochs=3)
    distilled = labelled(recovered, recipe)
    for epoch in range(3):
        records = distilled.drawn(epoch) if mode == "online" else distilled.stored.epoch(epoch).records
        for batch in published_order(distilled.labels, distilled.slots, epoch).split(8):
            assert set(records.mix.partner[batch].tolist()) == set(batch.tolist())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"committee": {"policy": "weighted", "weights": (1.0, 2.0)}}, "has 2 weights for 1 teachers"),
        ({"committee": {"weights": (1.0,)}}, "only used with --relabel.committee.policy weighted"),
        ({"views": {"patch_shuffle": 3}}, "Images of 8 pixels do not divide into 3 patches"),
        ({"committee": {"members": (0, 3)}}, "names teacher 3, but the run has only teacher 0"),
    ],
)
def test_labels_that_cannot_be_made_are_refused_and_nothing_is_written(recovered: Path, values: dict, words: str):
    with pytest.raises(AttarError, match=words):
        labelled(recovered, with_labels(**values))
    assert not (recovered / "distilled").exists()


def test_squared_error_needs_all_classes():
    dropping = with_labels(codec={"kind": "topk", "k": 3, "remainder": "drop"}).relabel
    squared = mini_recipe().evaluate.protocol.changed(loss="mse")
    with pytest.raises(AttarError, match="needs the logits of all classes, and these labels drop some"):
        label_choice.check(dropping, squared, 8, 10)
    label_choice.check(dropping.changed(codec={"kind": "topk", "k": 3}), squared, 8, 10)
    label_choice.check(dropping.changed(codec={"kind": "topk", "k": 10, "remainder": "drop"}), squared, 8, 10)


def test_labels_spread_at_another_temperature_than_students_train_at_are_named():
    protocol = mini_recipe().evaluate.protocol.changed(loss="soft", temperature=4.0)
    spread = mini_recipe().relabel.changed(mode="stored", codec={"kind": "topk", "k": 3, "temperature": 20.0})

    def told(relabel=spread, protocol=protocol, *, made: bool = False) -> str:
        return label_choice.other_temperature(relabel, protocol, 10, made=made)

    assert "at temperature 20, and students train at 4," in told()
    assert told().endswith("; set --relabel.codec.temperature 4")
    assert told(made=True).endswith("in a new run, or train at --evaluate.protocol.temperature 20")
    for codec in ({"temperature": 4.0}, {"k": 10}, {"remainder": "drop"}, {"kind": "fp16"}):
        assert told(spread.changed(codec=spread.codec.plain() | codec)) == ""
    assert told(spread.changed(mode="online")) == told(protocol=protocol.changed(loss="mse")) == ""


def test_pools_must_fit():
    with pytest.raises(ValueError, match="pool_epochs \\(9\\) is more than epochs \\(6\\)"):
        with_labels(pool_epochs=9)
    with pytest.raises(ValueError, match="pool_epochs applies to stored labels"):
        with_labels(pool_epochs=2, mode="online")


def test_the_size_is_told_before_labels_are_written(recovered: Path, capsys):
    recipe = with_labels(pool_epochs=2, codec={"kind": "topk", "k": 3})
    pipeline.run(recipe, recovered, stage="relabel")
    said = " ".join(capsys.readouterr().err.split())
    assert "relabel 2 epochs of 20 images in a pool, top 3, rest spread: at most 3 kB of labels" in said


def test_a_full_disk_is_foreseen(recovered: Path, monkeypatch):
    usage = shutil.disk_usage(recovered)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(AttarError, match=r"has 0\.0 GB free; use --relabel\.mode online, --relabel\.codec\.kind topk"):
        labelled(recovered, with_labels())
    assert not (recovered / "distilled").exists()


def test_published_images_and_labels_take_the_place_of_recovering_and_relabelling(recovered: Path, tmp_path: Path):
    """Exported in the published layout and taken along by another run: the same labels for the same pixels."""
    from attar.exchange.fkd_files import export

    made = labelled(recovered, with_labels(mix={"kind": "cutmix", "shared_by": 8}, epochs=3))
    export(recovered, tmp_path / "published")
    out = tmp_path / "other"
    shutil.copytree(recovered / "squeeze", out / "squeeze")
    recipe = with_labels(imported=str(tmp_path / "published" / "labels"), codec={"kind": "topk", "k": 10})
    recipe = recipe.changed(images=str(tmp_path / "published" / "images"))
    pipeline.run(recipe, out, stage="recover", quiet=True)
    found = labelled(out, recipe)
    assert found.info.method == "imported"
    assert found.info.labels.imported
    assert torch.equal(found.images, made.images)
    for epoch in range(3):
        for one, other in zip(seen_and_said(found, epoch), seen_and_said(made, epoch), strict=True):
            torch.testing.assert_close(one, other)
    first = recipe.relabel.imported
    shutil.move(first, tmp_path / "moved")
    moved = recipe.changed(relabel=recipe.relabel.changed(imported=str(tmp_path / "moved")))
    labelled(out, moved)  # where they lie does not matter
    (tmp_path / "moved" / "epoch_2" / "batch_2.tar").write_bytes(b"")
    with pytest.raises(AttarError, match="made from imported labels that are not the current"):
        labelled(out, moved)
    shutil.rmtree(out / "distilled")
    with pytest.raises(AttarError, match=r"epoch_2/batch_2\.tar"):
        labelled(out, moved)
    assert not (out / "distilled").exists()


def test_a_whole_run_on_published_images_and_labels(squeezed: Path, tmp_path: Path):
    """Real images, for labels that rank the classes of their images by chance are refused."""
    from attar.exchange.fkd_files import export

    made = with_labels(mix={"kind": "none"}, epochs=3).with_method("random")
    pipeline.run(made, squeezed, stage="recover", quiet=True)
    labelled(squeezed, made)
    export(squeezed, tmp_path / "published")
    shutil.copytree(squeezed / "squeeze", tmp_path / "other" / "squeeze")
    recipe = with_labels(imported=str(tmp_path / "published" / "labels"))
    recipe = recipe.changed(images=str(tmp_path / "published" / "images"))
    rows = ("distilled", "random-soft")
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(rows=rows, num_seeds=1))
    lines = pipeline.run(recipe, tmp_path / "other", quiet=True).table
    assert [line.row for line in lines] == ["distilled", "random-soft"]


def test_choices_without_effect_make_no_other_labels(recovered: Path):
    first = labelled(recovered, with_labels())
    idle = with_labels(
        codec={"k": 7, "temperature": 3.0, "values": "int8"}, committee={"batchnorm_batch": 4}, batch_size=5
    )
    assert labelled(recovered, idle).info == first.info
    with pytest.raises(AttarError, match=r"relabel\.codec\.k .* -> 7"):
        labelled(recovered, with_labels(codec={"kind": "topk", "k": 7}))


def test_what_a_killed_writer_left_is_no_label(recovered: Path):
    (recovered / "distilled" / "labels").mkdir(parents=True)
    left = recovered / "distilled" / "labels" / ".epochs-00000-00005.safetensors.12ab34cd.tmp"
    left.write_bytes(bytes(10**6))
    os.utime(left, (0, 0))
    fresh = left.with_name(".epochs-00005-00010.safetensors.34cd12ab.tmp")  # perhaps of another run
    fresh.write_bytes(bytes(10**6))
    info = labelled(recovered, with_labels()).info
    assert not left.exists()
    assert fresh.exists()
    files = [path for path in (recovered / "distilled" / "labels").iterdir() if path != fresh]
    assert info.label_bytes == sum(path.stat().st_size for path in files) < 10**5


def test_room_is_asked_for_where_labels_go_and_for_the_baselines_too(squeezed: Path, monkeypatch):
    recipe, usage = mini_recipe(), shutil.disk_usage(squeezed)
    one, asked = label_choice.planned_bytes(20, 10, recipe.relabel, 8), []

    def measured(folder: Path):
        asked.append(folder)
        return usage._replace(free=3 * one)

    monkeypatch.setattr(shutil, "disk_usage", measured)
    with pytest.raises(AttarError, match="The soft labels take"):
        pipeline.run(recipe, squeezed, quiet=True)
    assert not (squeezed / "recover").exists()
    assert asked == [squeezed.absolute()]
    fewer = recipe.changed(evaluate=recipe.evaluate.changed(rows=("distilled", "random-soft", "full"), num_seeds=1))
    assert len(pipeline.run(fewer, squeezed, quiet=True).table) == 3


def test_online_labels_by_batch_statistics_leave_no_image_alone(recovered: Path):
    recipe = with_labels(mode="online", committee={"batchnorm": "train", "batchnorm_batch": 4})
    batches = labelled(recovered, recipe).batches(0, batch_size=19)
    assert [len(images) for images, _ in batches] == [20]


def test_what_was_taken_from_elsewhere_is_needed_no_longer(squeezed: Path, tmp_path: Path):
    from attar.exchange.fkd_files import export

    made = with_labels(mix={"kind": "none"}, epochs=3).with_method("random")
    pipeline.run(made, squeezed, stage="recover", quiet=True)
    labelled(squeezed, made)
    export(squeezed, tmp_path / "published")
    out = tmp_path / "other"
    shutil.copytree(squeezed / "squeeze", out / "squeeze")
    recipe = with_labels(imported=str(tmp_path / "published" / "labels"))
    recipe = recipe.changed(images=str(tmp_path / "published" / "images"))
    pipeline.run(recipe, out, stage="recover", quiet=True)
    found = labelled(out, recipe)
    shutil.rmtree(tmp_path / "published")
    rows = ("distilled", "random-soft")
    judged = recipe.changed(evaluate=recipe.evaluate.changed(rows=rows, num_seeds=1))
    table = pipeline.run(judged, out, quiet=True).table
    assert [(line.images_seconds is None, line.labels_seconds is None) for line in table] == [
        (True, True),
        (False, False),
    ]
    assert read_info(out / "baselines" / "random" / "distilled").labels.epochs == found.info.labels.epochs == 3
    card = (out / "distilled" / "README.md").read_text()
    assert "made elsewhere from *digits*, with soft labels made elsewhere." in " ".join(card.split())


def test_rows_without_augmentation_are_looked_at_before_hours_are_spent(squeezed: Path):
    recipe = with_labels(mode="online", codec={"kind": "topk", "k": 3, "remainder": "drop"})
    squared = recipe.evaluate.protocol.changed(loss="mse")
    judged = recipe.evaluate.changed(protocol=squared, rows=("distilled", "distilled-noaug"))
    with pytest.raises(AttarError, match="needs the logits of all classes"):
        pipeline.run(recipe.changed(evaluate=judged), squeezed, quiet=True)
    assert not (squeezed / "recover").exists()


def test_baselines_that_keep_other_labels_are_told_before_any_is_written(finished: Path):
    shutil.rmtree(finished / "distilled")
    before = sorted(path for path in finished.rglob("*"))
    with pytest.raises(
        AttarError, match=r"baselines was labelled with other settings .*codec\.kind .*delete random and"
    ):
        pipeline.run(with_labels(codec={"kind": "topk", "k": 3}), finished, quiet=True)
    assert sorted(path for path in finished.rglob("*")) == before


def test_answers_that_are_no_numbers_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch):
    answer = Committee.logits

    def broken(self: Committee, images: torch.Tensor) -> torch.Tensor:
        logits = answer(self, images).clone()
        logits[0, 3] = torch.nan
        return logits

    monkeypatch.setattr(Committee, "logits", broken)
    shutil.rmtree(finished / "distilled")
    with pytest.raises(AttarError, match=r"logits that are not finite for .* \(epoch 0\); squeeze another teacher"):
        pipeline.run(mini_recipe(), finished, stage="relabel", quiet=True)
    assert not (finished / "distilled" / "manifest.json").exists()
