"""stages/run.py: evaluations of an older attar open, impossible ones are refused by name."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.core.errors import AttarError
from attar.report import card, pages, per_class, ranking, table
from attar.stages.dataset_info import read_info
from attar.stages.run import FOLDERS, Run
from conftest import mini_recipe

NEW = ("class_top1", "diverged", "processor_seconds")


@pytest.fixture
def judged(mini_run: Path, tmp_path: Path) -> Path:
    """A copy of an evaluation alone."""
    for folder in ("squeeze", "evaluate"):
        shutil.copytree(mini_run / folder, tmp_path / "mini" / folder)
    return tmp_path / "mini"


def change(path: Path, damage: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    damage(content)
    path.write_text(json.dumps(content))


def make_older(run: Path) -> None:
    """As they were before there were seals, means over classes and processor seconds."""

    def forget(manifest: dict[str, Any]) -> None:
        result = manifest["result"]
        for key in ("num_classes", "num_unmeasured", "val_images", "per_class_sha256"):
            del result[key]
        for entry in result["scores"]:
            for key in NEW:
                del entry[key]
        for facts in result["rows"].values():
            for key in [key for key in facts if key.endswith("processor_seconds")]:
                del facts[key]

    change(run / "evaluate" / "manifest.json", forget)
    change(run / "evaluate" / "per-class.json", lambda content: [score.pop("diverged") for score in content["scores"]])


def test_an_older_evaluation_has_the_same_means(judged: Path, mini_run: Path):
    before = table.lines(mini_run)
    make_older(judged)
    found = table.lines(judged)
    assert [line.class_top1_mean for line in found] == [line.class_top1_mean for line in before]
    assert [(line.top1_mean, line.num_classes) for line in found] == [(line.top1_mean, 10) for line in before]
    assert all(line.train_processor_seconds is None for line in found)
    assert {line.num_val for line in before} == {359}
    assert {line.num_val for line in found} == {None}
    assert ranking.rankings(judged) == ranking.rankings(mini_run)
    pages.write_all(judged, found, judged / "report")
    assert "squeeze" in (judged / "report" / "table.md").read_text()
    assert "Processor seconds" not in card.text(read_info(mini_run / "distilled"), found)
    assert "Processor seconds" in card.text(read_info(mini_run / "distilled"), before)


def test_validation_images_that_an_older_evaluation_did_not_count_are_those_of_recover(finished: Path):
    change(finished / "evaluate" / "manifest.json", lambda manifest: manifest["result"].pop("val_images"))
    assert {line.num_val for line in table.lines(finished)} == {359}


def test_a_student_that_diverged_under_an_older_attar_is_marked(judged: Path):
    """Its logits were no numbers, so it was right about the first class and sure of nothing."""
    make_older(judged)

    def diverge(manifest: dict[str, Any]) -> None:
        manifest["result"]["scores"][0] |= {"top1": 0.098, "confidence": 0.0}

    change(judged / "evaluate" / "manifest.json", diverge)
    line = table.lines(judged)[0]
    assert (line.num_seeds, line.num_diverged) == (1, 1)
    assert per_class.as_csv(judged).splitlines()[1].split(",")[5] == "1"
    (found,) = ranking.rankings(judged)
    assert found.ior is not None
    assert found.ior.num_seeds == 1


def entry(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["result"]["scores"][0].update(values)


@pytest.mark.parametrize(
    "damage",
    [
        entry(top1=9.87),
        entry(top1=math.nan),
        entry(seed=-1),
        entry(class_top1=2),
        entry(seconds="long"),
        entry(row="other"),
        lambda manifest: manifest["result"].update(scores=[]),
        lambda manifest: manifest["result"].update(scores=[1, 2]),
        lambda manifest: manifest["result"]["rows"]["full"].update(num_images=-5),
        lambda manifest: manifest["result"]["rows"]["full"].update(teacher_agreement=1.5),
        lambda manifest: manifest["result"].update(num_classes=-1),
    ],
)
def test_impossible_numbers_are_refused_by_name(judged: Path, damage: Callable[[dict[str, Any]], object]):
    change(judged / "evaluate" / "manifest.json", damage)
    with pytest.raises(AttarError, match=r"evaluate/manifest.json is damaged \(.*; run 'attar evaluate' with the same"):
        table.lines(judged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["scores"][0].update(top1=[0.5] * 9),
        lambda content: content["scores"][0].update(top1=[9.87] * 10),
        lambda content: content["scores"][0].update(top1=[0.5] * 10),
        lambda content: content.update(scores=[]),
        lambda content: content.pop("classes"),
    ],
)
def test_accuracies_by_class_are_checked_too(judged: Path, damage: Callable[[dict[str, Any]], object]):
    path = judged / "evaluate" / "per-class.json"
    change(path, damage)
    with pytest.raises(AttarError, match="per-class.json is .*; run 'attar evaluate' with the same --out"):
        per_class.as_csv(judged)
    for text in ("", "{}", "[1]", path.read_text()[:100]):
        path.write_text(text)
        with pytest.raises(AttarError, match="per-class.json is damaged"):
            per_class.extremes(judged)
    path.unlink()
    with pytest.raises(AttarError, match="per-class.json is missing"):
        assert Run(judged).per_class


def test_running_again_writes_them_anew(finished: Path):
    before = (finished / "report" / "per-class.csv").read_text()
    (finished / "evaluate" / "per-class.json").write_text("")
    (finished / "evaluate" / "manifest.json").write_text("")
    for path in (finished / "evaluate" / "agreement").iterdir():
        path.write_text("")
    pipeline.run(mini_recipe(), finished, quiet=True)
    assert (finished / "report" / "per-class.csv").read_text() == before.replace("mini,", "run,")


@pytest.fixture
def earlier(tmp_path: Path) -> Run:
    """A run whose manifests are those that an earlier attar wrote."""
    for name in ("squeeze", "recover", "distilled"):
        (tmp_path / name).mkdir()
        shutil.copy(Path(__file__).parent / "former" / f"{name}.json", tmp_path / name / "manifest.json")
    return Run(tmp_path)


def test_manifests_of_an_earlier_attar_are_read(earlier: Run):
    (teacher,) = earlier.teachers
    assert len(teacher.weights_sha256) == 64
    assert (teacher.made_elsewhere, teacher.weights, teacher.module) == (False, "", "")
    images, labels = earlier.images, earlier.labels
    assert (images.method, images.settings["ipc"], images.num_images, len(images.classes)) == ("cda", 2, 20, 10)
    assert images.identity == images.request
    assert labels.parents == {"teacher": teacher.weights_sha256, "images": images.images_sha256}
    assert (labels.settings["epochs"], labels.data["size"], labels.made_elsewhere) == (6, 8, False)
    assert list(earlier.elapsed()) == ["squeeze", "recover", "relabel"]
    assert not earlier.is_done("evaluate")


def test_a_run_tells_what_is_in_its_manifests(mini_run: Path):
    run = Run(mini_run)
    raw = {stage: json.loads((mini_run / folder / "manifest.json").read_text()) for stage, folder in FOLDERS.items()}
    assert run.teachers[0].weights_sha256 == raw["squeeze"]["result"]["weights_sha256"]
    assert run.teachers[0].top1 == raw["squeeze"]["result"]["top1"]
    assert run.images.images_sha256 == raw["recover"]["result"]["images_sha256"]
    assert run.labels.identity == raw["relabel"]["identity"]
    assert [str(row) for row in run.asked.rows] == raw["evaluate"]["request"]["evaluate"]["rows"]
    found = [(str(one.row), one.seed, one.top1) for one in run.scores.scores]
    assert found == [(one["row"], one["seed"], one["top1"]) for one in raw["evaluate"]["result"]["scores"]]
    assert [(str(one.row), one.seed, one.top1) for one in run.accuracies] == found
    assert {stage: elapsed.seconds for stage, elapsed in run.elapsed().items()} == {
        stage: made["device_seconds"] for stage, made in raw.items()
    }


@pytest.mark.parametrize(
    ("folder", "damage"),
    [
        ("squeeze", lambda made: made["result"].pop("weights_sha256")),
        ("squeeze", lambda made: made["result"].update(top1=1.5)),
        ("recover", lambda made: made["result"].update(num_images=-1)),
        ("recover", lambda made: made["request"].update(recover=[])),
        ("distilled", lambda made: made["request"].pop("relabel")),
        ("distilled", lambda made: made.update(parents=3)),
    ],
)
def test_a_manifest_that_lacks_what_is_read_is_named(earlier: Run, folder: str, damage: Callable[[Any], object]):
    change(earlier.path / folder / "manifest.json", damage)
    path = earlier.path / folder
    with pytest.raises(
        AttarError, match=rf"{path}/manifest.json is damaged \(.*\); delete the folder {path} to make it"
    ):
        print(earlier.teachers, earlier.images, earlier.labels)


def test_a_manifest_of_a_newer_attar_asks_for_an_update(earlier: Run, mini_run: Path):
    assert json.loads((mini_run / "recover" / "manifest.json").read_text())["format"] == 1
    change(earlier.path / "recover" / "manifest.json", lambda made: made.update(format=2))
    with pytest.raises(AttarError, match=r"recover/manifest.json was written by a newer attar \(format 2, "):
        print(earlier.images)
