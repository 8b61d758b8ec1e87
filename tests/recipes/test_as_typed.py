"""recipes/as_typed.py: the choices are told as they are with the settings typed."""

import pytest

from attar.data.survey import Survey
from attar.recipes import as_typed
from attar.recipes.arguments import with_settings
from attar.recipes.choose import Chosen, Wishes, choose

FOUND = Survey(classes=("cat", "dog", "owl"), counts=(400, 400, 400), num_val=None, sizes=((40, 40),), grey=False)


def told(words: str, wishes: Wishes) -> tuple[Chosen, dict[str, tuple[str, str]]]:
    found = choose("pictures", FOUND, wishes)
    found = as_typed.with_settings(found, with_settings(found.recipe, words.split(), "attar run pictures"))
    return found, {one.what: (one.choice, one.why) for one in found.reasons}


@pytest.mark.parametrize(
    ("words", "row", "choice"),
    [
        ("--recover.iterations 7", "method", "dm, 7 steps"),
        ("--method random", "method", "random"),
        ("--squeeze.training.epochs 3", "teacher", "1, of 3 epochs"),
        ("--squeeze.weights w.pth", "teacher", "1 of your own"),
        ("--evaluate.protocol.training.epochs 9", "students", "3 of convnet3_w64, 9 epochs"),
        ("--evaluate.num-seeds 1", "students", "1 of convnet3_w64, 800 epochs"),
        ("--evaluate.students resnet18 convnet3", "students", "3 of resnet18 and convnet3, 800 epochs"),
        ("--squeeze.architecture resnet18", "network", "resnet18"),
        ("--recover.flip false", "mirrored", "in some stages"),
        ("--recover.grey true", "colour", "grey"),
        ("--recover.image-format jpeg --recover.jpeg-quality 50", "bytes", "JPEG, quality 50"),
        ("--recover.webp-quality 50", "bytes", "WebP, quality 50"),
    ],
)
def test_a_setting_that_was_typed_is_in_its_row(words: str, row: str, choice: str):
    budget = Wishes(budget=40_000)
    found, rows = told(words, budget)
    assert rows[row] == (choice, "as you asked")
    _, usual = told("", budget)
    assert {name for name in rows if rows[name] != usual[name]} <= {row, "time"}
    assert f"{row}: {choice} (as you asked)" in found.header()


def test_the_time_follows_the_settings():
    slow = Wishes(speed=1e8)
    minutes = {
        words: told(words, slow)[1]["time"][0] for words in ("", "--squeeze.training.epochs 1", "--method random")
    }
    assert len(set(minutes.values())) == 3
    assert told("--squeeze.architecture resnet18", slow)[1]["time"][0] == "not known"
