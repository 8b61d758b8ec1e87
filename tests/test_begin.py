"""Beginning with pictures in place of a recipe, on the command line."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import attar
from attar import begin, pipeline
from attar.cli import main
from attar.core.errors import AttarError
from attar.recipes.arguments import split
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe

QUICK = ["--squeeze.training.epochs", "1", "--recover.iterations", "1", "--evaluate.num-seeds", "1"]
QUICK += ["--evaluate.protocol.training.epochs", "1", "--execution.threads", "1", "--execution.precision", "fp32"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures of three uneven classes in several sizes, none square, the second class brighter."""
    folder, draw = tmp_path_factory.mktemp("data") / "shapes", np.random.default_rng(0)
    for place, (name, count) in enumerate({"disc": 12, "bar": 7, "dot": 30}.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(60 * place, 60 * place + 90, (9, 12 + index % 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one command on these pictures."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    main(["run", str(pictures), "--out", str(out), "--ipc", "2", *QUICK])
    return out


def test_one_line_makes_and_measures_a_set_from_a_folder(run: Path):
    from attar import load

    distilled = load(run / "distilled")
    assert len(distilled.info.classes) == 3
    assert distilled.info.num_images == 6
    assert (run / "report").is_dir()


def test_the_choices_are_kept_as_a_recipe_that_runs(run: Path, pictures: Path):
    path = run / "chosen.yaml"
    text = path.read_text()
    assert text.startswith(f"# Chosen by attar for: {pictures} --ipc 2\n")
    assert "# images per class: 2 (6 images) (as you asked)\n" in text
    recipe = recipe_named(str(path))
    assert (recipe.name, recipe.data.size, recipe.recover.ipc) == ("shapes", 8, 2)
    assert recipe.recover.iterations == 1  # as it was typed
    assert f"# With the settings: {' '.join(QUICK)}\n" in text
    assert "# method: dm, 1 step (as you asked)\n" in text
    assert yaml.safe_load((run / "recipe.yaml").read_text())["recover"]["iterations"] == 1
    before = (run / "recover" / "manifest.json").read_bytes()
    main(["run", str(path), "--out", str(run), "--quiet"])
    main(["run", str(pictures), "--out", str(run), "--ipc", "2", "--quiet"])
    assert (run / "recover" / "manifest.json").read_bytes() == before
    assert path.read_text() == text


def test_students_with_hard_labels_train_again_for_other_epochs(run: Path, pictures: Path, tmp_path: Path):
    out, command = tmp_path / "mine", ["run", str(pictures), "--out", str(tmp_path / "mine"), "--ipc", "2", "--quiet"]
    shutil.copytree(run, out)
    main([*command, "--evaluate.protocol.training.epochs", "2"])
    assert len(list((out / "evaluate" / "scores").glob("*.json"))) == 7  # three rows twice, and the teacher
    for folder in ("squeeze", "recover", "distilled"):
        assert (out / folder / "manifest.json").read_bytes() == (run / folder / "manifest.json").read_bytes()
    chosen = (out / "chosen.yaml").read_text()
    assert "--evaluate.protocol.training.epochs 2 " in chosen.splitlines()[1]
    assert "# method: dm" in chosen
    assert "# students: " not in chosen  # it told the former epochs
    assert recipe_named(str(out / "chosen.yaml")).evaluate.protocol.training.epochs == 2
    with pytest.raises(SystemExit):
        main([*command, "--recover.iterations", "3"])
    assert (out / "chosen.yaml").read_text() == chosen  # what is refused changes nothing


def test_a_finished_set_grows_by_a_larger_number(run: Path, pictures: Path, tmp_path: Path):
    from attar import load

    before, out = load(run), tmp_path / "mine"
    shutil.copytree(run, out)
    main(["run", str(pictures), "--out", str(out), "--ipc", "3", *QUICK])
    after = load(out)
    assert (after.info.ipc, len(after)) == (3, 9)
    assert torch.equal(after.images[:6], before.images)
    kept = [(folder / "chosen.yaml").read_text() for folder in (run, out)]
    assert kept[1].splitlines()[0] == kept[0].splitlines()[0].replace("--ipc 2", "--ipc 3")
    assert recipe_named(str(out / "chosen.yaml")).recover.ipc == 3


def test_a_set_that_outgrows_its_budget_is_told_before_it_is_made(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "mine"
    words = [str(pictures), "--out", str(out), "--budget", "7kB"]
    main(["run", *words, *QUICK])
    assert "images and labels could take" not in capsys.readouterr().err
    text = (out / "chosen.yaml").read_text()
    assert "budget_bytes: 7000\n" in text
    (out / "chosen.yaml").write_text(text.replace("budget_bytes: 7000\n", ""))  # as earlier versions wrote it
    more = ["--recover.ipc", "6"]
    main(["plan", *words, *more, "--quiet"])
    planned = capsys.readouterr().out
    main(["recover", *words, *more])
    said = capsys.readouterr().err.replace("\n", " ")
    for told in (planned, said):
        assert "with 6 images per class, images and labels could take up to " in told
        assert "and the budget of this recipe is 7 kB: lower --recover.ipc to " in told
    made, word = said.index("images of each class: "), said.index("and the budget of this recipe")
    assert word < made
    main(["recover", *words, *more, "--budget-bytes", "60000"])
    assert "the budget of this recipe" not in capsys.readouterr().err
    kept = recipe_named(str(out / "chosen.yaml"))
    assert (kept.budget_bytes, kept.recover.ipc) == (60_000, 6)


def test_the_same_words_continue_and_others_are_refused(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    main(["run", str(pictures), "--out", str(run), "--ipc", "2", *QUICK])
    assert f"The recipe in {run / 'chosen.yaml'} is used" in capsys.readouterr().err.replace("\n", "")
    with pytest.raises(SystemExit) as end:
        main(["run", str(pictures), "--out", str(run), "--ipc", "1", *QUICK])
    assert end.value.code == 2
    assert f"was begun for '{pictures} --ipc 2', and not for '{pictures} --ipc 1'" in capsys.readouterr().err


def recipe_of(*words: str) -> Recipe[Any]:
    return begin.recipe_of("run", split("run", [*words, "--quiet"]))[0]


def test_settings_that_decide_nothing_continue_a_run(run: Path, pictures: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / "squeeze").mkdir(parents=True)
    (out / "squeeze" / "manifest.json").touch()
    text = (run / "chosen.yaml").read_text()
    for before in ("", " --data.on-corrupt skip --data.resident on"):  # which earlier versions wrote there
        (out / "chosen.yaml").write_text(text.replace("--ipc 2", f"--ipc 2{before}", 1))
        words = (str(pictures), "--out", str(out), "--ipc", "2", "--data.on-corrupt", "skip")
        assert recipe_of(*words).data.on_corrupt == "skip"
    with pytest.raises(AttarError, match=r"was begun for .* --ipc 2'"):
        recipe_of(*words, "--data.size", "16")


def test_a_run_that_stopped_before_it_made_anything_can_begin_with_other_words(pictures: Path, tmp_path: Path):
    data, out = pictures, tmp_path / "out"
    assert recipe_of(str(data), "--out", str(out)).recover.ipc > 0
    (out / "squeeze").mkdir()
    (out / "squeeze" / "plan.json").touch()
    assert recipe_of(str(data), "--out", str(out), "--ipc", "2").recover.ipc == 2
    (out / "squeeze" / "checkpoints").mkdir()
    (out / "squeeze" / "checkpoints" / "latest.pt").touch()
    with pytest.raises(AttarError, match="was begun for"):
        recipe_of(str(data), "--out", str(out), "--ipc", "1")


def test_unreadable_pictures_count_nowhere_and_stop_a_run_before_anything_is_written(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(pictures, data)
    gone = [data / "bar" / f"{index}.png" for index in range(2)]
    for path in gone:
        path.write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        main(["run", str(data), "--out", str(out), *QUICK])
    assert f"attar: 2 of 49 images cannot be read, the first is {gone[0]}" in capsys.readouterr().err
    assert not out.exists()
    skip = ["--data.on-corrupt", "skip", "--ipc", "9"]
    main(["run", str(data), "--out", str(out), *QUICK, *skip])
    said = capsys.readouterr().err
    listed = attar.split(recipe_named(str(out / "chosen.yaml")), quiet=True)
    train = [one.file for one in listed if one.split == "train" and Path(one.file) not in gone]
    smallest = sum("bar" in file for file in train)
    assert "pictures          47, 3 classes" in said
    assert f"{len(train)} remain for training, {47 - len(train)} are held out" in said
    assert f"the smallest class has {smallest} training pictures" in said
    assert f"3 classes, {len(train)} training and {47 - len(train)} validation images" in said
    assert attar.load(out).info.ipc == smallest
    plan = pipeline.plan(recipe_named(str(out / "chosen.yaml")), quiet=True)
    assert f"{len(train)} training and {47 - len(train)} validation images" in plan


def test_what_was_chosen_and_never_run_is_chosen_again(pictures: Path, tmp_path: Path):
    (tmp_path / "chosen.yaml").write_text("# Chosen by attar for: something else\n")
    main(["squeeze", str(pictures), "--out", str(tmp_path), *QUICK, "--quiet"])
    assert str(pictures) in (tmp_path / "chosen.yaml").read_text().splitlines()[0]


def test_show_and_plan_print_the_choices_and_write_nothing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    main(["show", str(pictures), "--budget", "9kB"])
    shown = capsys.readouterr()
    assert "# validation: 20% of each class" in shown.out
    assert "mirrored" in shown.err
    monkeypatch.setattr(pipeline, "plan", lambda recipe, quiet, out: f"The plan of {recipe.method}")
    for words in (["plan", str(pictures)], ["run", str(pictures), "--plan"], ["plan", str(pictures), "--out", "there"]):
        main(words)
        out = capsys.readouterr().out
        assert "attar chooses" in out
        assert "\n time " not in out  # the plan has the time
        assert "images per class" in out
        assert out.endswith("The plan of dm\n")
    main(["plan", "digits"])
    assert capsys.readouterr().out == "The plan of cda\n"
    assert not list(tmp_path.iterdir())


def test_settings_of_the_data_count_in_the_choice(pictures: Path, capsys: pytest.CaptureFixture[str]):
    main(["show", str(pictures), "--data.size", "16", "--data.classes", "dot", "disc", "--recover.ipc", "3", "--quiet"])
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert (recipe["data"]["size"], recipe["data"]["classes"]) == (16, ["dot", "disc"])
    assert (recipe["recover"]["ipc"], recipe["recover"]["unit_slots"]) == (3, 3)
    main(["show", str(pictures), "--recover.ipc", "90", "--quiet"])  # no more than the smallest class has
    assert yaml.safe_load(capsys.readouterr().out)["recover"]["ipc"] == 6


def test_settings_of_a_method_distil_where_the_budget_holds_most_pictures(
    pictures: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["show", str(pictures), "--budget", "60kB", "--data.classes", "disc", "bar", "--quiet"]
    for more, method in (
        ([], "random"),
        (["--method", "random"], "random"),
        (["--recover.image-format", "webp"], "random"),
        (["--recover.iterations", "7"], "dm"),
        (["--method", "dm"], "dm"),
    ):
        main([*words, *more])
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["method"] == method
        rows = ["distilled-hard", "full"] if method == "random" else ["distilled-hard", "random-hard"]
        assert shown["evaluate"]["rows"][:2] == rows  # with --method random, too, the set is the one chosen for it


def test_a_bad_setting_leaves_nothing(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["run", str(pictures), "--out", str(out), "--recover.iterations", "0"])
    assert "--recover.iterations" in capsys.readouterr().err
    assert not out.exists()


def test_the_split_is_the_one_of_the_run(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    import attar
    from attar.core.log import Log
    from attar.data.load import load

    main(["split", str(run / "chosen.yaml"), "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(",") for line in lines[1:]]
    recipe = attar.recipe(str(run / "recipe.yaml"))
    real = load(recipe.data, recipe.seed, Log(quiet=True))
    assert lines[0] == "split,class_name,file"
    assert [file for split, _, file in rows if split == "val"] == [real.val.where(i) for i in range(len(real.val))]
    assert all(Path(file).parent.name == name and Path(file).is_file() for _, name, file in rows)
    assert len({file for *_, file in rows}) == len(rows) == 49
    assert [[one.split, one.class_name, one.file] for one in attar.split(recipe, quiet=True)] == rows
    main(["split", str(pictures), "--quiet"])  # the same choices without a run
    assert capsys.readouterr().out.splitlines() == lines


def test_help_shows_the_values_that_are_chosen_for_the_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for folder, size, words in ((tmp_path, "", "are examples"), (pictures, "8]\n", "chooses the values below")):
        with pytest.raises(SystemExit) as end:
            main(["run", str(folder), "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert f"--data.size INT  [{size}" in said
        assert words in said


def test_a_folder_for_the_results_is_asked_for_before_the_pictures_are_looked_at(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(begin, "chosen", None)
    with pytest.raises(SystemExit):
        main(["run", str(pictures)])
    assert "add --out runs/shapes." in capsys.readouterr().err


def test_ipc_is_short_for_the_setting_of_a_recipe(capsys: pytest.CaptureFixture[str]):
    main(["show", "digits", "--ipc", "7"])
    assert yaml.safe_load(capsys.readouterr().out)["recover"]["ipc"] == 7


@pytest.mark.parametrize("size", ["12", "9XB", "0kB"])
def test_a_budget_is_a_size(size: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["run", str(pictures), "--out", str(tmp_path / "out"), "--budget", size])
    assert "attar: A budget " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_in_memory_are_for_distil(pictures: Path):
    with pytest.raises(AttarError, match=r"not a tuple; attar.distil takes data in memory"):
        attar.choose((torch.zeros(6, 3, 8, 8), torch.arange(6) % 3))  # pyright: ignore


def test_a_recipe_that_is_kept_runs_from_any_folder(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pictures.parent)
    chosen = attar.choose(pictures.name).recipe
    assert Path(chosen.data.source) == pictures


def test_a_plan_with_hard_labels_speaks_of_no_soft_ones(pictures: Path, capsys: pytest.CaptureFixture[str]):
    recipe = attar.choose(pictures, ipc=2).recipe
    assert all(row.labels == "hard" for row in recipe.evaluate.rows)
    plan = pipeline.plan(recipe, quiet=True)
    assert "Labels: hard, the class of each image" in plan
    assert "Soft labels" not in plan
    assert "students use hard labels" in plan


@pytest.mark.parametrize(
    ("typed", "mode", "teacher"),
    [
        ("--squeeze.weights own.pt --squeeze.architecture resnet18", "online", "1 of your own"),
        ("--squeeze.weights own.pt", "online", "1 of your own"),
        ("--squeeze.weights own.pt --squeeze.architecture resnet18 --budget 20kB", "none", "1 of your own"),
        ("--squeeze.architecture resnet18", "none", "1, 60 epochs"),
    ],
)
def test_teachers_that_are_named_count_with_their_bytes(typed, mode, teacher, capsys, tmp_path):
    draws = np.random.default_rng(0)
    for index in range(120):
        path = tmp_path / "pictures" / f"bird{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    found = begin.chosen(split("show", [str(tmp_path / "pictures"), "--data.size", "32", "--quiet", *typed.split()]))
    assert found.recipe.relabel.mode == mode
    assert next(one.choice for one in found.reasons if one.what == "teacher") == teacher
    assert found.recipe.squeeze.members == ()


def test_a_narrow_terminal_shows_every_choice_and_setting_whole(pictures: Path):
    import io

    from rich.console import Console

    found = begin.chosen(split("plan", [str(pictures)]))
    settings = "--recover.flip false --squeeze.views.flip false --relabel.views.flip false"
    reasons = tuple(replace(one, why=settings) for one in found.reasons)
    written = io.StringIO()
    shown = Console(file=written, width=60)
    begin.print_reasons(replace(found, reasons=reasons), shown)
    text = written.getvalue()
    assert "…" not in text
    assert max(map(len, text.partition("warning")[0].splitlines())) <= 60
    assert text.replace(" ", "").replace("\n", "").count("--squeeze.views.fli") == len(reasons)


def test_pictures_that_vanish_are_named_and_the_run_goes_on(run: Path, pictures: Path, tmp_path: Path, capsys):
    shutil.copytree(pictures, tmp_path / "here")
    out, command = tmp_path / "run", ["--out", str(tmp_path / "run"), *QUICK, "--ipc", "1", "--quiet"]
    main(["squeeze", str(tmp_path / "here"), *command])
    (tmp_path / "here").rename(tmp_path / "there")
    for verb in ("recover", "run"):
        with pytest.raises(SystemExit) as stop:
            main([verb, str(tmp_path / "here"), *command])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert f"attar: The pictures in {tmp_path / 'here'}, with which {out} was begun, are gone; bring them" in said
    with pytest.raises(SystemExit) as stop:
        main(["run", str(out / "chosen.yaml"), "--out", str(out), "--quiet"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"attar: There is no folder {tmp_path / 'here'}; check the path.\n"
    main(["run", str(out / "chosen.yaml"), "--out", str(out), "--data.source", str(tmp_path / "there"), "--quiet"])
    assert (out / "report" / "table.md").is_file()
    images = "distilled/data/train-00000-of-00001.parquet"
    (tmp_path / "there").rename(tmp_path / "here")
    main(["run", str(tmp_path / "here"), "--out", str(tmp_path / "quiet"), *command[2:]])
    assert (out / images).read_bytes() == (tmp_path / "quiet" / images).read_bytes()
