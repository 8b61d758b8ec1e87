"""Hashes of an earlier attar do not change when classes gain fields."""

import json
from pathlib import Path

from attar.core.config import digest
from attar.core.legacy import legacy_identity
from attar.ops.choices import ViewChoice
from conftest import mini_recipe

FORMER = Path(__file__).parents[1] / "stages" / "former"


def test_a_newer_field_is_left_out_at_its_default_only():
    values = {"crop": "padded", "min_scale": 0.08, "padding": 1, "flip": False}
    assert legacy_identity(ViewChoice(crop="padded", padding=1, flip=False)) == values

    class Newer(ViewChoice):
        turn: int = 0

    Newer.__name__ = "ViewChoice"
    choice = Newer(crop="padded", padding=1, flip=False)
    assert digest(legacy_identity(choice)) == digest(values)
    assert legacy_identity(choice.changed(turn=90)) == values | {"turn": 90}


def test_it_says_what_the_manifests_of_those_days_say():
    squeezed, labelled = (
        json.loads((FORMER / f"{name}.json").read_text())["request"] for name in ("squeeze", "distilled")
    )
    recipe = mini_recipe()
    assert legacy_identity(recipe.data) == squeezed["data"]
    assert legacy_identity(recipe.squeeze.training) == squeezed["squeeze"]["training"]
    assert legacy_identity(recipe.relabel.views) == labelled["relabel"]["views"]
    assert legacy_identity(recipe.relabel.mix) == labelled["relabel"]["mix"]
