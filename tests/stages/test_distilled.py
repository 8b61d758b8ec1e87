"""The artefact: labels that belong to views, and what users do with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.build import build
from attar.stages import relabel as relabel_stage
from attar.stages.dataset_info import INFO, read_info
from attar.stages.rows import DISTILLED, DISTILLED_HARD, FULL, scored_labels
from attar.store import mapped, sealed
from attar.store.weights import load_weights, save_weights
from conftest import edit_json, mini_recipe


def all_batches(distilled, epoch, batch_size, seed=0):
    return list(distilled.batches(epoch, batch_size, seed=seed))


def test_a_stored_label_is_the_teachers_answer_to_the_very_pixels(mini_run):
    """Replay: the view re-applied gives what the teacher saw, so asking it again gives the stored logits."""
    distilled = attar.load(mini_run / "distilled")
    teacher = teachers.load(mini_run / "squeeze")
    for epoch in (0, 5):
        for images, targets in distilled.batches(epoch, 7):
            again = teacher.module(images)
            torch.testing.assert_close(targets.logits.float(), again, atol=2e-3 * again.abs().max().item(), rtol=2e-3)


def test_what_a_set_prints_says_what_it_holds(mini_run):
    assert repr(attar.load(mini_run)) == (
        f"Distilled('{mini_run / 'distilled'}': 20 images of 8 x 8 pixels, 10 classes with 2 each, stored soft labels, "
        f"6 epochs, made from digits by cda)"
    )


def test_a_set_that_was_scored_with_hard_labels_opens_as_one(finished):
    path = finished / "distilled" / "dataset.json"
    labels = json.loads(path.read_text())["labels"]
    edit_json(path, labels=labels | {"scored": "hard"})
    distilled = attar.load(finished)
    assert "hard labels (stored soft labels, 6 epochs besides), made from" in repr(distilled)
    assert next(iter(distilled.batches(0)))[1].logits is None
    assert next(iter(distilled.batches(0, soft=True)))[1].logits is not None


@pytest.mark.parametrize(
    ("rows", "labels"),
    [((DISTILLED_HARD, FULL), "hard"), ((DISTILLED, DISTILLED_HARD), "soft"), ((FULL,), "soft")],
)
def test_which_labels_a_run_scores_goes_by_its_rows(rows, labels):
    assert scored_labels(rows) == labels


def test_hard_labels_come_with_the_same_views(mini_run):
    distilled = attar.load(mini_run)
    for (soft, _), (hard, targets) in zip(distilled.batches(1, 7), distilled.batches(1, 7, soft=False), strict=True):
        assert torch.equal(soft, hard)
        assert targets.logits is None
        logits = torch.randn(len(hard), 10, generator=torch.Generator().manual_seed(0))
        expected = distilled.info.protocol.value(logits, targets, hard=True)
        assert torch.equal(distilled.loss(logits, targets), expected)


def test_labels_do_not_depend_on_the_batch(mini_run):
    distilled = attar.load(mini_run / "distilled")
    small, large = all_batches(distilled, 2, 3), all_batches(distilled, 2, 20)
    for part in range(2):
        pieces = [batch[0] if part == 0 else batch[1].logits for batch in small]
        whole = [batch[0] if part == 0 else batch[1].logits for batch in large]
        torch.testing.assert_close(torch.cat(pieces), torch.cat(whole), atol=1e-6, rtol=0)


def test_every_image_comes_once_and_epochs_differ(mini_run):
    distilled = attar.load(mini_run / "distilled")
    labels = torch.cat([targets.labels for _, targets in distilled.batches(0, 6)])
    assert sorted(labels.tolist()) == sorted(distilled.labels.tolist())
    first, second = all_batches(distilled, 0, 20)[0][0], all_batches(distilled, 1, 20)[0][0]
    assert not torch.equal(first, second)
    wrapped = all_batches(distilled, 6, 20, seed=0)[0][1].logits.sort(0).values
    assert torch.equal(wrapped, all_batches(distilled, 0, 20)[0][1].logits.sort(0).values), "6 epochs, then over again"


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_images_too_large_for_memory_give_the_same_labels_and_batches(
    mini_run, recovered, monkeypatch, tmp_path, mode: str
):
    recipe = mini_recipe()
    recipe = recipe.changed(relabel=recipe.relabel.changed(mode=mode))
    monkeypatch.setattr(mapped, "RESIDENT_BYTES", 0)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    pipeline.run(recipe, recovered, stage="relabel", quiet=True)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    over_the_mapping = all_batches(attar.load(recovered / "distilled"), 1, 8)
    monkeypatch.undo()
    in_memory = all_batches(attar.load(recovered / "distilled"), 1, 8)
    for other in (in_memory, *([all_batches(attar.load(mini_run / "distilled"), 1, 8)] if mode == "stored" else [])):
        for (ours, mine), (theirs, yours) in zip(over_the_mapping, other, strict=True):
            assert torch.equal(ours, theirs)
            assert torch.equal(mine.logits, yours.logits)


def test_students_learn_from_the_teachers_as_they_are_stored(recovered, tmp_path):
    recipe, logits, sizes = mini_recipe(), {}, {}
    for precision in ("fp32", "int8"):
        out = shutil.copytree(recovered, tmp_path / precision)
        recipe = recipe.changed(relabel=recipe.relabel.changed(mode="online", teacher_precision=precision))
        pipeline.run(recipe, out, stage="relabel", quiet=True)
        distilled = attar.load(out / "distilled")
        assert distilled.info.labels.teacher_precision == precision
        (_, targets), *_ = all_batches(distilled, 0, 8)
        logits[precision], sizes[precision] = targets.logits, distilled.info.label_bytes
    difference = (logits["fp32"] - logits["int8"]).std()
    assert 0 < float(difference) < 0.05 * float(logits["fp32"].std())
    assert sizes["int8"] < 0.4 * sizes["fp32"]


def test_online_labels_are_the_stored_ones(mini_run, recovered):
    recipe = mini_recipe()
    recipe = recipe.changed(relabel=recipe.relabel.changed(mode="online"))
    pipeline.run(recipe, recovered, stage="relabel", quiet=True)
    online, stored = attar.load(recovered / "distilled"), attar.load(mini_run / "distilled")
    assert not (recovered / "distilled" / "labels").exists()
    for (ours, mine), (theirs, yours) in zip(all_batches(online, 1, 8), all_batches(stored, 1, 8), strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(mine.logits, yours.logits.float(), atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("operations", ["torchvision", "timm"])
@pytest.mark.parametrize("place", ["after-crop", "before-crop"])
def test_teacher_and_student_see_the_same_randaugment(recovered, tmp_path, operations: str, place: str):
    """Stored and on-line: the labels are the teacher's answers to the very pixels of the batch."""
    recipe, shown = mini_recipe(), {}
    views = {"randaugment_ops": 2, "randaugment_set": operations, "randaugment_place": place}
    for mode in ("online", "stored"):
        out = shutil.copytree(recovered, tmp_path / mode)
        labels = recipe.relabel.changed(mode=mode, views=recipe.relabel.views.changed(**views))
        pipeline.run(recipe.changed(relabel=labels), out, stage="relabel", quiet=True)
        distilled = attar.load(out / "distilled")
        assert distilled.info.labels.views == labels.views
        shown[mode] = all_batches(distilled, 1, 8)
    for (ours, mine), (theirs, yours) in zip(shown["online"], shown["stored"], strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(mine.logits, yours.logits.float(), atol=2e-2, rtol=2e-3)


def test_a_student_learns_from_it_in_three_lines(mini_run):
    model = build("convnet3", 10, 8, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    distilled = attar.load(mini_run / "distilled")
    for epoch in range(10):
        for images, targets in distilled.batches(epoch, batch_size=10):
            loss = distilled.loss(model(images), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert sum(losses[-4:]) < sum(losses[:4])


def test_it_is_a_dataset_of_plain_pairs(mini_run):
    distilled = attar.load(str(mini_run / "distilled"))
    assert len(distilled) == 20
    image, label = distilled[13]
    assert (image.dtype, image.shape, label) == (torch.uint8, (3, 8, 8), 3)


def test_hugging_face_datasets_opens_the_folder(mini_run, tmp_path):
    datasets = pytest.importorskip("datasets")
    opened = datasets.load_dataset(str(mini_run / "distilled"), cache_dir=str(tmp_path))["train"]
    assert opened.num_rows == 20
    assert opened.features["label"].names == list("0123456789")
    assert opened[13]["image"].size == (8, 8)
    assert opened[13]["label"] == 3


def test_the_card_and_the_facts_are_there(mini_run):
    info = json.loads((mini_run / "distilled" / "dataset.json").read_text())
    assert info["classes"] == list("0123456789")
    assert (info["ipc"], info["size"], info["method"]) == (2, 8, "cda")
    assert info["label_bytes"] == sum(path.stat().st_size for path in (mini_run / "distilled" / "labels").iterdir())
    card = (mini_run / "distilled" / "README.md").read_text()
    for part in ("random real, hard labels", "CC BY 4.0", "does not protect the privacy", "stored labels"):
        assert part in card
    assert not list((mini_run / "distilled").rglob("*.pkl"))


def test_labels_that_would_not_fit_are_refused_before_they_are_made(recovered, monkeypatch):
    usage = shutil.disk_usage(recovered)
    monkeypatch.setattr(relabel_stage.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(AttarError, match=r"take 0.0 GB, but the disk .* --relabel.mode online"):
        pipeline.run(mini_recipe(), recovered, stage="relabel", quiet=True)
    assert not (recovered / "distilled").exists()


def test_what_does_not_belong_together_is_refused(finished, mini_run):
    folder = finished / "distilled"
    header = json.loads((folder / "labels" / "labels.json").read_text())
    (folder / "labels" / "labels.json").write_text(json.dumps(header | {"images_sha256": "0" * 64}))
    with pytest.raises(AttarError, match="belong to other images; relabel again"):
        attar.load(folder)
    (folder / "labels" / "labels.json").unlink()
    with pytest.raises(AttarError, match="no finished soft labels"):
        attar.load(folder)
    images = next((folder / "data").iterdir())
    images.unlink()
    shutil.copy(next((mini_run / "baselines" / "random" / "distilled" / "data").iterdir()), images)
    with pytest.raises(AttarError, match="are not those of dataset.json"):
        attar.load(folder)
    with pytest.raises(AttarError, match="not a distilled dataset"):
        attar.load(finished / "squeeze")


def test_the_folder_of_a_run_opens_its_set(mini_run):
    assert attar.load(mini_run).folder == attar.load(str(mini_run / "distilled")).folder == mini_run / "distilled"


def test_a_set_from_before_there_were_hashes_opens(finished, mini_run):
    folder = finished / "distilled"
    info = json.loads((folder / "dataset.json").read_text())
    old = {key: value for key, value in info.items() if key not in ("files", "sha256")}
    (folder / "dataset.json").write_text(json.dumps(old))
    for path in (folder / "labels").glob("*.safetensors"):
        tensors, said = load_weights(path)
        save_weights(path, tensors, {key: said[key] for key in ("images_sha256", "file")})
    for (ours, mine), (theirs, yours) in zip(
        all_batches(attar.load(folder), 1, 8), all_batches(attar.load(mini_run / "distilled"), 1, 8), strict=True
    ):
        assert torch.equal(ours, theirs)
        assert torch.equal(mine.logits, yours.logits)


def test_what_dataset_json_tells_must_be_there(finished):
    """Without hashes, too: sets are made by hand, and by others."""
    path = finished / "distilled" / "dataset.json"
    whole = path.read_text()
    for change, words in (
        ({"num_images": 21}, "of shape"),
        ({"size": 9}, "of shape"),
        ({"classes": ["a"], "files": {}}, "classes that are not in"),
        ({"classes": list("0123456789a"), "files": {}}, "lists 10 classes, but dataset.json lists 11"),
        ({"std": [0, 1, 1]}, "std"),
    ):
        edit_json(path, **change)
        with pytest.raises(AttarError, match=words):
            attar.load(finished / "distilled")
        path.write_text(whole)
    attar.load(finished / "distilled")


def test_a_hub_id_without_a_network_is_one_sentence(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(AttarError, match=r"The Hub cannot be reached for 'org/name' \(no route\)"):
        attar.load("hf:org/name")


def test_a_set_of_an_earlier_attar_opens(finished: Path):
    """Its protocol held label options, too."""
    path = finished / "distilled" / INFO
    made = sealed.read_json(path, "")
    labels = {"views": made["labels"]["views"], "mix": made["labels"]["mix"]}
    protocol = made["protocol"] | labels | {"label_batchnorm": "eval", "label_batch_size": 8}
    before = read_info(finished / "distilled")
    sealed.write_json(path, made | {"protocol": protocol})
    assert read_info(finished / "distilled") == before
    images, targets = next(attar.load(finished / "distilled").batches(0, 5))
    assert (len(images), len(targets.labels)) == (5, 5)
