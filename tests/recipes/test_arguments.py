"""What may be typed after a verb that takes a recipe."""

import pytest

from attar.core.errors import AttarError
from attar.recipes.arguments import Arguments, changed_by, split, with_settings, without_effect
from attar.recipes.catalogue import recipe_named
from attar.stages.rows import DISTILLED


def changed(*settings: str):
    return with_settings(recipe_named("digits"), list(settings), "attar run digits")


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
        "--out Y --plan --recover.no-flip digits --recover.ipc 3 --out X",
    ],
)
def test_the_recipe_and_the_flags_stand_in_any_order(line):
    given = split("run", line.split())
    assert (given.recipe, given.out, given.plan, given.quiet, given.help) == ("digits", "X", True, False, None)
    recipe = changed_by(recipe_named("digits"), given.settings, "attar run digits")
    assert (recipe.recover.ipc, recipe.recover.flip) == (3, False)


def test_a_switch_takes_a_word_only_where_that_is_yes_or_no():
    assert split("run", ["--recover.flip", "digits"]).recipe == "digits"
    assert split("run", ["--recover.flip", "False", "digits"]).settings == (("--recover.flip", ["False"]),)


def test_lists_take_every_word_up_to_the_next_flag():
    rows = ("--evaluate.rows", ["full", "distilled"])
    assert split("run", ["digits", "--evaluate.rows", "full", "distilled", "--out", "X"]).settings == (rows,)
    assert split("run", ["--evaluate.rows", "full", "distilled", "--out", "X", "digits"]).settings == (rows,)
    with pytest.raises(AttarError, match="needs a recipe.*; write it first, because --evaluate.rows takes every word"):
        split("run", ["--out", "X", "--evaluate.rows", "full", "digits"])


def test_settings_of_a_method_outside_take_what_they_like():
    given = split("run", ["digits", "--method", "my.method", "--recover.levels", "1", "2", "--out", "X"])
    assert given.settings == (("--method", ["my.method"]), ("--recover.levels", ["1", "2"]))


@pytest.mark.parametrize(
    ("line", "recipe", "section"),
    [
        ("--help", "", ""),
        ("-h --out X", "", ""),
        ("digits --help", "digits", ""),
        ("--help digits", "digits", ""),
        ("--help recover digits", "digits", "recover"),
        ("--help squeeze.training --out X digits", "digits", "squeeze.training"),
        ("digits --out X --help all", "digits", "all"),
        ("digits --help=reocver", "digits", "reocver"),
        ("digits --help learning rate --out X", "digits", "learning rate"),
    ],
)
def test_help_may_name_a_section(line, recipe, section):
    given = split("run", line.split())
    assert (given.recipe, given.help) == (recipe, section)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "'attar run' needs a recipe, as in 'attar run digits': a name from 'attar list recipes' or a YAML file."),
        ("--out X", "'attar run' needs a recipe"),
        ("--help all", "'attar run' needs a recipe"),
        ("digits more", "takes one recipe, not both 'digits' and 'more'; write settings as --KEY VALUE."),
        ("digits recover.bn_weight=3", "write settings as --recover.bn-weight=3."),
        ("--recover.ipc 3 4 digits", "not both '4' and 'digits'"),
        ("digits --out", "--out needs a value; write --out VALUE."),
        ("digits --out --quiet", "--out needs a value"),
        ("digits --out my runs", "--out takes one value, not 'my' and 'runs'; leave out all but one, or quote"),
        ("digits --quiet=1", "--quiet takes no value; leave out '1'."),
        ("digits --quiet X", "--quiet takes no value; leave out 'X'."),
    ],
)  # fmt: skip
def test_mistakes_are_reported_in_a_sentence(line, sentence):
    with pytest.raises(AttarError) as error:
        split("run", line.split())
    assert sentence in str(error.value)


def test_nothing_typed_changes_nothing():
    assert split("run", ["digits"]) == Arguments(recipe="digits")
    assert changed() == recipe_named("digits")
    assert changed("--recover.ipc", "10") == recipe_named("digits")


def test_values_are_read_as_their_settings_want_them():
    recipe = changed(
        *("--seed=7", "--recover.betas", "0.1", "0.2", "--recover.bn_weight", "1e-3", "--recover.view_sizes=1"),
        *("--data.mean", "none", "--data.resize", "None", "--data.classes", "1", "2", "--recover.snapshots"),
        *("--evaluate.protocol.learning-rates", "vgg*", "0.1", "vit_*", "0.2", "--recover.flip"),
        *("--recover.grey", "off"),
        *("--execution.workers", "-1", "--squeeze.weights=", "--name", "two words=one", "--evaluate.baselines", ""),
    )  # fmt: skip
    assert (recipe.seed, recipe.recover.betas, recipe.recover.bn_weight) == (7, (0.1, 0.2), 1e-3)
    assert (recipe.recover.view_sizes, recipe.recover.snapshots) == ((1.0,), ())
    assert (recipe.data.mean, recipe.data.resize, recipe.data.classes) == (None, None, ("1", "2"))
    assert recipe.evaluate.protocol.learning_rates == (("vgg*", 0.1), ("vit_*", 0.2))
    assert (recipe.recover.flip, recipe.recover.grey, recipe.execution.workers) == (True, False, -1)
    assert (recipe.squeeze.weights, recipe.name, recipe.evaluate.baselines) == ("", "two words=one", "")
    assert changed("--data.classes", "1", "--data.classes=").data.classes == ()


def test_of_a_setting_typed_twice_the_last_one_holds():
    assert changed("--seed", "1", "--seed", "2").seed == 2
    assert changed("--evaluate.rows", "full", "--evaluate.rows", "distilled").evaluate.rows == (DISTILLED,)
    assert changed("--recover.no-flip", "--recover.flip").recover.flip
    assert not changed("--recover.flip", "yes", "--recover.no-flip").recover.flip
    assert changed("--method", "cda", "--method", "random").method == "random"


@pytest.mark.parametrize(
    "settings",
    [
        "--method sre2l --protocol rded --recover.iterations 7 --relabel.epochs 5",
        "--recover.iterations 7 --relabel.epochs 5 --protocol rded --method sre2l",
        "--relabel.epochs 5 --method=sre2l --recover.iterations 7 --protocol=rded",
    ],
)
def test_settings_are_applied_after_method_and_protocol_wherever_they_stand(settings):
    recipe = changed(*settings.split())
    assert (recipe.method, recipe.evaluate.protocol.name) == ("sre2l", "rded")
    assert (recipe.recover.iterations, recipe.relabel.epochs) == (7, 5)
    assert recipe.relabel.views.patch_shuffle == 2


def test_a_setting_of_the_other_method_is_known_before_it_is_chosen():
    assert changed("--recover.normalise-features", "--method", "kcentre").recover.normalise_features
    assert "The method 'random' has no setting --recover.iterations" in refused(
        "--recover.iterations", "3", "--method", "random"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--recover.iteration", "3"], "no setting named '--recover.iteration'; did you mean --recover.iterations"),
        (["--iterations", "3"], "no setting named '--iterations'; did you mean --recover.iterations?"),
        (["--no-grey"], "no setting named '--no-grey'; did you mean --recover.no-grey?"),
        (["--recover", "3"], "--recover is a group of settings and takes no value; see 'attar run"),
        (["--evaluate.protocol", "rded"], "choose one by --protocol NAME."),
        (["--recover.ipc"], "--recover.ipc needs a value; write --recover.ipc VALUE."),
        (["--recover.ipc="], "--recover.ipc needs a value; write --recover.ipc INT."),
        (["--recover.ipc", "3", "4"], "--recover.ipc takes one value, not '3' and '4'"),
        (["--recover.ipc", "few"], "--recover.ipc must be a whole number, not 'few'; see 'attar run"),
        (["--recover.ipc=0"], "equal to 1, not '0'; see 'attar run digits --help recover.ipc'."),
        (["--recover.bn-weight", "-0.5"], "--recover.bn-weight must be greater than or equal to 0, not '-0.5'"),
        (["--recover.bn-weight=x"], "--recover.bn-weight must be a number, not 'x'"),
        (["--recover.no-flip", "3"], "--recover.no-flip takes no value; leave out '3'."),
        (["--recover.flip=maybe"], "--recover.flip must be yes or no, not 'maybe'"),
        (["--recover.no-ipc"], "no setting named '--recover.no-ipc'"),
        (["--evaluate.rows", "full", "fool"], "--evaluate.rows must be 'distilled', "),
        (["--evaluate.rows"], "--evaluate.rows: list at least one; see"),
        (["--recover.ipc-start", "10"], "--recover: ipc_start (10) must be below ipc (10); see"),
        (["--data.mean", "1", "2"], "--data.mean takes NUMBER NUMBER NUMBER|none, not '1' and '2'."),
        (["--data.mean"], "--data.mean takes NUMBER NUMBER NUMBER|none, not nothing."),
        (["--evaluate.protocol.learning-rates", "vgg*"], "takes TEXT NUMBER ..., not 'vgg*'."),
        (["3"], "'3' does not follow a flag; write settings as --KEY VALUE."),
        (["-o", "3"], "no setting named '-o'"),
        (["--lr", "0.1"], "no setting named '--lr'; 'attar run digits --help lr' lists those that speak of it."),
        (["--G", "3"], "no setting named '--G'; did you mean"),
        (["--method"], "--method needs a value"),
        (["--method", "cdaa"], "no method named 'cdaa'; did you mean cda"),
    ],
)  # fmt: skip
def test_wrong_settings_are_reported_in_a_sentence(settings, sentence):
    assert sentence in refused(*settings)


IDLE = [
    ("sre2l", "--recover.patch-side 8", "patches in --recover.observe", "--recover.observe patches"),
    ("sre2l", "--recover.class-share 0.2", "--recover.target mixed", "--recover.target mixed"),
    ("sre2l", "--recover.class-variance within", "--recover.target class or mixed", "--recover.target class"),
    ("sre2l", "--recover.drop-layers 0.2", "convolution or patches in --recover.observe", "--recover.observe patches"),
    ("sre2l", "--recover.no-jitter-both-ways", "--recover.jitter above 0", "--recover.jitter 2"),
    ("sre2l", "--recover.padding 2", "--recover.crop padded", "--recover.crop padded"),
    ("cda", "--recover.milestone 0.5", "a --recover.curriculum", "--recover.curriculum linear"),
    ("sre2l", "--recover.tiles 2", "--recover.start patches", "--recover.start patches"),
    ("rded", "--recover.tile-ranks spread", "--recover.tiles 2 or more", "--recover.tiles 2"),
    ("gvbsm", "--recover.diversity-temperature 2", "--recover.diversity-weight above 0",
     "--recover.diversity-weight 1"),
    ("fadrm", "--recover.residual 0.2", "several --recover.block-sizes", "--recover.block-sizes 1.0 1.0"),
    ("delt", "--recover.late-rates own", "--recover.rounds above 1", "--recover.rounds 2"),
    ("dm", "--recover.no-flip", "flip in --recover.dsa", "--recover.dsa flip"),
    ("random", "--recover.webp-quality 50", "--recover.image-format webp", "--recover.image-format webp"),
    ("random", "--relabel.codec.k 3", "--relabel.codec.kind topk", "--relabel.codec.kind topk"),
    ("random", "--relabel.teacher-precision fp16", "--relabel.mode online", "--relabel.mode online"),
    ("random", "--relabel.committee.batchnorm-batch 4", "--relabel.committee.batchnorm train",
     "--relabel.committee.batchnorm train"),
    ("random", "--relabel.views.randaugment-std 0", "--relabel.views.randaugment-ops above 0",
     "--relabel.views.randaugment-ops 1"),
    ("random", "--evaluate.protocol.temperature 3", "--evaluate.protocol.loss soft", "--evaluate.protocol.loss soft"),
    ("random", "--evaluate.protocol.hard-weight 1", "--evaluate.protocol.loss soft or mse",
     "--evaluate.protocol.loss mse"),
    ("random", "--evaluate.protocol.training.momentum 0.5", "--evaluate.protocol.training.optimizer sgd or muon",
     "--evaluate.protocol.training.optimizer sgd"),
]  # fmt: skip
BEFORE = {
    "milestone": "--recover.curriculum none", "diversity-temperature": "--recover.diversity-weight 0",
    "residual": "--recover.block-sizes 1.0", "late-rates": "--recover.rounds 1", "no-flip": "--recover.dsa crop",
    "temperature": "--evaluate.protocol.loss mse", "hard-weight": "--evaluate.protocol.loss hard",
    "no-jitter-both-ways": "--recover.jitter 0", "webp-quality": "--recover.image-format png",
}  # fmt: skip


@pytest.mark.parametrize(("method", "typed", "needed", "mend"), IDLE)
def test_a_typed_setting_without_effect_is_named_with_what_makes_it_count(method, typed, needed, mend):
    def told(*more: str) -> list[str]:
        pairs = split("run", ["digits", "--method", method, *" ".join((typed, *more)).split()]).settings
        return without_effect(changed_by(recipe_named("digits"), pairs, "attar"), pairs)

    name = typed.split()[0].rpartition(".")[2].removeprefix("--")
    before = BEFORE.get(name, "")
    assert told(before) == [f"{typed.split()[0]} has no effect: it counts only with {needed}"]
    assert told(mend) == []


def test_settings_of_a_teachers_training_count_for_the_row_of_full_data():
    recipe = recipe_named("digits")
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights="somewhere.pth"))
    pairs = [("--squeeze.training.epochs", ["5"])]
    assert without_effect(recipe.changed(evaluate=recipe.evaluate.changed(full_data="train")), pairs) == []
    (sentence,) = without_effect(recipe.changed(evaluate=recipe.evaluate.changed(full_data="teacher")), pairs)
    assert sentence.endswith("it counts only with teachers that are trained here (--squeeze.weights '')")


def test_labels_follow_the_epochs_of_students_unless_they_are_set():
    def epochs(*words: str) -> tuple[int, int, int]:
        recipe = with_settings(recipe_named("cda/tiny-imagenet-ipc50"), list(words), "attar")
        return recipe.evaluate.protocol.training.epochs, recipe.relabel.epochs, recipe.relabel.pool_epochs

    students = "--evaluate.protocol.training.epochs"
    was = epochs()
    assert epochs(students, "60") == (60, 60, 0)
    assert epochs(students, "60", "--relabel.epochs", "30") == (60, 30, 0)
    assert epochs("--protocol", "rded", students, "60") == (60, 60, 0)
    assert epochs("--relabel.pool-epochs", "80", students, "90") == (90, 90, 80)
    assert epochs("--evaluate.num-seeds", "1") == was
    apart = recipe_named("cda/tiny-imagenet-ipc50")
    apart = apart.changed(relabel=apart.relabel.changed(epochs=7))
    assert with_settings(apart, [students, "60"], "attar").relabel.epochs == 7
