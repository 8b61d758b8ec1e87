"""recipes/compared.py: which methods, labels and sizes a comparison has."""

import pytest

from attar.core.errors import AttarError
from attar.recipes.compared import budgets_of, bytes_of, contenders, size_name
from attar.stages.rows import DISTILLED, DISTILLED_HARD, EQUAL_BYTES, FULL


@pytest.mark.parametrize(
    ("text", "size"), [("100kB", 100_000), ("1.5 MB", 1_500_000), ("2gb", 2 * 10**9), ("700B", 700)]
)
def test_sizes_are_decimal(text, size):
    assert bytes_of(text) == size
    assert bytes_of(size_name(size)) == size


@pytest.mark.parametrize("text", ["100", "kB", "-1kB", "1KiB", "1e3kB", "0kB", ""])
def test_a_size_without_unit_or_value_is_refused(text):
    with pytest.raises(AttarError, match="A budget"):
        bytes_of(text)


def test_sizes_are_sorted_and_kept_once():
    assert budgets_of(["1MB", "10kB", "1000kB"]) == [10_000, 1_000_000]


def test_labels_are_hard_where_no_teacher_is_needed_and_soft_elsewhere():
    found = contenders("digits", ["dm", "random", "tesla", "cda", "cda:hard", "random:soft"], ())
    assert [one.labels for one in found] == ["hard", "hard", "hard", "soft", "hard", "soft"]
    assert [one.asks_teacher for one in found] == [False, False, False, True, True, True]
    hard, soft = found[4].recipe_of(3, "shared"), found[3].recipe_of(3, "shared")
    assert hard.evaluate.rows == (DISTILLED_HARD, EQUAL_BYTES, FULL)
    assert soft.evaluate.rows == (DISTILLED, EQUAL_BYTES, FULL)
    assert (hard.relabel.mode, soft.relabel.mode, soft.recover.ipc) == ("none", "stored", 3)
    assert found[0].folder(16_000) == "dm-hard-16kB"


def test_a_protocol_of_hard_labels_makes_all_labels_hard():
    assert contenders("digits", ["cda"], [("--protocol", ["mtt"])])[0].labels == "hard"


def test_a_recipe_gives_the_settings_of_its_method_only():
    (one,) = contenders("digits", ["dm/digits-ipc1:hard"], [("--squeeze.training.epochs", ["3"])])
    assert (one.name, one.recipe.recover.real_batch, one.recipe.squeeze.training.epochs) == ("dm", 64, 3)
    both = contenders("digits", ["dm/digits-ipc1", "dm/digits-ipc10"], ())
    assert [each.name for each in both] == ["dm-digits-ipc1", "dm-digits-ipc10"]


def test_a_setting_of_recover_changes_the_methods_that_have_it():
    dm, random = contenders("digits", ["dm", "random"], [("--recover.iterations", ["7"]), ("--seed", ["3"])])
    assert (dm.recipe.recover.iterations, dm.recipe.seed, random.recipe.seed) == (7, 3, 3)


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        ([], (), "needs methods; add --methods"),
        (["dmm"], (), "no method named 'dmm'; did you mean dm"),
        (["dm", "dm:hard"], (), "'dm:hard' is listed twice"),
        (["dm/cifar10-ipc1"], (), "for cifar10 at 32 pixels, and digits for digits at 8"),
        (["cda:soft"], [("--protocol", ["mtt"])], "trains students with hard labels; leave out ':soft'"),
        (["cda"], [("--relabel.mode", ["online"])], "the bytes of the teacher at every budget"),
        (["cda"], [("--relabel.mode", ["none"])], "use --relabel.mode stored, or hard labels (cda:hard)"),
        (
            ["random"],
            [("--recover.iterations", ["5"])],
            "None of the methods random has a setting --recover.iterations",
        ),
        (["random"], [("--recover.ipc", ["5"])], "takes no --recover.ipc: the budgets decide it"),
        (["random"], [("--method", ["dm"])], "takes no --method: use --methods"),
        (["random"], [("--images", ["folder"])], "leave out --images"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, settings, sentence):
    with pytest.raises(AttarError) as error:
        contenders("digits", words, settings)
    assert sentence in str(error.value)
