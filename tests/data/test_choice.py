import pytest

from attar.core.errors import AttarError
from attar.data.choice import DataChoice


def test_defaults_are_the_digits() -> None:
    choice = DataChoice()
    assert (choice.source, choice.size, choice.on_corrupt, choice.resident) == ("digits", 32, "stop", "auto")
    assert DataChoice.of(choice.plain(), "a manifest") == choice


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 3}, "size must be greater than or equal to 4"),
        ({"size": 224, "resize": 200}, "resize (200) is less than size (224); make it 224 or more"),
        ({"classes": ("a", "b"), "num_classes": 2}, "classes and num_classes cannot be combined"),
        ({"classes": ("a", "b", "a")}, "classes names a class twice"),
        ({"num_classes": 1}, "num_classes must be greater than or equal to 2"),
        ({"holdout": 0}, "holdout must be greater than 0"),
        ({"holdout": 1}, "holdout must be less than 1"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std must be set together"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.0, 0.2)}, "std.1 must be greater than 0"),
        ({"on_corrupt": "ignore"}, "on_corrupt must be 'stop' or 'skip'"),
        ({"sizes": 32}, "unknown key 'sizes'; did you mean 'size'?"),
    ],
)
def test_refusals(values: dict, message: str) -> None:
    with pytest.raises(AttarError) as error:
        DataChoice.of(values, "mine.yaml")
    assert str(error.value).startswith("mine.yaml")
    assert message in str(error.value)
