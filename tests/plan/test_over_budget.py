"""plan/over_budget.py: a set that would outgrow its bytes is told before it is made."""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import mini_recipe

from attar import pipeline
from attar.core.log import Log
from attar.data.load import load
from attar.plan import over_budget
from attar.plan.budget import most_file_bytes, noise_bytes
from attar.recipes.recipe import Recipe
from attar.stages.dataset_info import read_info


@pytest.fixture
def no_pictures() -> None:
    """Here they are drawn."""


def told(recipe: Recipe[Any], budget: int, out: Path | None = None) -> str:
    real = load(recipe.data, recipe.seed, Log(quiet=True))
    return over_budget.warning(budget, pipeline.work_of(recipe, real), real, recipe.data, out)


def with_rows(*rows: str, **labels: Any) -> Recipe[Any]:
    recipe = mini_recipe()
    return recipe.changed(evaluate=recipe.evaluate.changed(rows=rows), relabel=recipe.relabel.changed(**labels))


def test_a_set_that_is_not_made_yet_counts_with_the_most_that_it_could_take():
    recipe = with_rows("distilled-hard")
    classes = tuple(map(str, range(10)))
    most = most_file_bytes(20, noise_bytes(recipe.recover, 8), classes)
    assert told(recipe, 0) == told(recipe, most) == ""
    sentence = told(recipe, most - 1)
    assert sentence == (
        f"with 2 images per class, images and labels could take up to {most:,} bytes (labels: none), and the budget of "
        f"this recipe is {most - 1:,}: lower --recover.ipc to 1, or set --budget-bytes {most}"
    )


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_labels_count_where_students_learn_from_them(mode: str):
    hard, soft = (with_rows(row, mode=mode) for row in ("distilled-hard", "distilled"))
    budget = 9000
    assert told(hard, budget) == ""
    assert "make a smaller set with another --out, or set --budget-bytes" in told(soft, budget)
    judging = soft.evaluate
    classes_only = judging.changed(protocol=judging.protocol.changed(loss="hard"))
    assert told(soft.changed(evaluate=classes_only), budget) == ""


def test_what_a_run_has_made_counts_with_the_bytes_that_it_takes(recovered: Path):
    recipe = mini_recipe().changed(evaluate=mini_recipe().evaluate.changed(rows=("distilled",)))
    recipe = recipe.changed(relabel=recipe.relabel.changed(mode="online"))
    pipeline.run(recipe, recovered, stage="relabel", quiet=True)
    info = read_info(recovered / "distilled")
    taken = info.image_bytes + info.label_bytes
    assert told(recipe, taken, recovered) == ""
    assert told(recipe, taken)  # without the run
    assert "make a smaller set with another --out" in told(recipe, taken - 1, recovered)
    larger = recipe.changed(recover=recipe.recover.changed(ipc=4))
    assert "lower --recover.ipc to 3" in told(larger, taken + 4000, recovered)


def test_stored_labels_that_are_made_count_with_the_bytes_that_they_take(finished: Path):
    recipe = mini_recipe()
    info = read_info(finished / "distilled")
    taken = info.image_bytes + info.label_bytes
    assert told(recipe, taken, finished) == ""
    assert told(recipe, taken - 1, finished)
    other = recipe.changed(relabel=recipe.relabel.changed(codec={"kind": "topk", "k": 9}))
    assert told(other, taken, finished)  # these labels would be others


def test_real_pictures_count_with_their_own_bytes():
    random = with_rows("distilled-hard").with_method("random")
    noise = most_file_bytes(20, noise_bytes(random.recover, 8), tuple(map(str, range(10))))
    assert told(random, noise - 500) == ""


def test_images_from_elsewhere_are_not_reckoned():
    assert told(mini_recipe().changed(images="somewhere"), 1) == ""
