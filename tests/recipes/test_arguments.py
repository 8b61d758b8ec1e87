"""What may be typed after a verb that takes a recipe."""

import pytest

from attar.core.errors import AttarError
from attar.recipes.arguments import split, with_settings
from attar.recipes.catalogue import recipe_named


def changed(*settings: str, method: str = "cda"):
    recipe = recipe_named("digits").with_method(method)
    return with_settings(recipe, list(settings), "attar run digits")


def refused(*settings: str) -> str:
    with pytest.raises(AttarError) as error:
        changed(*settings)
    return str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "digits --out X --plan --recover.ipc 3 --recover.no-flip",
        "--out X digits --plan --recover.ipc 3 --recover.no-flip",
        "--plan digits --out=X --recover.ipc 3 --recover.no-flip",
        "--plan --out X --recover.ipc 3 digits --recover.no-flip",
        "--out X --plan --recover.ipc=3 --recover.no-flip digits",
    ],
)
def test_the_recipe_stands_anywhere(line):
    given = split("run", line.split())
    assert given.recipe == "digits"
    assert given.options == {"--out": "X"}
    assert given.switches == {"--plan"}
    recipe = changed(*given.settings)
    assert (recipe.recover.ipc, recipe.recover.flip) == (3, False)


def test_a_switch_takes_a_word_only_where_that_is_yes_or_no():
    assert split("run", ["--recover.flip", "digits"]).recipe == "digits"
    assert split("run", ["--recover.flip", "False", "digits"]).settings == ["--recover.flip", "False"]


def test_lists_take_every_word_up_to_the_next_flag():
    given = split("run", ["digits", "--evaluate.rows", "full", "distilled", "--out", "X"])
    assert given.settings == ["--evaluate.rows", "full", "distilled"]
    with pytest.raises(AttarError, match="needs a recipe.*, before --evaluate.rows, which takes every word after it"):
        split("run", ["--out", "X", "--evaluate.rows", "full", "digits"])
    assert split("run", ["--evaluate.rows", "full", "--out", "X", "digits"]).recipe == "digits"


def test_settings_of_a_method_outside_take_what_they_like():
    given = split("run", ["digits", "--method", "my.method", "--recover.levels", "1", "2", "--out", "X"])
    assert given.settings == ["--recover.levels", "1", "2"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "'attar run' needs a recipe"),
        ("--out X", "'attar run' needs a recipe"),
        ("digits more", "one recipe and nothing else without a name, not 'digits' and 'more'"),
        ("digits --recover.ipc 3 4", "not 'digits' and '4'"),
        ("digits --out", "--out needs a value"),
        ("digits --out --quiet", "--out needs a value"),
        ("digits --quiet=1", "--quiet takes no value; leave out '=1'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(line, sentence):
    with pytest.raises(AttarError, match=sentence):
        split("run", line.split())


def test_help_needs_no_recipe():
    assert split("run", ["--help"]).switches == {"--help"}
    assert split("run", ["--out", "X", "digits", "-h"]).recipe == "digits"


def test_values_are_read_as_their_settings_want_them():
    recipe = changed(
        *("--seed=7", "--recover.betas", "0.1", "0.2", "--recover.bn-weight", "1e-3", "--recover.view_sizes=1"),
        *("--data.mean", "none", "--data.resize", "None", "--data.classes", "1", "2", "--recover.snapshots"),
        *(
            "--evaluate.protocol.learning-rates",
            "vgg*",
            "0.1",
            "vit_*",
            "0.2",
            "--recover.flip",
            "--recover.grey",
            "off",
        ),
    )
    assert (recipe.seed, recipe.recover.betas, recipe.recover.bn_weight) == (7, (0.1, 0.2), 1e-3)
    assert (recipe.recover.view_sizes, recipe.recover.snapshots) == ((1.0,), ())
    assert (recipe.data.mean, recipe.data.resize, recipe.data.classes) == (None, None, ("1", "2"))
    assert recipe.evaluate.protocol.learning_rates == (("vgg*", 0.1), ("vit_*", 0.2))
    assert (recipe.recover.flip, recipe.recover.grey) == (True, False)


def test_what_is_not_named_stays():
    assert changed() == recipe_named("digits")
    assert changed("--recover.ipc", "10") == recipe_named("digits")
    assert changed("--recover.normalise-features", method="kcentre").recover.normalise_features


def test_the_last_of_two_values_holds_and_lists_are_given_once():
    assert changed("--seed", "1", "--seed", "2").seed == 2
    said = refused("--evaluate.rows", "full", "--evaluate.rows", "distilled")
    assert said.endswith("give it once with all of its values: --evaluate.rows full distilled.")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--recover.iteration", "3"], "no setting named '--recover.iteration'; did you mean --recover.iterations"),
        (["--recover", "3"], "--recover is a group of settings; see 'attar run digits --help'."),
        (["--evaluate.protocol", "rded"], "take --protocol NAME."),
        (["--recover.ipc"], "--recover.ipc needs a value; write --recover.ipc VALUE."),
        (["--recover.ipc", "few"], "--recover.ipc: Input should be a valid integer"),
        (["--recover.ipc=0"], "--recover.ipc: Input should be greater than or equal to 1 (it is '0'); see 'attar run"),
        (["--recover.bn-weight", "-0.5"], "--recover.bn-weight: Input should be greater than or equal to 0"),
        (["--recover.no-flip", "3"], "--recover.no-flip takes no value; leave out '3'."),
        (["--recover.flip=maybe"], "--recover.flip: Input should be a valid boolean"),
        (["--recover.no-ipc"], "no setting named '--recover.no-ipc'"),
        (["--evaluate.rows", "full", "fool"], "--evaluate.rows: Input should be 'distilled'"),
        (["--recover.ipc-start", "10"], "--recover: ipc_start (10) must be below ipc (10)"),
        (["--data.mean", "1", "2"], "--data.mean: "),
        (["3"], "'3' stands alone; a setting is --KEY VALUE."),
        (["-o", "3"], "no setting named '-o'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told_in_a_sentence(settings, sentence):
    assert sentence in refused(*settings)


def test_help_shows_the_settings_as_they_would_be(capsys):
    with pytest.raises(SystemExit) as end:
        changed("--recover.ipc", "37", "--help")
    assert end.value.code == 0
    assert "(default: 37)" in capsys.readouterr().out
