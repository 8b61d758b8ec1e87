"""Hashes of an earlier attar do not change when classes gain fields."""

import json
from pathlib import Path

from attar.core.config import digest
from attar.core.former import former
from attar.ops.choices import ViewChoice
from conftest import mini_recipe

FORMER = Path(__file__).parents[1] / "stages" / "former"


def test_a_newer_field_is_left_out_at_its_default_only():
    values = {"crop": "padded", "min_scale": 0.08, "padding": 1, "flip": False}
    assert former(ViewChoice(crop="padded", padding=1, flip=False)) == values

    class Newer(ViewChoice):
        turn: int = 0

    Newer.__name__ = "ViewChoice"
    choice = Newer(crop="padded", padding=1, flip=False)
    assert digest(former(choice)) == digest(values)
    assert former(choice.changed(turn=90)) == values | {"turn": 90}


def test_it_says_what_the_manifests_of_those_days_say():
    squeezed, labelled = (
        json.loads((FORMER / f"{name}.json").read_text())["request"] for name in ("squeeze", "distilled")
    )
    recipe = mini_recipe()
    assert former(recipe.data) == squeezed["data"]
    assert former(recipe.squeeze.training) == squeezed["squeeze"]["training"]
    assert former(recipe.relabel.views) == labelled["relabel"]["views"]
    assert former(recipe.relabel.mix) == labelled["relabel"]["mix"]
