import itertools
from typing import Annotated, Literal

import pydantic
import pytest

from attar.core import raw_yaml
from attar.core.config import Config


class Inner(Config):
    names: tuple[str, ...] = ()
    mode: Literal["auto", "on", "off"] = "auto"
    rate: float = 0.1
    flip: bool = True
    size: int | None = 3
    either: bool | Literal["auto", "on"] = False
    word: Annotated[str, pydantic.Field(min_length=1)] = "x"
    pair: tuple[float, float] = (0.0, 1.0)


class Outer(Config):
    inner: Inner = Inner()
    other: Inner = Inner()


def read(text: str) -> Inner:
    return Outer.of(raw_yaml.convert(raw_yaml.load(text), Outer), "the test").inner


def test_class_names_stay_as_they_are_written() -> None:
    names = "no, yes, On, 3, 007, 0x1F, 1_000, 1e3, 1.50, 2024-01-01, 2024-13-45, 12:30, null, ~, 'a b', true"
    expected = tuple(name.strip("'") for name in names.split(", "))
    assert read(f"inner: {{names: [{names}]}}").names == expected


def test_other_fields_are_what_yaml_means() -> None:
    found = read("inner: {rate: 1, flip: no, size: null, pair: [0, 2.5], either: yes, mode: off, word: 5}")
    assert (found.rate, found.flip, found.size, found.pair, found.either) == (1.0, False, None, (0.0, 2.5), True)
    assert (found.mode, found.word) == ("off", "5")
    assert read("inner: {either: on}").either is True
    assert read("other: &base {flip: no, mode: on}\ninner: {<<: *base, mode: off}") == Inner(flip=False, mode="off")


def test_plain_values_have_no_trace_of_it() -> None:
    assert raw_yaml.plain(raw_yaml.load("{no: [1, {a: null}], b: 'no', 3: x}")) == {
        "no": [1, {"a": None}],
        "b": "no",
        "3": "x",
    }


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: !!python/name:os.system"])
def test_tags_of_python_are_refused(text: str) -> None:
    with pytest.raises(raw_yaml.yaml.YAMLError):
        raw_yaml.load(text)


def nested_aliases(depth: int) -> str:
    """Nine values of the line before in every line: 9 to the power of ``depth`` in all."""
    names = [f"n{number}" for number in range(depth)]
    first = f"n0: &n0 [{', '.join('x' * 9)}]"
    return "\n".join([first, *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(names))])


def test_aliases_are_read() -> None:
    assert raw_yaml.plain(raw_yaml.load(nested_aliases(2)))["n1"] == [["x"] * 9] * 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (nested_aliases(12), "its aliases stand for more than 1,000,000 values"),
        ("a: &a [*a]", "an alias stands for itself"),
        ("[" * 1000, "nested too deeply"),
    ],
)
def test_text_that_would_fill_the_memory_is_refused(text: str, words: str) -> None:
    with pytest.raises(raw_yaml.yaml.YAMLError, match=words):
        raw_yaml.load(text)
