import csv
import io
import json
import math
import shutil

import numpy as np
import pytest

from attar import pipeline
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.load import load
from attar.recipes.catalogue import recipe_named
from attar.report import architectures
from attar.report.table import lines, title_of
from attar.stages import agreement
from attar.stages import scores as scores_of
from attar.stages.dataset_info import read_info
from attar.stages.protocols import PROTOCOL_LABELS, PROTOCOLS, protocol_title
from attar.stages.rows import ROWS, Row
from conftest import mini_recipe


def scores(run):
    return sorted(path.name for path in (run / "evaluate" / "scores").iterdir())


def test_every_row_has_its_seeds_bytes_and_seconds(mini_run):
    table = {line.row: line for line in lines(mini_run)}
    assert list(table) == list(map(str, ROWS))
    for line in table.values():
        assert line.num_seeds == 2
        assert line.top1_std is not None
        assert 0 <= line.top1_mean <= line.top5_mean <= 100
        assert line.image_bytes > 0
        assert line.train_seconds > 0
        hard = Row.parse(line.row).labels == "hard"
        assert line.num_images == {"full": 1438, "equal-bytes": table["equal-bytes"].num_images}.get(line.row, 20)
        assert (line.label_bytes == 0) == (line.labels_seconds == 0) == hard
        assert (line.teacher_seconds == 0) == (line.row in ("random-hard", "equal-bytes", "full"))
        assert (line.images_seconds == 0) == (line.row == "full")
        assert (line.teacher_agreement is None) == (line.row == "full")
    soft = [line for line in table.values() if line.label_bytes]
    assert len({line.label_bytes for line in soft}) == 1
    assert table["full"].top1_mean > 90
    assert 20 < table["equal-bytes"].num_images < 1438
    assert table["equal-bytes"].image_bytes <= table["distilled"].image_bytes + table["distilled"].label_bytes
    assert table["random-soft"].teacher_agreement == table["random-hard"].teacher_agreement


def test_a_score_is_that_of_its_classes_and_of_its_confidence(mini_run):
    kept = [json.loads(path.read_text())["score"] for path in (mini_run / "evaluate" / "scores").iterdir()]
    assert len(kept) == 2 * len(ROWS)
    val = load(mini_recipe().data, 0, Log(quiet=True)).val
    counts = np.bincount(val.labels, minlength=10)
    for score in kept:
        hits = [round(share * count) for share, count in zip(score["per_class"], counts, strict=True)]
        assert score["top1"] == sum(hits) / len(val)
        assert 0 <= score["ece"] <= 1
        assert abs(score["confidence"] - score["top1"]) <= score["ece"] + 1e-9  # a mean is within the mean distance


def test_more_seeds_only_add_to_what_is_known(finished):
    before = scores(finished)
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "evaluate" / "scores").iterdir()}
    recipe = mini_recipe()
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=3, rows=("distilled",)))
    result = pipeline.run(recipe, finished, quiet=True)
    assert [(line.row, line.num_seeds) for line in result.table] == [("distilled", 3)]
    assert len(scores(finished)) == len(before) + 1  # one seed more of one row
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_another_protocol_is_another_score_unless_it_trains_alike(finished):
    before, recipe = scores(finished), mini_recipe()
    entries = json.loads((finished / "evaluate" / "manifest.json").read_text())["result"]["scores"]
    known = {(entry["row"], entry["seed"]): entry["top1"] for entry in entries}
    named = recipe.evaluate.protocol.changed(name="mine", version=2)
    judged = recipe.evaluate.changed(protocol=named, rows=("distilled",), num_seeds=1)
    (line,) = pipeline.run(recipe.changed(evaluate=judged), finished, quiet=True).table
    assert (line.protocol, scores(finished)) == ("mine v2", before)
    warm = recipe.evaluate.protocol.changed(temperature=5.0)
    judged = recipe.evaluate.changed(protocol=warm, rows=("distilled", "distilled-hard"), num_seeds=1)
    pipeline.run(recipe.changed(evaluate=judged), finished, quiet=True)
    (added,) = set(scores(finished)) - set(before)  # classes know no temperature
    path = finished / "evaluate" / "scores" / added
    assert len(json.loads(path.read_text())["losses"]) == 3
    path.unlink()
    protocol = recipe.evaluate.protocol.changed(loss="hard")
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(protocol=protocol, rows=("distilled",), num_seeds=1))
    (line,) = pipeline.run(recipe, finished, quiet=True).table
    assert line.protocol == "digits v2 modified"
    assert line.label_bytes == 0
    # Its student is the one of the row with hard labels, which is trained already.
    assert line.top1_mean == round(100 * known["distilled-hard", 0], 2)
    assert scores(finished) == before


def test_the_teacher_can_stand_for_the_full_data_row(finished):
    recipe = mini_recipe()
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(full_data="teacher", rows=("full",)))
    (line,) = pipeline.run(recipe, finished, quiet=True).table
    manifest = json.loads((finished / "squeeze" / "manifest.json").read_text())
    assert (line.protocol, line.num_seeds, line.top1_std) == ("the teacher", 1, None)
    assert line.top1_mean == round(100 * manifest["result"]["top1"], 2)
    events = [json.loads(line) for line in (finished / "evaluate" / "log.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "jobs"][-1]["total"] == 0  # the teacher is no student


def test_students_without_batchnorm_stand_beside_the_others(tmp_path):
    """A ViT and a ConvNeXt at 32 pixels, in the tables of all students."""
    recipe = mini_recipe()
    students = ("convnet3", "timm/vit_tiny_patch16_224", "timm/convnext_atto")
    once = recipe.evaluate.protocol.training.changed(epochs=1)
    recipe = recipe.changed(
        data=recipe.data.changed(size=32, num_classes=2),
        squeeze=recipe.squeeze.changed(training=recipe.squeeze.training.changed(epochs=1)),
        recover=recipe.recover.changed(ipc=1, iterations=1, snapshots=(), accept_weak_teacher=True),
        relabel=recipe.relabel.changed(epochs=1),
        evaluate=recipe.evaluate.changed(
            protocol=recipe.evaluate.protocol.changed(training=once),
            students=students,
            rows=("distilled", "herding-hard"),
            num_seeds=1,
        ),
    )
    table = pipeline.run(recipe, tmp_path / "run", quiet=True).table
    assert [(line.row, line.student) for line in table] == [
        (row, student) for row in ("distilled", "herding-hard") for student in students
    ]
    for path in (tmp_path / "run" / "evaluate" / "scores").iterdir():
        assert math.isfinite(json.loads(path.read_text())["losses"][0])
    crossed = list(csv.reader(io.StringIO((tmp_path / "run" / "report" / "architectures.csv").read_text())))
    columns = [f"{measure}_{part}" for measure in ("top1", "class_top1") for part in ("mean", "std")]
    assert crossed[0] == ["run", "row", *(f"{name} {column}" for name in students for column in columns)]
    assert [row[1] for row in crossed[1:]] == ["distilled", "herding-hard"]
    assert [float(cell) for cell in crossed[1][2::4]] == [line.top1_mean for line in table[:3]]
    page = (tmp_path / "run" / "report" / "table.md").read_text()
    assert "| trained on | convnet3 | timm/vit_tiny_patch16_224 | timm/convnext_atto |" in page
    assert architectures.for_terminal(table, 200) is not None


@pytest.mark.parametrize("method", ["random", "herding"])
def test_a_baseline_as_the_method_is_its_own_row(squeezed, method):
    recipe = mini_recipe().with_method(method)
    rows = ("distilled", "distilled-hard", f"{method}-soft", f"{method}-hard")
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(rows=rows, num_seeds=1))
    table = {line.row: line for line in pipeline.run(recipe, squeezed, quiet=True).table}
    assert table["distilled"].top1_mean == table[f"{method}-soft"].top1_mean
    assert table["distilled-hard"].top1_mean == table[f"{method}-hard"].top1_mean
    assert not (squeezed / "baselines").exists()
    assert len(scores(squeezed)) == 2  # one training for two rows


def test_without_enough_real_images_the_real_rows_are_left_out(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(
        recover=recipe.recover.changed(ipc=141, ipc_start=139, iterations=1),
        evaluate=recipe.evaluate.changed(rows=("distilled", "random-hard", "herding-soft"), num_seeds=1),
    )
    result = pipeline.run(recipe, squeezed, quiet=True)
    assert [line.row for line in result.table] == ["distilled"]


def test_a_teacher_that_does_not_know_its_images_is_told_of(finished, monkeypatch, capsys):
    monkeypatch.setattr(agreement, "LEAST", 1.01)
    recipe = mini_recipe()
    shutil.rmtree(finished / "evaluate" / "agreement")
    (finished / "evaluate" / "log.jsonl").unlink()
    for _ in range(2):  # said again, though measured and recorded once
        recipe = recipe.changed(evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=1))
        pipeline.run(recipe, finished)
    assert capsys.readouterr().err.count("of the distilled images as their class") == 2
    events = [json.loads(line) for line in (finished / "evaluate" / "log.jsonl").read_text().splitlines()]
    told = [event["text"] for event in events if event["event"] == "warning"]
    assert len(told) == 1
    assert "of the distilled images as their class (worst: " in told[0]
    (kept,) = (finished / "evaluate" / "agreement").iterdir()
    fraction = json.loads(kept.read_text())["fraction"]
    manifest = json.loads((finished / "evaluate" / "manifest.json").read_text())
    assert manifest["result"]["rows"]["distilled"]["teacher_agreement"] == fraction
    assert f"recognises {fraction:.0%} " in told[0]


def test_another_protocol_judges_the_labels_that_there_are(finished, capsys):
    """And so do baselines, and the recipe that stays beside them says how they were made."""
    recipe, before = mini_recipe().with_protocol("cda"), read_info(finished / "distilled")
    training = recipe.evaluate.protocol.training.changed(epochs=2)
    judged = recipe.evaluate.changed(
        protocol=recipe.evaluate.protocol.changed(training=training), rows=("distilled", "random-soft"), num_seeds=1
    )
    table = pipeline.run(recipe.changed(evaluate=judged), finished, stage="evaluate").table
    assert {line.protocol for line in table} == {"cda v1 modified, but the labels' own views, mixing"}
    said = " ".join(capsys.readouterr().err.split())
    assert "made with other settings, which are kept: relabel.epochs 300 -> 6; relabel.codec.temperature" not in said
    assert "which are kept: relabel.views.crop" in said  # six epochs of labels are enough for two
    kept = recipe_named(str(finished / "recipe.yaml"))
    assert kept.relabel.identity() == mini_recipe().relabel.identity()
    assert kept.evaluate.protocol.name == "cda"
    assert read_info(finished / "distilled") == before
    assert read_info(finished / "baselines" / "random" / "distilled").labels == before.labels
    card = (finished / "distilled" / "README.md").read_text()
    assert "protocol cda v1 modified, but the labels' own views, mixing." in card


def test_a_title_says_what_is_not_the_protocols(mini_run):
    info, sre2lpp = read_info(mini_run / "distilled"), PROTOCOLS["sre2l++"]
    own = mini_recipe().evaluate.protocol
    assert scores_of.title(own, [info]) == protocol_title(own) == "digits v2 modified"
    assert scores_of.title(own, []) == protocol_title(own)
    assert scores_of.title(sre2lpp, [info]) == "sre2l++ v1, but the labels' own views, mixing, BatchNorm, 6 epochs"
    assert scores_of.title(PROTOCOLS["hard-label"], [info]).endswith("own views, mixing, 6 epochs")
    asked = PROTOCOL_LABELS["sre2l++"]
    alike = info.labels.changed(
        views=asked.views, mix=asked.mix, epochs=300, committee={"batchnorm": "train", "batchnorm_batch": 8}
    )
    assert scores_of.title(sre2lpp, [info.changed(labels=alike)]) == "sre2l++ v1"


def test_the_rate_of_another_student_alters_no_score(finished):
    before, recipe = scores(finished), mini_recipe()
    rated = recipe.evaluate.protocol.changed(learning_rates={"vgg11": 0.5})
    pipeline.run(recipe.changed(evaluate=recipe.evaluate.changed(protocol=rated)), finished, quiet=True)
    assert scores(finished) == before


def test_without_soft_labels_no_student_stands_in_two_rows(finished):
    recipe = mini_recipe().with_protocol("hard-label")
    training = recipe.evaluate.protocol.training.changed(epochs=2)
    hard = recipe.evaluate.protocol.changed(training=training)
    rows = ("distilled", "distilled-hard", "random-soft", "random-hard", "kcentre-hard")
    judged = recipe.evaluate.changed(protocol=hard, rows=rows, num_seeds=1)
    table = pipeline.run(recipe.changed(evaluate=judged), finished, stage="evaluate", quiet=True).table
    assert [line.row for line in table] == ["distilled", "random-soft", "kcentre-hard"]
    assert [title_of(line, False) for line in table] == [
        "distilled, hard labels",
        "random real, hard labels",
        "k-centre, hard labels",
    ]


def test_a_table_without_rows_is_refused(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(
        recover=recipe.recover.changed(ipc=140, ipc_start=139, iterations=1, snapshots=()),
        evaluate=recipe.evaluate.changed(rows=("random-soft", "herding-hard")),
    )
    with pytest.raises(AttarError, match="No row of random-soft, herding-hard can be made"):
        pipeline.run(recipe.with_method("cda").changed(relabel=recipe.relabel.changed(epochs=1)), squeezed, quiet=True)
    assert not (squeezed / "evaluate").exists()


def test_a_damaged_score_is_named(finished):
    path = next((finished / "evaluate" / "scores").iterdir())
    path.write_text(path.read_text()[:30])
    with pytest.raises(AttarError, match=f"{path} is damaged.*; delete it"):
        pipeline.run(mini_recipe(), finished, quiet=True)


def test_rows_without_augmentation_alter_no_title(finished):
    recipe = mini_recipe()
    judged = recipe.evaluate.changed(rows=("distilled", "distilled-noaug"), num_seeds=1)
    table = pipeline.run(recipe.changed(evaluate=judged), finished, stage="evaluate", quiet=True).table
    assert {line.protocol for line in table} == {protocol_title(recipe.evaluate.protocol)}
