import pydantic
import pytest

from attar.core.config import Config, differences, digest, field_paths, pruned
from attar.core.errors import AttarError


class Inner(Config):
    depth: int = pydantic.Field(default=1, ge=1)


class Outer(Config):
    name: str = "x"
    inner: Inner = Inner()


def test_unknown_key_names_the_file_the_key_and_the_nearest():
    with pytest.raises(AttarError, match=r"mine.yaml has the unknown key 'inner.dept'; did you mean 'inner.depth'\?"):
        Outer.of({"inner": {"dept": 2}}, "mine.yaml")


def test_unfit_value_names_the_key_and_the_value():
    with pytest.raises(AttarError, match=r"mine.yaml: inner.depth: .*greater than or equal to 1 \(it is 0\)"):
        Outer.of({"inner": {"depth": 0}}, "mine.yaml")


def test_missing_key_is_named():
    class Needy(Config):
        must: int

    with pytest.raises(AttarError, match="lacks the key 'must'"):
        Needy.of({}, "mine.yaml")


def test_changed_validates_and_leaves_the_original():
    outer = Outer()
    assert outer.changed(inner=Inner(depth=3)).inner.depth == 3
    assert outer.inner.depth == 1
    with pytest.raises(pydantic.ValidationError):
        outer.changed(name=3)


def test_plain_values_make_the_same_config_again():
    outer = Outer(name="y", inner=Inner(depth=4))
    assert Outer.of(outer.plain(), "there") == outer


def test_digest_ignores_order_and_sees_values():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_what_is_no_choice_any_more_does_not_differ():
    assert pruned({"a": {"b": 1, "gone": 2}, "c": [1]}, {"a": {"b": 3}, "c": [2], "new": 1}) == {
        "a": {"b": 1},
        "c": [1],
    }
    assert pruned({"a": {"b": 1}}, {"a": None}) == {"a": {"b": 1}}


def test_differences_name_leaves():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c 2 -> 3"]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences({"a": 1}, {}) == ["a 1 -> null"]


def test_field_paths_reach_inside():
    assert set(field_paths(Outer)) == {"name", "inner", "inner.depth"}
