"""The help page names every setting with its value, at any width."""

import re
import shlex

import pytest

from attar.core.errors import AttarError
from attar.recipes.arguments import with_settings
from attar.recipes.catalogue import recipe_named
from attar.recipes.fields import fields_of
from attar.recipes.help_page import FREQUENT, page, usage


def shown(section: str, *settings: str, verb: str = "run", width: int = 80) -> str:
    recipe = with_settings(recipe_named("digits"), list(settings), "attar run digits")
    return page(recipe, verb, "digits", section, width)


def flags(text: str) -> list[str]:
    """The flags of the settings on a page, without the options."""
    return re.findall(r"^  (--\S+) ", text.partition("Options:")[0], re.MULTILINE)


def test_the_page_begins_with_what_people_change():
    found = flags(shown(""))
    assert found == [f"--{key.replace('_', '-')}" for key in FREQUENT]
    text = shown("", "--recover.ipc", "37")
    assert text.startswith("usage: attar run digits --out FOLDER [OPTIONS] [SETTINGS]\n")
    assert "  --recover.ipc INT  [37]\n      Images per class" in text
    assert text.index("--seed") < text.index("'attar run digits --help all'") < text.index("--protocol NAME")
    assert "Epochs that each student trains for" in text
    assert len(text.splitlines()) < 130


def test_epochs_of_labels_are_left_out_where_students_train_with_hard_labels():
    assert "--relabel.epochs" not in shown("", "--evaluate.rows", "distilled-hard", "full")
    assert "--evaluate.protocol.training.epochs" in shown("", "--evaluate.rows", "distilled-hard", "full")


def test_settings_that_a_method_lacks_are_left_out():
    assert "--recover.iterations INT" not in shown("", "--method", "random")
    assert "--recover.ipc INT" in shown("", "--method", "random")


@pytest.mark.parametrize("method", ["cda", "random"])
def test_all_settings_are_offered_once(method):
    fields = fields_of(type(recipe_named("digits").with_method(method)))
    wanted = [field.flag for field in fields if field.kind != "group"]
    assert sorted(flags(shown("all", "--method", method))) == sorted(wanted)


def test_every_section_of_the_front_page_can_be_asked_for():
    sections = re.findall(r"^  ([a-z_.]+)  +[A-Z]", shown("").partition("Sections of the settings:")[2], re.MULTILINE)
    assert {"data", "squeeze.training", "recover", "evaluate.protocol.training", "execution"} <= set(sections)
    for section in sections:
        found = flags(shown(section))
        assert found
        assert all(flag.startswith(f"--{section.replace('_', '-')}.") for flag in found)


@pytest.mark.parametrize("section", ["recover.bn_weight", "--recover.bn-weight"])
def test_a_single_setting_is_a_section(section):
    assert flags(shown(section)) == ["--recover.bn-weight"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("quality", "--recover.jpeg-quality"), ("JPEG", "--recover.image-format"), ("GPU", "--execution.job-gpus"),
        ("smooth", "--squeeze.label-smoothing"), ("learning rate", "--squeeze.training.learning-rate"),
        ("lr", "--evaluate.protocol.training.learning-rate"),
        ("memory batchnorm", "--squeeze.training.accumulation-steps"),
    ],
)  # fmt: skip
def test_settings_are_found_by_words_of_their_names_explanations_and_choices(words, wanted):
    recipe = recipe_named("cda/imagenet-1k-ipc50")
    found = flags(page(recipe, "run", "cda/imagenet-1k-ipc50", words, 80))
    assert wanted in found
    assert len(found) < 25


def test_every_word_has_to_begin_a_word():
    with pytest.raises(AttarError, match="did you mean recover.iterations"):
        shown("rations")
    assert "--recover.image-format" not in flags(shown("jpeg quality"))


def test_an_unknown_section_is_refused():
    with pytest.raises(AttarError, match="no section named 'recoverr'; did you mean recover"):
        shown("recoverr")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_fit_the_terminal(width):
    pages = [shown(section, width=width) for section in ("", "all")] + [usage("run", width), usage("show", width)]
    for line in "\n".join(pages).splitlines():
        assert len(line) <= width or " " not in line.strip(), line


def test_types_and_values_are_shown_as_they_are_typed():
    text = shown(
        "all", "--evaluate.protocol.learning-rates", "vgg*", "0.1", "--data.root", "my data", "--recover.no-grey"
    )
    for line in (
        "--recover.image-format png|jpeg|webp  [png]",
        "--recover.betas NUMBER NUMBER  [0.5 0.9]",
        "--recover.grey yes|no  [no]",
        "--recover.snapshots INT ...  [25 50 100 250]",
        "--data.resize INT|none  [none]",
        "--data.root TEXT  ['my data']",
        "--data.classes TEXT ...  [empty]",
        "--evaluate.protocol.learning-rates TEXT NUMBER ...  ['vgg*' 0.1]",
        "--evaluate.rows NAME ...  [distilled distilled-hard",
    ):
        assert f"  {line}" in text, line
    assert "NAME: distilled, distilled-hard, distilled-noaug, random-soft," in " ".join(text.split())


def test_a_recipe_can_be_typed_from_its_page():
    """The values in brackets, typed behind their flags, make the recipe out of another one."""
    words: list[str] = []
    for flag, value in re.findall(r"^  (--\S+) .*  \[(.*)\]$", shown("all", width=10_000), re.MULTILINE):
        words += [flag, *("" if word == "empty" else word for word in shlex.split(value))]
    other = recipe_named("cda/cifar10-ipc50")
    assert with_settings(other, words, "attar run digits") == recipe_named("digits")


def test_verbs_say_which_options_they_take():
    assert "--out FOLDER" in usage("run", 80)
    assert "--plan" in usage("run", 80)
    assert "--plan" not in usage("squeeze", 80)
    assert {"--budget", "--ipc"} <= set(usage("plan", 80).split())
    assert "--budget" not in usage("compare", 80).split()
    assert "--plan" in usage("show", 80)
    assert "--out" not in usage("show", 80)
    assert "--out" not in shown("", verb="show").partition("Options:")[2]


def test_no_value_is_obeyed_by_the_terminal():
    assert "[31m" in shown("", "--data.root", "\x1b[31m")
    assert "\x1b" not in shown("", "--data.root", "\x1b[31m")
