"""plan/budget.py: images per class for a number of bytes, against the bytes of files that are really written."""

import pytest
import torch

from attar.core.log import Log
from attar.core.randomness import generator
from attar.plan.budget import Sizes
from attar.recipes.recipe import Recipe
from attar.stages.dataset_info import read_info
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from conftest import mini_recipe


def sizes_of(tmp_path, recipe: Recipe, kind="hard") -> Sizes:
    space = Workspace(tmp_path, recipe.seed, recipe.data, recipe.execution, Log(quiet=True))
    return Sizes(space, recipe.method, recipe.recover, recipe.relabel if kind == "soft" else None)


def test_images_of_a_run_stay_below_what_they_take_at_most(mini_run, tmp_path):
    info, sizes = read_info(mini_run / "distilled"), sizes_of(tmp_path, mini_recipe())
    assert info.image_bytes <= sizes.image_bytes(info.ipc) < 1.2 * info.image_bytes


def test_stored_labels_are_counted_to_a_few_hundred_bytes(mini_run, tmp_path):
    info = read_info(mini_run / "distilled")
    most = sizes_of(tmp_path, mini_recipe(), "soft").label_bytes(info.ipc)
    assert info.label_bytes <= most <= info.label_bytes + 300
    assert sizes_of(tmp_path, mini_recipe(), "hard").label_bytes(info.ipc) == 0


def test_random_images_are_counted_exactly(mini_run, tmp_path):
    real = image_files.num_bytes(mini_run / "baselines" / "random" / "distilled" / "data")
    assert sizes_of(tmp_path, mini_recipe().with_method("random")).image_bytes(2) == real


@pytest.mark.parametrize("ipc", [3, 30, 70])
def test_noise_takes_as_much_as_is_counted(tmp_path, ipc):
    """Also beyond the two groups of rows up to which files are written."""
    sizes = sizes_of(tmp_path, mini_recipe())
    drawn = torch.randint(0, 256, (10 * ipc, 3, 8, 8), generator=generator(1), dtype=torch.uint8)
    rows = ((image, place % 10, place // 10) for place, image in enumerate(drawn))
    true = image_files.write(tmp_path / "data", rows, tuple(map(str, range(10))))
    assert true <= sizes.image_bytes(ipc) < 1.005 * true


@pytest.mark.parametrize(("method", "kind"), [("cda", "soft"), ("cda", "hard"), ("random", "hard")])
def test_a_budget_is_filled_and_never_exceeded(tmp_path, method, kind):
    sizes = sizes_of(tmp_path, mini_recipe().with_method(method), kind)
    exact = sizes.most_bytes(7)
    assert [sizes.choose(exact + more).ipc for more in (-1, 0)] == [6, 7]
    assert sizes.choose(exact).most_bytes == exact
    assert "8 per class would take up to" in sizes.choose(exact).why


def test_what_does_not_fit_says_what_one_image_takes(tmp_path):
    choice = sizes_of(tmp_path, mini_recipe()).choose(1000)
    assert choice.ipc == 0
    assert choice.why == "one image per class takes up to 5.9 kB"


def test_real_images_are_limited_by_the_smallest_class(tmp_path):
    choice = sizes_of(tmp_path, mini_recipe().with_method("random")).choose(10**7)
    assert choice.why == f"the class '8' has {choice.ipc} real images"
    assert choice.most_bytes < 10**7


def test_settings_of_the_method_limit_its_images(tmp_path):
    recipe = mini_recipe().with_method("rded")
    choice = sizes_of(tmp_path, recipe.changed(recover=recipe.recover.changed(patch_pool=3))).choose(10**6)
    assert choice.ipc == 3
    assert "patch_pool (3) is smaller than the number of patches per class (4)" in choice.why
