"""Scores that cannot be: refused by name before anything is trained; trainings that diverged are no scores."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.ops.metrics import Measured
from attar.recipes.recipe import Recipe
from attar.stages import students
from attar.stages.rows import DISTILLED, FULL
from attar.stages.scores import ScoreFile
from conftest import mini_recipe

GOOD = Measured(top1=0.5, top5=0.9, per_class=(0.25, None, 0.75), ece=0.1, confidence=0.6)


def job(folder: Path, identity: str = "a" * 64, seed: int = 0) -> ScoreFile:
    return ScoreFile(DISTILLED, "timm/net:small", seed, identity, folder)


def strictly(text: str) -> Any:
    """JSON as other programs read it, which know no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_score_comes_back_as_it_was(tmp_path: Path):
    job(tmp_path).save(GOOD, Elapsed(2.0, 1.5), "a device", [0.5, 0.25])
    found = job(tmp_path).score(3, num_images=30, image_bytes=1, label_bytes=2, protocol="p")
    assert (found.top1, found.per_class, found.diverged) == (0.5, (0.25, None, 0.75), False)
    assert found.class_top1 == 0.5
    assert (found.seconds, found.processor_seconds) == (2.0, 1.5)


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["score"].update(values)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        changed(top1=9.87),
        changed(top1=math.nan),
        changed(top1=0.8),
        changed(top1=None),
        changed(top5=0.4),
        changed(ece=-0.1),
        changed(confidence="sure"),
        changed(per_class=[0.25, 0.75]),
        changed(per_class=[0.25, None, 7.5]),
        changed(per_class=[None, None, None]),
        changed(seconds=-1),
        changed(student="other"),
        changed(seed=1),
        lambda content: content.update(identity="b" * 64),
        lambda content: content.pop("score"),
        lambda content: content.update(score=[]),
    ],
)
def test_impossible_scores_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], object], sealed: bool):
    one = job(tmp_path)
    one.save(GOOD, Elapsed(2.0, 1.5), "a device", [0.5])
    content = json.loads(one.path.read_text())
    damage(content)
    if not sealed:
        del content["sha256"]
    one.path.write_text(json.dumps(content))
    with pytest.raises(AttarError, match=r"net-small-seed0-a{16}.json is damaged .*; delete it and run the same"):
        one.read(3)


def test_no_changed_byte_alters_a_score_unseen(tmp_path: Path):
    one = job(tmp_path)
    one.save(GOOD, Elapsed(2.0, 1.5), "a device", [0.5, 0.125])
    good, before, num_refused = one.path.read_bytes(), one.read(3), 0
    for place in range(len(good)):
        one.path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert one.read(3) == before, f"byte {place}"
        except AttarError:
            num_refused += 1
    assert num_refused > len(good) / 2  # the others are spaces, or the seal's own name


def test_scores_that_changed_places_are_seen(tmp_path: Path):
    first, second = job(tmp_path), job(tmp_path, "b" * 64)
    for one in (first, second):
        one.save(GOOD, Elapsed(2.0, 1.5), "a device", [])
    second.path.replace(first.path)
    with pytest.raises(AttarError, match="it belongs to another training"):
        first.read(3)


@pytest.mark.parametrize(
    ("losses", "values", "diverged"),
    [([0.5, 0.25], {}, False), ([0.5, math.nan], {}, True), ([0.5], {"confidence": 0.0}, True)],
)
def test_a_score_of_an_older_attar_is_read(
    tmp_path: Path, losses: list[float], values: dict[str, float], diverged: bool
):
    one = job(tmp_path)
    known = {"row": "distilled", "student": one.student, "seed": 0, "top1": 0.5, "top5": 0.9, "ece": 0.1}
    known |= {"per_class": [0.25, None, 0.75], "confidence": 0.6, "seconds": 2.0, "device": "a device"}
    one.path.write_text(json.dumps({"score": known | values, "losses": losses}))
    found = one.score(3, num_images=30, image_bytes=1, label_bytes=2, protocol="p")
    assert (found.diverged, found.processor_seconds) == (diverged, None)


def test_a_diverged_score_is_plain_json(tmp_path: Path):
    broken = Measured(top1=0, top5=0, per_class=(0.0, None, 0.0), ece=0, confidence=0, num_broken=7)
    job(tmp_path).save(broken, Elapsed(2.0, None), "a device", [0.5, math.nan, math.inf])
    assert strictly(job(tmp_path).path.read_text())["losses"] == [0.5, None, None]
    assert job(tmp_path).read(3)["diverged"]


def wild(rows: tuple[str, ...], **changes: Any) -> Recipe[Any]:
    recipe = mini_recipe()
    protocol = recipe.evaluate.protocol
    training = protocol.training.changed(learning_rate=1e30, epochs=6)
    judged = recipe.evaluate.changed(protocol=protocol.changed(training=training, **changes), rows=rows, num_seeds=2)
    return recipe.changed(evaluate=judged)


def warnings_of(run: Path) -> list[str]:
    events = [strictly(line) for line in (run / "evaluate" / "log.jsonl").read_text().splitlines()]
    return [event["text"] for event in events if event["event"] == "warning" and "diverged" in event["text"]]


def test_a_diverged_student_is_stopped_told_and_marked(finished: Path):
    before = {path.name for path in (finished / "evaluate" / "scores").iterdir()}
    (line,) = pipeline.run(wild(("distilled",)), finished, quiet=True).table
    assert (line.num_seeds, line.num_diverged, line.top1_mean, line.class_top1_mean) == (0, 2, None, None)
    added = [path for path in (finished / "evaluate" / "scores").iterdir() if path.name not in before]
    assert len(added) == 2
    for path in added:
        assert len(strictly(path.read_text())["losses"]) < 6
    for path in finished.rglob("*.json"):
        strictly(path.read_text())
    told = warnings_of(finished)
    assert len(told) == 2
    assert told[0].startswith("the student convnet3 of the row distilled with seed 0 diverged in epoch ")
    assert told[0].endswith("; lower --evaluate.protocol.training.learning-rate")
    page = (finished / "report" / "table.md").read_text()
    assert "| diverged | - | - | 0 of 2 |" in page
    assert "Classes: the training of every student diverged." in page
    assert len((finished / "report" / "per-class.csv").read_text().splitlines()) == 1
    pipeline.run(wild(("distilled",)), finished, quiet=True)
    assert len(warnings_of(finished)) == 4  # said again, and not trained again


def test_a_student_that_diverged_is_in_no_mean(finished: Path):
    recipe = mini_recipe()
    judged = recipe.evaluate.changed(rows=("distilled", "distilled-hard"))
    before = pipeline.run(recipe.changed(evaluate=judged), finished, quiet=True).table
    kept = {line.row: line for line in before}
    for path in (finished / "evaluate" / "scores").iterdir():
        content = json.loads(path.read_text())
        if content["score"]["row"] == "distilled" and content["score"]["seed"] == 1:
            content["score"] |= {"diverged": True}
            del content["sha256"]
            path.write_text(json.dumps(content))
        elif content["score"]["row"] == "distilled":
            first = content["score"]
    found = {line.row: line for line in pipeline.run(recipe.changed(evaluate=judged), finished, quiet=True).table}
    assert found["distilled-hard"] == kept["distilled-hard"]
    line = found["distilled"]
    assert (line.num_seeds, line.num_diverged, line.top1_std) == (1, 1, None)
    assert line.top1_mean == round(100 * first["top1"], 2)


def test_the_mend_names_the_rate_that_the_student_is_trained_with():
    config, one = mini_recipe().evaluate, ScoreFile(DISTILLED, "vgg11", 0, "", Path())
    assert students.divergence(config, one, "").endswith("--evaluate.protocol.training.learning-rate")
    rated = config.changed(protocol=config.protocol.changed(learning_rates={"vgg*": 0.5}))
    assert students.divergence(rated, one, "").endswith("of vgg11 in --evaluate.protocol.learning-rates")
    full = ScoreFile(FULL, "vgg11", 0, "", Path())
    assert "--squeeze.training.learning-rate in a run of its own" in students.divergence(config, full, "")


def test_a_damaged_score_is_refused_before_others_are_trained(finished: Path):
    paths = sorted((finished / "evaluate" / "scores").iterdir())
    paths[0].unlink()
    content = json.loads(paths[1].read_text())
    content["score"]["top1"] = 9.87
    paths[1].write_text(json.dumps(content))
    with pytest.raises(AttarError, match=f"{paths[1].name} is damaged"):
        pipeline.run(mini_recipe(), finished, quiet=True)
    assert not paths[0].exists()
