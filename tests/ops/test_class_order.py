"""ops/class_order.py: outputs in another order are found, and chance is not."""

import numpy as np
import pytest

from attar.ops.class_order import another_order

LABELS = np.arange(240) % 12


def predictions(order: list[int], accuracy: float) -> np.ndarray:
    """Of a network whose output ``order[label]`` stands for ``label``, with a seeded share of wrong ones."""
    rng = np.random.default_rng(0)
    right = np.array(order)[LABELS]
    return np.where(rng.random(len(LABELS)) < accuracy, right, rng.integers(0, 12, len(LABELS)))


NUMERIC = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("accuracy", [1.0, 0.8, 0.5])
def test_numbers_sorted_as_text_are_found(accuracy: float):
    found = another_order(predictions(NUMERIC, accuracy), LABELS, 12)
    assert found is not None
    assert [found.labels[output] for output in NUMERIC] == list(range(12))
    assert found.before < 0.3 < accuracy - 0.1 < found.accuracy


def test_two_classes_swapped_are_found():
    swapped = [1, 0, *range(2, 12)]
    found = another_order(predictions(swapped, 1.0), LABELS, 12)
    assert found is not None
    assert list(found.labels) == swapped


@pytest.mark.parametrize("accuracy", [1.0, 0.6, 0.3, 0.0])
def test_the_right_order_stays(accuracy: float):
    assert another_order(predictions(list(range(12)), accuracy), LABELS, 12) is None


@pytest.mark.parametrize("kind", ["one output", "few outputs", "chance"])
def test_a_network_that_knows_nothing_has_no_order(kind: str):
    rng = np.random.default_rng(1)
    few = np.array([3, 7])[(LABELS < 6).astype(int)]  # tells two groups of classes apart, as untrained networks may
    guessed = {"one output": np.full(240, 5), "few outputs": few, "chance": rng.integers(0, 12, 240)}[kind]
    assert another_order(guessed, LABELS, 12) is None


def test_one_image_a_class_is_too_few_to_tell():
    assert another_order(np.array([1, 2, 0]), np.array([0, 1, 2]), 3) is None


def test_every_output_gets_one_label():
    found = another_order(np.where(LABELS < 10, (LABELS + 1) % 10, 10), LABELS, 12)  # 11 is never predicted
    assert found is not None
    assert sorted(found.labels) == list(range(12))
    assert found.labels[:10] == (9, 0, 1, 2, 3, 4, 5, 6, 7, 8)
