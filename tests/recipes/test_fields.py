"""How one setting is typed, by its type."""

from typing import Any

import pydantic
import pytest

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.recipes.arguments import with_settings
from attar.recipes.fields import Field, by_name, fields_of
from attar.recipes.help_page import page
from attar.recipes.recipe import Recipe
from attar.synthesis.method import MethodConfig


class Member(Config):
    architecture: str = "resnet18"
    training: dict[str, Any] = pydantic.Field(default_factory=dict)


class Group(Config):
    """A model with the types that settings have, and some that they may have."""

    members: tuple[Member, ...] = ()
    extra: dict[str, Any] = pydantic.Field(default_factory=dict)
    flip: bool | None = None
    inner: Member = Member()


class Choices(MethodConfig):
    """A method's settings with such types."""

    members: tuple[Member, ...] = ()
    extra: dict[str, Any] = pydantic.Field(default_factory=dict)


FIELDS = {field.key: field for field in fields_of(Group)}


def test_groups_come_before_their_settings():
    assert list(FIELDS) == ["members", "extra", "flip", "inner", "inner.architecture", "inner.training"]
    assert FIELDS["inner"].kind == "group"
    assert by_name(FIELDS.values())["no_flip"] is FIELDS["flip"]


def test_models_in_lists_and_dictionaries_are_typed_as_yaml():
    members: Field = FIELDS["members"]
    assert members.metavar == "MAPPING ..."
    typed = ["{architecture: no, training: {epochs: 1, flip: no}}", "{}"]
    assert members.read("--members", typed) == [{"architecture": "no", "training": {"epochs": 1, "flip": False}}, {}]
    assert Group.of({"members": members.read("--members", typed)}, "here").members[1] == Member()
    assert FIELDS["extra"].read("--extra", ["{a: [1, 2]}"]) == {"a": [1, 2]}
    for wrong in ("resnet18", "{architecture: ", "[1]"):
        with pytest.raises(AttarError, match="--members takes a mapping in YAML, as in '{key: value}', not"):
            members.read("--members", ["{}", wrong])


def test_a_switch_may_be_none():
    assert FIELDS["flip"].metavar == "yes|no|none"
    assert FIELDS["flip"].read("--flip", ["none"]) is None
    assert FIELDS["flip"].read("--flip", []) is True


def test_a_recipe_takes_mappings_shows_them_and_refuses_wrong_ones():
    plain = Recipe[Choices](recover=Choices())
    typed = ["--recover.members", "{architecture: convnet3}", "{training: {epochs: 1}}", "--recover.extra", "{a: 1}"]
    recipe = with_settings(plain, typed, "attar run mine")
    assert [member.architecture for member in recipe.recover.members] == ["convnet3", "resnet18"]
    assert recipe.recover.extra == {"a": 1}
    text = page(recipe, "run", "mine", "recover", 200)
    assert "--recover.members MAPPING ...  ['{architecture: convnet3}' '{training: {epochs: 1}}']" in text
    for word, sentence in {
        "{depth: 3}": "--recover.members: there is no setting named 'depth'; see 'attar run mine",
        "{architecture: [1]}": "--recover.members: architecture must be text, not [1]; see",
        "{training: 3}": "--recover.members: training must be a mapping, not 3; see",
    }.items():
        with pytest.raises(AttarError) as error:
            with_settings(plain, ["--recover.members", "{}", word], "attar run mine")
        assert sentence in str(error.value)
