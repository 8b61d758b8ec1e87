"""stages/equal_bytes.py: as many real images as fit into the bytes of the distilled set."""

import shutil
from pathlib import Path

import pytest
import torch

from attar import pipeline
from attar.core.log import Log
from attar.recipes.recipe import Recipe
from attar.report import table as tables
from attar.report.table import Line, title_of
from attar.stages import equal_bytes, students
from attar.stages.dataset_info import read_info
from attar.stages.protocols import PROTOCOLS
from attar.stages.run import images_in
from attar.store import images as image_files
from conftest import interrupt, mini_recipe

CLASSES = tuple("abc")
ROWS = [(bytes(500 + 7 * place), place % 3, place // 3) for place in range(60)]


def recipe_of(**changes) -> Recipe:
    recipe = mini_recipe()
    return recipe.changed(evaluate=recipe.evaluate.changed(**{"rows": ("equal-bytes",), "num_seeds": 1} | changes))


def judge(out: Path, recipe: Recipe) -> list[Line]:
    return pipeline.run(recipe, out, stage="evaluate", quiet=True).table


def homes(folder: Path) -> list[Path]:
    return sorted(folder.glob("equal-bytes-*"))


def test_classes_take_turns_until_they_have_no_more():
    found = list(equal_bytes.balanced([3, 1, 2], [2, 0, 1]))
    assert found == [(2, 0), (0, 0), (1, 0), (2, 1), (0, 1), (0, 2)]


@pytest.mark.parametrize("wanted", [1, 2, 17, 59, 60])
@pytest.mark.parametrize("more", [0, 300])
def test_as_many_images_as_fit(tmp_path, wanted, more):
    num_bytes = image_files.write(tmp_path, iter(ROWS[:wanted]), CLASSES) + more
    assert equal_bytes.fitting(tmp_path, ROWS, CLASSES, num_bytes) == wanted
    assert image_files.num_bytes(tmp_path) == num_bytes - more
    assert list(image_files.encoded(tmp_path)) == ROWS[:wanted]


def test_not_even_one_image_fits(tmp_path):
    assert equal_bytes.fitting(tmp_path, ROWS, CLASSES, 900) == 0


def test_the_bytes_of_labels_count_where_students_use_them(mini_run):
    info, judging = read_info(mini_run / "distilled"), mini_recipe().evaluate
    assert equal_bytes.budget(info, judging) == info.image_bytes + info.label_bytes > info.image_bytes
    hard_only = judging.changed(rows=("distilled-hard", "equal-bytes", "full"))
    for other in (hard_only, judging.changed(protocol=PROTOCOLS["hard-label"])):
        assert equal_bytes.budget(info, other) == info.image_bytes


def test_students_take_as_many_steps_as_on_the_distilled_images():
    protocol = PROTOCOLS["digits"]
    training = protocol.training.changed(epochs=150, batch_size=25, warmup_epochs=5)
    found = equal_bytes.trained_alike(protocol.changed(training=training), num_images=500, num_distilled=100).training
    assert (found.epochs, found.warmup_epochs) == (30, 1)  # 600 steps in both
    assert equal_bytes.trained_alike(protocol, num_images=100, num_distilled=100) == protocol


def test_the_set_is_balanced_and_begins_with_the_random_images(mini_run):
    (home,) = homes(mini_run / "baselines")
    info, made = read_info(mini_run / "distilled"), images_in(home / "recover")
    small = image_files.read(home / "recover" / "data")
    counts = torch.bincount(small.labels)
    assert 2 <= counts.min() <= counts.max() <= counts.min() + 1
    assert made.settings["budget_bytes"] == info.image_bytes + info.label_bytes
    assert made.image_bytes <= made.settings["budget_bytes"] < made.image_bytes * (1 + 2 / made.num_images)
    random = image_files.read(mini_run / "baselines" / "random" / "recover" / "data")
    known = _by_place(small)
    assert all(torch.equal(known[place], image) for place, image in _by_place(random).items())
    assert not (home / "distilled" / "labels").exists()


def _by_place(images: image_files.ImageSet) -> dict[tuple[int, int], torch.Tensor]:
    return {
        (label, slot): image
        for label, slot, image in zip(images.labels.tolist(), images.slots.tolist(), images.images, strict=True)
    }


def test_all_real_images_where_they_fit_and_the_table_says_so(finished, monkeypatch):
    monkeypatch.setattr(equal_bytes, "budget", lambda *_: 10**7)
    (line,) = judge(finished, recipe_of())
    assert (line.num_images, line.all_real, line.label_bytes) == (1438, True, 0)
    assert title_of(line, several_runs=False) == "real, as many bytes: all"
    assert any(note.endswith("every real image fits.") for note in tables.notes([line]))
    assert "real, as many bytes: all" in (finished / "report" / "table.md").read_text()


def test_the_labels_of_the_distilled_set_may_be_a_pool(recovered):
    recipe = recipe_of(rows=("distilled", "equal-bytes"))
    table = pipeline.run(recipe.changed(relabel=recipe.relabel.changed(pool_epochs=2)), recovered, quiet=True).table
    distilled, real = table
    assert distilled.label_bytes > 0 == real.label_bytes
    assert real.image_bytes <= distilled.image_bytes + distilled.label_bytes


def test_too_few_bytes_leave_the_row_out(finished, monkeypatch, warnings):
    monkeypatch.setattr(equal_bytes, "budget", lambda *_: 1000)
    assert [line.row for line in judge(finished, recipe_of(rows=("distilled", "equal-bytes")))] == ["distilled"]
    assert any("is left out, because 1 kB hold fewer than 2 of them" in text for text in warnings)


def test_streamed_images_leave_the_row_out(finished, warnings):
    recipe = recipe_of(rows=("distilled", "equal-bytes"))
    table = judge(finished, recipe.changed(data=recipe.data.changed(resident="off")))
    assert [line.row for line in table] == ["distilled"]
    assert any("is left out, because the real images are streamed" in text for text in warnings)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = list[str]()
    monkeypatch.setattr(Log, "warn", lambda self, text: found.append(text))
    return found


def test_an_interrupted_set_is_made_again_alike(finished):
    (home,) = homes(finished / "baselines")
    before = images_in(home / "recover")
    interrupt(home / "recover")
    for file in (home / "recover" / "data").iterdir():
        file.unlink()
    scores = sorted((finished / "evaluate" / "scores").iterdir())
    judge(finished, recipe_of(rows=("distilled", "equal-bytes")))
    assert images_in(home / "recover").images_sha256 == before.images_sha256
    assert sorted((finished / "evaluate" / "scores").iterdir()) == scores


def test_runs_share_the_set_and_its_students(finished, tmp_path, monkeypatch):
    trained = list[str]()
    real = students._fit_small

    def counted(*values, **named):
        trained.append(values[2].folder.parent.name)
        real(*values, **named)

    monkeypatch.setattr(students, "_fit_small", counted)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    recipe = recipe_of(baselines=str(tmp_path / "shared"))
    tables = [judge(out, recipe) for out in (finished, other)]
    (home,) = homes(tmp_path / "shared")
    assert trained == [home.name]
    assert tables[0][0].top1_mean == tables[1][0].top1_mean
