"""A set gets more classes: a new run keeps the images of an earlier one, and makes those of the other classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import pipeline, share
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.load import load
from attar.plan import forecast
from attar.recipes.recipe import Recipe
from attar.report import card
from attar.stages import kept, recover
from attar.stages.dataset_info import read_info
from attar.stages.run import Run
from attar.stages.unit_groups import planned
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from conftest import edit_json, interrupt, mini_recipe


def recipe_of(classes: str, source: Path | None = None, **recovering: Any) -> Recipe[Any]:
    """The mini recipe with these digits as classes, which keeps the images of ``source``."""
    recipe = mini_recipe()
    training = recipe.squeeze.training.changed(epochs=2)
    return recipe.changed(
        data=recipe.data.changed(classes=tuple(classes)),
        squeeze=recipe.squeeze.changed(training=training),
        recover=recipe.recover.changed(
            iterations=2, accept_weak_teacher=True, keep_from="" if source is None else str(source), **recovering
        ),
        evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=1),
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the classes 1, 4 and 7, with finished images."""
    out = tmp_path_factory.mktemp("small") / "run"
    for stage in ("squeeze", "recover"):
        pipeline.run(recipe_of("147"), out, stage=stage, quiet=True)
    return out


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 0 and 5 in addition, which sort before and between the others."""
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    out = tmp_path_factory.mktemp("large") / "run"
    for stage in ("squeeze", "recover", "relabel"):
        pipeline.run(recipe_of("01457", small), out, stage=stage, quiet=True)
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before
    return out


def names_and_files(run: Path) -> list[tuple[str, int, bytes]]:
    """The class, the slot and the file of every distilled image."""
    classes = Run(run).images.classes
    found = image_files.encoded(run / "recover" / "data")
    return [(classes[label], slot, data) for data, label, slot in found]


def test_images_of_the_earlier_classes_stay_bit_for_bit_under_their_names(small: Path, large: Path):
    found = names_and_files(large)
    assert found[:6] == names_and_files(small)
    assert [(name, slot) for name, slot, _ in found[6:]] == [("0", 0), ("5", 0), ("0", 1), ("5", 1)]
    assert attar.load(large).info.classes == ("0", "1", "4", "5", "7")
    assert attar.load(large).labels.tolist() == [1, 2, 4, 1, 2, 4, 0, 3, 0, 3]


def test_the_card_names_the_classes_that_were_kept(small: Path, large: Path, tmp_path: Path):
    info = read_info(large / "distilled")
    assert "kept from an earlier run" not in card.text(info, [])
    share._write_pages(tmp_path, large, large / "distilled", info, "me/digits")
    for folder in (large / "distilled", tmp_path):
        text = " ".join((folder / "README.md").read_text().split())
        assert "The images of 3 of the 5 classes (1, 4, 7) were kept from an earlier run" in text


def test_everything_else_is_of_the_new_teacher(small: Path, large: Path):
    distilled, run = attar.load(large), Run(large)
    assert distilled.info.teachers[0].weights_sha256 == run.teachers[0].weights_sha256
    assert distilled.stored is not None
    assert distilled.stored.header.num_images == 10
    assert distilled.stored.parts(0)["logits"].shape == (10, 5)
    assert len(list((large / "recover" / "units").iterdir())) == 2  # a unit of both new classes for each slot


def test_the_manifest_says_who_made_which_classes(small: Path, large: Path):
    result = json.loads((large / "recover" / "manifest.json").read_text())["result"]
    (maker,) = result["kept"]
    assert maker["classes"] == ["1", "4", "7"]
    assert maker["method"] == "cda"
    assert maker["teachers"] == {"teacher": Run(small).teachers[0].weights_sha256}
    assert maker["images_sha256"] == Run(small).images.images_sha256
    assert Run(large).images.elapsed.seconds > Run(small).images.elapsed.seconds  # the kept images cost time, too


def test_units_of_new_classes_draw_nothing_that_earlier_ones_drew():
    def names(**changes: Any) -> list[tuple[str, tuple[int, ...]]]:
        config = mini_recipe().recover.changed(unit_classes=2, **changes)
        old = kept.Kept(Path(), ("a", "b", "c"), (1, 2, 4), 2, 6, "", Elapsed(0.0, 0.0), (), "", False)
        return [(unit.name, unit.classes) for group in planned(6, config, (), old) for unit in group]

    assert names(ipc=1 + 1) == [
        ("slot00000-block0002", (0, 3)), ("slot00000-block0003", (5,)),
        ("slot00001-block0002", (0, 3)), ("slot00001-block0003", (5,)),
    ]  # fmt: skip
    assert names(ipc=3)[4:] == [(f"slot00002-block000{block}", (2 * block, 2 * block + 1)) for block in range(3)]


def test_a_run_that_was_killed_continues_and_is_whole_without_the_earlier_one(small: Path, large: Path, tmp_path: Path):
    out, source = tmp_path / "run", tmp_path / "small"
    shutil.copytree(small, source)
    shutil.copytree(large / "squeeze", out / "squeeze")
    recipe = recipe_of("01457", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover.work, "do", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, out, stage="recover", quiet=True)
    assert not (out / "recover" / "data").exists()
    shutil.rmtree(source)  # the images were copied before anything was made
    pipeline.run(recipe, out, stage="recover", quiet=True)
    assert Run(out).images.images_sha256 == Run(large).images.images_sha256
    interrupt(out / "recover")
    shutil.rmtree(out / "recover" / "data")
    pipeline.run(recipe, out, stage="recover", quiet=True)
    assert Run(out).images.images_sha256 == Run(large).images.images_sha256


def test_it_grows_by_images_and_by_further_classes(large: Path, tmp_path: Path):
    out = tmp_path / "more"
    shutil.copytree(large, out)
    source = json.loads((large / "recover" / "kept" / "kept.json").read_text())["run"]
    pipeline.run(recipe_of("01457", Path(source), ipc=3), out, stage="recover", quiet=True)
    images = image_files.read(out / "recover" / "data")
    assert torch.equal(images.images[:10], image_files.read(large / "recover" / "data").images)
    assert images.slots.tolist() == [0] * 3 + [1] * 3 + [0] * 2 + [1] * 2 + [2] * 5
    recipe = recipe_of("014579", out, ipc=3)
    pipeline.run(recipe, tmp_path / "third", stage="squeeze", quiet=True)
    pipeline.run(recipe, tmp_path / "third", stage="recover", quiet=True)
    makers = json.loads((tmp_path / "third" / "recover" / "manifest.json").read_text())["result"]["kept"]
    assert [one["classes"] for one in makers] == [["1", "4", "7"], ["0", "5"]]
    assert image_files.read(tmp_path / "third" / "recover" / "data").labels.tolist()[:15] == images.labels.tolist()


def test_a_finished_run_with_more_classes_is_refused_with_the_way_to_add_them(small: Path):
    with pytest.raises(AttarError, match=r"the data now have 0, 5, too; .* --out NEW --recover.keep-from .*run --data"):
        pipeline.run(recipe_of("01457"), small, quiet=True)


@pytest.mark.parametrize(
    ("classes", "changes", "sentence"),
    [
        ("0145", {}, "the class '7' of its images is not among the data's"),
        ("147", {}, "holds images of all 3 classes already"),
        ("1478", {"ipc": 1}, "holds 2 images per class, and this run asks for 1; use --recover.ipc 2, or more"),
        ("1478", {"learning_rate": 0.5}, r"was made with other settings \(recover.learning_rate 0.1 -> 0.5\); begin"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_teacher_is_trained(
    classes: str, changes: dict[str, Any], sentence: str, small: Path, tmp_path: Path
):
    with pytest.raises(AttarError, match=sentence):
        pipeline.run(recipe_of(classes, small, **changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "squeeze").exists()


def test_other_data_seeds_and_folders_are_refused(small: Path, tmp_path: Path):
    recipe = recipe_of("1478", small)
    with pytest.raises(AttarError, match=r"other settings \(data.holdout 0.1 -> 0.3; seed 0 -> 1\)"):
        pipeline.run(recipe.changed(data=recipe.data.changed(holdout=0.3), seed=1), tmp_path / "run", quiet=True)
    with pytest.raises(AttarError, match="is not the folder of a run with finished images"):
        pipeline.run(recipe_of("1478", tmp_path), tmp_path / "run", quiet=True)
    with pytest.raises(AttarError, match="--images takes all images from elsewhere"):
        pipeline.run(recipe.changed(images=str(tmp_path)), tmp_path / "run", quiet=True)


def test_other_numbers_of_real_images_are_a_warning(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "small"
    shutil.copytree(small / "recover", source / "recover")
    result = json.loads((source / "recover" / "manifest.json").read_text())["result"]
    assert result["real_images"] == {"train": [146, 145, 143], "val": [36, 36, 36]}
    result["real_images"]["train"][1] += 3
    edit_json(source / "recover" / "manifest.json", result=result)
    recipe = recipe_of("1478", source)
    space = Workspace(tmp_path / "run", recipe.seed, recipe.data, recipe.execution, Log())
    kept.check(space, recipe.method, recipe.recover)
    said = " ".join(capsys.readouterr().err.split())
    assert "'4' has 145 training and 36 validation images, and had 148 and 36 when its images were made" in said


@pytest.mark.parametrize("method", ["mtt", "tesla"])
def test_methods_that_make_all_classes_together_are_refused(method: str, small: Path, tmp_path: Path):
    recipe = recipe_of("1478").with_method(method)
    recipe = recipe.changed(recover=recipe.recover.changed(ipc=2, keep_from=str(small)))
    with pytest.raises(AttarError, match=f"cannot be used with the method {method} as it is set"):
        pipeline.run(recipe, tmp_path / "run", quiet=True)


def test_a_plan_counts_only_the_new_images(small: Path):
    recipe = recipe_of("01457", small)
    lines = forecast.made(pipeline.work_of(recipe, load(recipe.data, recipe.seed, Log(quiet=True))))
    assert lines[0] == "Units: 2 of up to 2 images, 2 iterations each"
    assert lines[1].startswith("Images: 10, ")


def test_another_source_later_is_refused(large: Path, small: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(large, out)
    with pytest.raises(AttarError, match="recover.keep_from true -> false"):
        pipeline.run(recipe_of("01457"), out, quiet=True)
