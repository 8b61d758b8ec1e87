"""models/class_names.py: names of outputs as trainers leave them."""

from types import SimpleNamespace
from typing import Any

import pytest

from attar.models.class_names import are_numbers, in_content, in_terms_of, of_module

NAMED: list[tuple[dict[str, Any], tuple[str, ...] | None]] = [
    ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
    ({"class_to_idx": {"0": 0, "1": 1, "2": 3, "10": 2}}, ("0", "1", "10", "2")),  # both sides may be read as indices
    ({"idx_to_class": {1: "dog", 0: "cat"}}, ("cat", "dog")),
    ({"id2label": {"1": "0", "0": "1"}}, ("1", "0")),
    ({"label2id": {"dog": 1, "cat": 0}}, ("cat", "dog")),
    ({"classes": ["cat", "dog"]}, ("cat", "dog")),
    ({"classes": {0: "cat", 1: "dog"}}, ("cat", "dog")),
    ({"classes": [3, 1, 2]}, ("3", "1", "2")),
    ({"hyper_parameters": {"class_names": ("cat", "dog")}}, ("cat", "dog")),
    ({"meta": {"categories": ["cat", "dog"]}}, ("cat", "dog")),
    ({"classes": 10}, None),
    ({"classes": ["cat", "cat"]}, None),
    ({"classes": ["cat", 0.5]}, None),
    ({"classes": []}, None),
    ({"class_to_idx": {"cat": 0, "dog": 2}}, None),
    ({"class_to_idx": {"cat": True}}, None),
    ({"epoch": 3}, None),
]


@pytest.mark.parametrize(("content", "names"), NAMED)
def test_checkpoints(content: dict[str, Any], names: tuple[str, ...] | None):
    assert in_content(content) == names


def test_modules():
    assert of_module(SimpleNamespace(classes=["cat", "dog"])) == ("cat", "dog")
    assert of_module(SimpleNamespace(config=SimpleNamespace(id2label={0: "cat", 1: "dog"}))) == ("cat", "dog")
    assert of_module(SimpleNamespace(classes=len)) is None


def test_names_are_told_in_the_datas_words():
    titles = {"n1": "great white shark", "n2": "house-cat"}
    assert in_terms_of(("b", "a"), ("a", "b"), {}) == ("b", "a")
    assert in_terms_of(("Great White", "B"), ("b", "great_white"), {}) == ("great_white", "b")
    assert in_terms_of(("House cat", "Great_White_Shark", "dog"), ("n1", "n2"), titles) == ("n2", "n1", "dog")
    assert in_terms_of(("cat", "dog"), ("n1", "n2"), titles) == ("cat", "dog")
    assert in_terms_of(("A", "a"), ("a", "b"), {}) == ("A", "a")


def test_numbers_say_nothing():
    assert are_numbers(("0", "1", "2"))
    assert are_numbers(("LABEL_0", "LABEL_1"))
    assert not are_numbers(("0", "2", "1"))
