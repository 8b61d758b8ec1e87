import pytest

from attar.data import splits


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"), ("TRAIN", "train"), ("trainSet", "train"), ("seg_train", "train"), ("Training", "training"),
        ("imagenet21k_train", "train"), ("imagenet21k_val", "val"), ("val2017", "val"), ("test-images", "test"),
        ("Trainset", "trainset"), ("tst", "tst"), ("Evaluation set", "evaluation"), ("birds_train", ""),
        ("train_v2", "train"), ("trainer", ""), ("test_tube", ""), ("train_test", ""), ("TrainStation", ""), ("", ""),
    ],
)  # fmt: skip
def test_roles(name: str, role: str) -> None:
    assert splits.role(name) == role


def test_the_plainest_name_and_the_best_split_come_first() -> None:
    assert splits.training(["train_images", "Train", "train", "cat"]) == ["train", "Train", "train_images"]
    assert splits.validation(["test", "valid", "Val", "val_images"]) == ["Val", "val_images", "valid", "test"]


def test_names_that_differ_in_the_split_only_are_splits() -> None:
    names = ["birds_train", "birds_test", "readme"]
    assert (splits.training(names), splits.validation(names)) == (["birds_train"], ["birds_test"])
    assert splits.is_test("birds_test")
    assert splits.training(["train_station", "test_tube"]) == []
    assert splits.training(["birds_train", "cars_test"]) == []
    assert splits.training(["birds_train", "train", "birds_test"]) == ["train"]
