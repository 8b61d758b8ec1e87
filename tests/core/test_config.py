from typing import Annotated, ClassVar, Literal

import pydantic
import pytest

from attar.core.config import BY_CONTENT, NO_EFFECT, Config, differences, digest, field_paths, pruned
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
    with pytest.raises(AttarError, match=r"mine.yaml: inner.depth must be greater than or equal to 1, not 0"):
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


class Storage(Config):
    kind: Literal["small", "large"] = "small"
    depth: int = 3

    def idle(self) -> dict[str, str]:
        return {"depth": "--kind large"} if self.kind == "small" else {}


class Work(Config):
    steps: int = 10
    verifier: Annotated[str, NO_EFFECT] = ""
    sources: Annotated[tuple[str, ...], BY_CONTENT] = ()
    storage: Storage = Storage(kind="large", depth=5)
    must: str


def test_an_identity_holds_what_differs_from_the_defaults():
    assert Work(must="x").identity() == {"must": "x"}
    assert Work(must="x", steps=9, verifier="v").identity() == {"must": "x", "steps": 9}
    assert Work(must="x", storage=Storage()).identity() == {"must": "x", "storage": {}}
    assert Work(must="x", storage=Storage(depth=8)).identity() == {"must": "x", "storage": {}}
    recorded = {"steps": 10, "sources": 0, "storage": {"kind": "large", "depth": 5}, "must": "x"}
    assert Work(must="x", verifier="v").recorded() == recorded


def test_of_paths_their_number_alone_is_identity():
    assert Work(must="x", sources=("/a", "/b")).identity() == Work(must="x", sources=("/c", "/d")).identity()
    assert Work(must="x", sources=("/a", "/b")).unlike(Work(must="x").recorded()) == ["sources 0 -> 2"]


class Newer(Work):
    blocks: int = 1


class Raised(Work):
    revision: ClassVar[int] = 2
    steps: int = 20


class Holder(Config):
    work: Work = Work(must="x")


class RaisedHolder(Config):
    work: Raised = Raised(must="x")


def test_a_newer_field_at_its_default_is_no_other_work():
    made = Work(must="x", steps=9)
    assert Newer(must="x", steps=9).identity() == made.identity()
    assert Newer(must="x", steps=9).unlike(made.recorded()) == []
    assert Newer(must="x", steps=9, blocks=2).unlike(made.recorded(), "recover") == ["recover.blocks 1 -> 2"]


def test_a_changed_default_with_a_raised_revision_is_other_work():
    made = Work(must="x")
    assert Raised(must="x").identity() == {"must": "x", "revision": 2}
    assert Raised(must="x").unlike(made.recorded(), "a") == ["the defaults of a changed", "a.steps 10 -> 20"]
    assert Raised(must="x").unlike(Raised(must="x").recorded()) == []
    assert RaisedHolder().identity() != Holder().identity() == {}, "inside another configuration, too"


def test_a_setting_that_no_longer_exists_matters_where_it_was_not_at_its_default():
    was = Newer(must="x")
    assert Work(must="x").unlike(was.recorded()) == Work(must="x").gone(was.identity()) == []
    departed = Newer(must="x", blocks=2).identity()
    assert Work(must="x").gone(departed, "recover") == ["recover.blocks 2, which no longer exists"]


def test_idle_fields_and_those_without_effect_do_not_differ():
    made = {"storage": {"kind": "small", "depth": 4}, "verifier": "a", "must": "x"}
    assert Work(must="x", storage=Storage(depth=9), verifier="b").unlike(made) == []
    assert Work(must="x").unlike(made) == ['storage.kind "small" -> "large"', "storage.depth 4 -> 5"]


def test_a_renamed_field_is_read_under_its_former_name():
    class Renamed(Config):
        rounds: int = 10

        @classmethod
        def upgraded(cls, made):
            return {"rounds" if name == "steps" else name: value for name, value in made.items()}

    assert Renamed(rounds=9).unlike({"steps": 9}) == Renamed(rounds=9).gone({"steps": 9}) == []
    assert Renamed().unlike({"steps": 9}) == ["rounds 9 -> 10"]
    assert Renamed().as_made({"steps": 9}, "there").rounds == 9


def test_choices_as_a_manifest_holds_them():
    here = Newer(must="x", steps=3, blocks=4, verifier="mine", sources=("/here",))
    made = Work(must="y", steps=9, verifier="theirs", sources=("/there",), storage=Storage(kind="large", depth=7))
    found = here.as_made(made.recorded(), "the manifest")
    assert found == Newer(must="y", steps=9, verifier="mine", sources=("/here",), storage=made.storage)


def test_only_what_was_said_counts_as_set():
    assert Work(must="x").changed(steps=9).model_fields_set == {"must", "steps"}
    assert Work(must="x", steps=9).with_set({"must"}).changed(verifier="v").model_fields_set == {"must", "verifier"}
    assert Work(must="x", steps=9).with_set(set()) == Work(must="x", steps=9)
