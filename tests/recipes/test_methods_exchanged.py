"""``--method OTHER``: the other method's defaults, and what the user said."""

from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.methods import herding, sre2l
from attar.recipes.arguments import with_settings
from attar.recipes.catalogue import recipe_named


def test_a_built_in_recipe_keeps_data_number_and_storage_and_no_settings_of_its_method():
    before = recipe_named("cda/tiny-imagenet-ipc50")
    after = before.with_method("sre2l")
    storage = {"image_format": "jpeg", "jpeg_quality": 75, "rounding": "truncate"}
    assert before.recover.learning_rate == 0.4
    assert after.recover == sre2l.Config(ipc=50, jitter=4, **storage)
    assert (after.data, after.squeeze, after.relabel, after.evaluate) == (
        (before.data, before.squeeze, before.relabel, before.evaluate)
    )


def test_the_digits_recipe_keeps_what_digits_ask_of_every_method():
    found = recipe_named("digits").with_method("sre2l").recover
    assert (found.flip, found.grey, found.min_crop, found.unit_slots) == (False, True, 0.5, 10)
    assert (found.iterations, found.learning_rate, found.bn_weight) == (500, 0.1, 1.0)


def test_what_the_user_said_is_kept(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("recover: {ipc: 3, iterations: 7}\n")
    assert recipe_named(str(path)).with_method("sre2l").recover == sre2l.Config(ipc=3, iterations=7)
    typed = with_settings(recipe_named("digits"), ["--recover.bn-weight", "0.5"], "attar run digits")
    assert typed.with_method("sre2l").recover.bn_weight == 0.5
    recipe = recipe_named("digits")
    assert recipe.changed(recover=recipe.recover.changed(keep="best")).with_method("sre2l").recover.keep == "best"


def test_a_value_that_the_other_method_cannot_have_is_one_sentence(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("recover: {iterations: 2}\n")
    recipe = recipe_named(str(path))
    with pytest.raises(AttarError, match="do not fit the method 'fadrm': block_sizes has 4 blocks for 2 iterations; "):
        recipe.with_method("fadrm")
    for settings in (["--recover.block-sizes", "0.5", "1"], ["--recover.iterations", "9"]):  # set in the same command
        found = with_settings(recipe, ["--method", "fadrm", *settings], "attar run mine").recover
        assert len(found.block_sizes) <= found.iterations


def test_a_default_of_one_method_is_not_carried_into_another():
    features = recipe_named("digits").with_method("kcentre")
    assert features.recover.normalise_features is False
    assert features.with_method("herding").recover.normalise_features is herding.Config().normalise_features is True


@pytest.mark.parametrize("method", ["cda", "sre2l"])
def test_the_recipes_own_method_changes_nothing(method: str):
    recipe = recipe_named(f"{method}/cifar10-ipc10")
    assert recipe.with_method(method) == recipe
