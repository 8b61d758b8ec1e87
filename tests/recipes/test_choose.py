"""Recipes for someone's own pictures, chosen from counts and sizes alone: no picture is read."""

from typing import Any

import pytest
from pydantic import ValidationError

from attar.core.errors import AttarError
from attar.data.survey import Survey
from attar.recipes import network_cost
from attar.recipes.choose import IPC, MINUTES, SIDES, Chosen, Wishes, choose
from attar.recipes.recipe import from_yaml


def found(*counts: int, **changes: Any) -> Survey:
    """A survey of classes with these numbers of colour pictures of 500 x 375 pixels, without a split."""
    said: dict[str, Any] = {
        "classes": tuple(f"bird{place}" for place in range(len(counts))),
        "counts": counts,
        "num_val": None,
        "sizes": ((500, 375), (300, 400), (500, 375)),
        "grey": False,
    }
    return Survey(**(said | changes))


def chosen(survey: Survey, **wishes: Any) -> Chosen:
    return choose("pictures/birds", survey, Wishes(**wishes))


def why(choice: Chosen, what: str) -> str:
    return next(f"{one.choice}: {one.why}" for one in choice.reasons if one.what == what)


CIFAR = found(*[5000] * 10, sizes=((32, 32),), num_val=10_000)


def test_cifar_gets_the_settings_of_the_recipe_that_was_measured():
    recipe = chosen(CIFAR, gpu=False).recipe
    assert (recipe.method, recipe.data.size, recipe.recover.ipc, recipe.recover.iterations) == ("attar", 32, 10, 100)
    assert [one.training.epochs for one in recipe.squeeze.each] == [6, 6, 1]
    assert recipe.squeeze.architecture == "convnet3_w64"
    assert recipe.evaluate.protocol.name == "attar-small"
    assert recipe.relabel.mode == "online"
    assert recipe.evaluate.protocol.training.epochs == recipe.relabel.epochs == 200


def test_bytes_of_real_pictures_are_those_of_their_own():
    few: dict[str, Any] = {"sizes": ((32, 32),), "num_val": 1000}
    reckoned = chosen(found(*[300] * 10, **few), size=32).made
    assert (reckoned.all_bytes, reckoned.labels) == (3000 * network_cost.picture_bytes(32), "soft")
    asked = list[tuple[int, str, int]]()

    def stored_bytes(*how: Any) -> float:
        asked.append(how)
        return 60.0

    measured = chosen(found(*[300] * 10, stored_bytes=stored_bytes, **few), size=32)
    assert asked == [(32, "webp", measured.recipe.recover.webp_quality)]
    assert measured.made.all_bytes == 3000 * network_cost.row_bytes(60)
    assert "all real pictures at this size take about 300 kB" in why(measured, "bytes")
    assert measured.made.labels == "hard"  # the teachers would take more


def test_digits_are_grey_never_mirrored_and_get_hard_labels():
    names = tuple("0123456789")
    choice = chosen(found(*[179] * 10, classes=names, sizes=((8, 8),), grey=True))
    recipe = choice.recipe
    assert (recipe.method, recipe.data.size, recipe.recover.grey) == ("dm", 8, True)
    assert {recipe.recover.flip, recipe.squeeze.views.flip, recipe.relabel.views.flip} == {False}
    assert {str(row) for row in recipe.evaluate.rows} == {"distilled-hard", "random-hard", "equal-bytes", "full"}
    assert "hard" in why(choice, "labels")
    assert recipe.relabel.mode == "none"  # no teacher beside the images that no budget counts


@pytest.mark.parametrize(
    ("classes", "mirrored"),
    [(("left hand", "right hand"), False), (("A", "b"), False), (("turn_left", "stop"), False), (("cat", "dog"), True)],
)
def test_class_names_tell_whether_pictures_may_be_mirrored(classes: tuple[str, ...], mirrored: bool):
    assert chosen(found(900, 900, classes=classes)).recipe.relabel.views.flip is mirrored


@pytest.mark.parametrize(
    ("size", "side", "network"),
    [((8, 8), 8, "convnet3_w64"), ((28, 28), 28, "convnet3_w64"), ((30, 41), 30, "convnet3_w64"),
     ((64, 64), 64, "convnet4_w64"), ((100, 640), 96, "convnet4_w64"), ((130, 130), 128, "convnet5_w64"),
     ((500, 375), 224, "resnet18")],
)  # fmt: skip
def test_the_network_suits_the_size_where_time_is_plenty(size: tuple[int, int], side: int, network: str):
    recipe = chosen(found(9000, 9000, sizes=(size,)), gpu=True, speed=1e18).recipe
    assert (recipe.data.size, recipe.squeeze.architecture, recipe.evaluate.students) == (side, network, (network,))


def test_small_pictures_of_many_sizes_get_one_that_most_of_them_have():
    assert chosen(found(90, 90, sizes=((21, 40), (26, 26), (31, 90)))).recipe.data.size == 24


def test_less_time_makes_images_smaller_and_says_so():
    survey = found(800, 800, 800)
    slow, fast = chosen(survey, speed=1e10), chosen(survey, speed=1e13)
    assert slow.recipe.data.size < fast.recipe.data.size
    sides = sorted(SIDES)
    larger = sides[sides.index(slow.recipe.data.size) + 1]  # the reason is the next size, not the largest
    assert f"; {larger} would take about" in why(slow, "input size")
    assert "would take" not in why(chosen(survey, size=64, speed=1e9), "input size")
    assert chosen(survey, size=64, speed=1e9).recipe.data.size == 64


def test_teachers_of_few_pictures_train_for_more_epochs():
    epochs = [chosen(found(count, count)).recipe.squeeze.training.epochs for count in (40, 1000, 30_000)]
    assert epochs[0] == 60 > epochs[1] > epochs[2] == 6


@pytest.mark.parametrize("ipc", [1, 3, 10, 50])
def test_students_take_about_as_many_steps_at_every_size_of_set(ipc: int):
    recipe = chosen(CIFAR, ipc=ipc).recipe
    training = recipe.evaluate.protocol.training
    steps = training.epochs * -(-10 * ipc // training.batch_size)
    assert 700 <= steps <= 900
    assert recipe.relabel.epochs == training.epochs
    assert recipe.recover.iterations == (1000 if ipc == 1 else 100)


def test_the_smallest_class_limits_the_images_per_class():
    choice = chosen(found(9, 300, 500))
    assert choice.recipe.recover.ipc == 7  # two of nine are held out
    assert "the smallest class has 7 training pictures" in why(choice, "images per class")
    assert chosen(found(9, 300, 500, num_val=50)).recipe.recover.ipc == 9
    assert "you asked for 20" in why(chosen(found(9, 300, 500), ipc=20), "images per class")


@pytest.mark.parametrize(("count", "ipc"), [(6, 1), (20, 3), (50, 8), (100, 10)])
def test_a_small_set_is_not_distilled_to_itself(count: int, ipc: int):
    choice = chosen(found(count, count))
    assert choice.recipe.recover.ipc == ipc
    assert ("the usual number" if ipc == IPC else "training pictures in the mean") in why(choice, "images per class")


def test_classes_with_hardly_any_picture_are_left_out_unless_they_are_asked_for():
    survey = found(4, 300, 500)
    choice = chosen(survey)
    assert choice.recipe.data.classes == ("bird1", "bird2")
    assert "bird0 (4)" in why(choice, "left out")
    assert chosen(survey, every_class=True).recipe.data.classes == ()
    with pytest.raises(AttarError, match="Only 1 of 2 classes have 5"):
        chosen(found(4, 300))


@pytest.mark.parametrize(("largest", "uneven"), [(299, False), (300, True)])
def test_uneven_classes_are_told(largest: int, uneven: bool):
    assert ("class mean" in why(chosen(found(30, largest)), "pictures")) is uneven


@pytest.mark.parametrize(("count", "holdout"), [(100, 0.2), (5000, 0.1)])
def test_more_of_a_small_set_is_held_out(count: int, holdout: float):
    assert chosen(found(count, count)).recipe.data.holdout == holdout


@pytest.mark.parametrize("budget", [50_000, 100_000, 1_000_000, 5_000_000, 50_000_000])
@pytest.mark.parametrize(
    "survey", [CIFAR, found(*[900] * 5), found(31, 47, 70, 500, sizes=((64, 64),))], ids=["cifar", "birds", "uneven"]
)
def test_a_budget_holds_images_and_labels(survey: Survey, budget: int):
    recipe = chosen(survey, budget=budget).recipe
    network = network_cost.network_for(recipe.data.size)
    num_classes, soft = len(survey.classes), bool(recipe.squeeze.members)
    teachers = 3 * network.stored_bytes(num_classes) if soft else 0
    largest = network_cost.image_bytes(recipe.data.size)
    if recipe.method == "random":
        largest = network_cost.picture_bytes(recipe.data.size)
    images = network_cost.set_bytes(recipe.recover.ipc * num_classes, largest, survey.classes)
    assert teachers + images <= budget


@pytest.mark.parametrize(
    ("survey", "size"),
    [
        (CIFAR, None),
        (found(*[80] * 10, num_val=200), 64),
        (found(*[100] * 10, sizes=((8, 8),)), None),
        (found(31, 47, 70, 106, 160, 240, 350, 500, sizes=((64, 64),)), 64),
    ],
    ids=["cifar", "photographs", "digits", "uneven"],
)
def test_the_choice_is_monotone_from_one_image_per_class_to_all_pictures(survey: Survey, size: int | None):
    all_bytes = chosen(survey, size=size).made.all_bytes
    made = list[tuple[int, int]]()
    for budget in (round(all_bytes * 1.25**step) for step in range(-40, 8)):
        try:
            choice = chosen(survey, budget=budget, size=size)
        except AttarError:
            assert not made  # only the smallest budgets hold nothing
            continue
        one = choice.made
        assert choice.recipe.budget_bytes == budget
        distilled = choice.recipe.method != "random"
        if distilled and one.ipc > 1:  # a set that is distilled takes fewer bytes than most of the pictures
            assert one.num_bytes <= all_bytes / 2
        assert one.num_bytes <= budget
        kind = 2 if not distilled else 1 if one.labels == "soft" else 0
        assert bool(choice.warnings) == (budget > all_bytes or not distilled)
        made.append((kind, one.ipc))
    assert [kind for kind, _ in made] == sorted(kind for kind, _ in made)  # hard labels, soft ones, real pictures
    for kind in range(3):
        sizes = [ipc for each, ipc in made if each == kind]
        assert sizes == sorted(sizes)
    assert made[-1][0] == (1 if min(survey.counts) < max(survey.counts) else 2)


def test_real_pictures_are_kept_where_the_budget_holds_most_of_them():
    survey = found(*[80] * 10, num_val=200)
    some, every = (chosen(survey, size=64, budget=budget) for budget in (1_300_000, 9_000_000))
    assert (some.recipe.method, every.recipe.method) == ("random", "random")
    assert 40 <= some.recipe.recover.ipc < 80 == every.recipe.recover.ipc
    assert f"1.3 MB hold {some.made.num_images} of the 800 training pictures at 64 pixels" in some.warnings[0]
    assert "9 MB hold all 800 training pictures" in every.warnings[0]
    assert "add --ipc with the number of images per class" in every.warnings[0]
    assert [str(row) for row in every.recipe.evaluate.rows] == ["distilled-hard", "full"]  # the rest are the same
    assert "real pictures as they are" in why(some, "method")
    assert chosen(survey, size=64, budget=1_300_000, ipc=9).recipe.method == "dm"


def test_real_pictures_that_are_asked_for_fill_any_budget():
    survey = found(*[80] * 10, num_val=200)
    few, some = (chosen(survey, size=64, budget=budget, real=True) for budget in (200_000, 1_300_000))
    assert (few.recipe.method, few.made.labels) == ("random", "hard")
    assert 0.8 * 200_000 < few.made.num_images * few.made.picture_bytes < 200_000
    assert some.recipe == chosen(survey, size=64, budget=1_300_000).recipe
    assert (why(few, "method"), few.warnings, some.warnings) == ("random: as you asked", (), ())
    assert chosen(survey, size=64, budget=200_000, real=True, ipc=3).recipe.recover.ipc == 3
    assert few.made.ipc > chosen(survey, size=64, budget=200_000).made.ipc  # whose bytes are reckoned as of noise


def test_a_distilled_set_of_uneven_classes_takes_half_of_the_pictures_bytes_at_most():
    survey = found(90, 90, 600, sizes=((64, 64),), num_val=50)
    made = [chosen(survey, size=64, budget=budget) for budget in (1_000_000, 1_400_000)]
    assert made[0].recipe.recover.ipc == made[1].recipe.recover.ipc < 90
    assert "half of all real pictures' bytes" in why(made[1], "images per class")


def test_labels_are_chosen_at_the_size_that_is_made():
    survey = found(*[30] * 40, sizes=((64, 64),))
    choice = chosen(survey, size=64)
    assert (choice.made.labels, choice.made.ipc) == ("soft", 4)  # of ten per class they would take too much
    assert chosen(survey, size=64, ipc=10).made.labels == "hard"


def test_more_bytes_bring_more_images_and_at_last_labels_by_teachers():
    made = [chosen(CIFAR, budget=budget).recipe for budget in (100_000, 300_000, 2_000_000, 8_000_000)]
    assert [len(recipe.squeeze.members) for recipe in made] == [0, 0, 3, 3]
    assert chosen(CIFAR, budget=30_000).recipe.method == "dm"  # one image per class
    assert {recipe.method for recipe in made} == {"attar"}
    assert made[0].recover.ipc < made[1].recover.ipc
    assert made[2].recover.ipc < made[3].recover.ipc


def test_own_teachers_label_and_their_bytes_count():
    few = found(*[300] * 10, sizes=((32, 32),), num_val=1000)
    mine = chosen(few, size=32, own_teachers=(11_000_000,))
    assert (mine.made.labels, mine.recipe.method, mine.recipe.squeeze.members) == ("soft", "attar", ())
    assert why(mine, "teacher") == "1 of your own: moves the images and labels"
    assert why(mine, "labels").startswith("soft: made by your own teacher while students train; stored with the images")
    assert why(mine, "time").startswith("not known")
    assert mine.made.num_bytes > 11_000_000
    assert "or use a smaller teacher: your own teacher takes most of it" in mine.warnings[0]
    budgeted = chosen(few, size=32, own_teachers=(11_000_000,), budget=500_000)
    assert budgeted.made.labels == "hard"
    assert why(budgeted, "labels") == "hard: labels by your own teacher would take 11 MB, and a set may take 500 kB"
    assert why(budgeted, "teacher") == "1 of your own: shows what all real pictures are worth"
    named = chosen(few, size=32, teacher_bytes=11_000_000)
    assert why(named, "labels").startswith(
        "hard: labels by three teachers would take 33 MB, and all real pictures only"
    )
    usual = chosen(few, size=32, own_teachers=(0, 0))
    assert usual.made.teacher_bytes == 2 * usual.made.network.stored_bytes(10)
    assert why(usual, "teachers") == "2 of your own: the first moves the images and labels"
    assert why(usual, "time").startswith("about")


def test_a_budget_that_holds_nothing_is_refused_with_the_least():
    with pytest.raises(AttarError, match=r"5 kB hold no image of each of 10 classes; the least is about .* kB"):
        chosen(CIFAR, budget=5000)


def test_a_warning_says_when_all_real_pictures_fit():
    assert "hold all 144 training pictures" in chosen(found(60, 60, 60), budget=5_000_000).warnings[0]
    assert not chosen(CIFAR, budget=5_000_000).warnings


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"budget": 2_000_000, "ipc": 3}, "--ipc 3 leaves a part of --budget unused: 2 MB would hold "),
        ({"budget": 200_000, "ipc": 30}, "--ipc 30 exceeds --budget: 200 kB hold "),
        ({"ipc": 6000}, "you asked for 6000 images per class, and 5000 are made, because the smallest class"),
        ({"budget": 2_000_000}, ""),
        ({"ipc": 10}, ""),
    ],
)
def test_a_warning_says_where_images_budget_and_pictures_do_not_agree(wishes: dict[str, int], words: str):
    told = chosen(CIFAR, **wishes).warnings
    assert told[0].startswith(words) if words else not told


def test_a_number_that_is_cut_to_all_pictures_brings_both_warnings():
    asked, every = chosen(found(10, 10), ipc=50).warnings
    assert "you asked for 50 images per class, and 8 are made" in asked
    assert "all 16 training pictures at " in every
    assert "take no more than this set" in every


def test_labels_by_teachers_are_not_chosen_where_their_bytes_hold_most_pictures():
    assert chosen(found(100, 100)).recipe.method == "dm"
    assert chosen(found(20_000, 20_000)).recipe.method == "attar"


def test_labels_by_teachers_may_take_more_where_no_bytes_are_asked_for():
    survey = found(31, 47, 70, 106, 160, 240, 350, 500, sizes=((64, 64),))
    assert len(chosen(survey, size=32).recipe.squeeze.members) == 3
    assert chosen(survey, size=32, budget=400_000).recipe.squeeze.members == ()


def test_the_reasons_are_a_comment_in_the_file_and_the_file_is_the_recipe(tmp_path):
    choice = chosen(found(31, 47, 70, 500))
    path = tmp_path / "chosen.yaml"
    path.write_text(choice.recipe.to_yaml(choice.header()))
    assert from_yaml(path).plain() == choice.recipe.plain()
    assert "# input size: " in path.read_text()
    assert all(one.what and one.choice and one.why for one in choice.reasons)


@pytest.mark.parametrize("counts", [(5, 5), (31, 800, 60), (1,) * 50 + (500,) * 3, (700,) * 200, (100_000,) * 1000])
@pytest.mark.parametrize("gpu", [True, False])
def test_every_choice_is_a_valid_recipe(counts: tuple[int, ...], gpu: bool):
    try:
        recipe = chosen(found(*counts), gpu=gpu, speed=1e13 if gpu else 4e10).recipe
    except ValidationError as error:
        pytest.fail(str(error))
    assert recipe.recover.ipc <= IPC
    assert recipe.data.size >= 32
    assert MINUTES
