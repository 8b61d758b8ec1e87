"""Published figures of the recipes: which there are, and how they are said."""

import re
from pathlib import Path

import pytest

from attar.data.named import has_classes_of
from attar.models.build import locate
from attar.recipes.catalogue import ENTRIES, published_beside, recipe_named
from attar.recipes.published import Published, note, row

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
UNKNOWN = "a ConvNet"
"""DWA's ConvNet; which one it is, was not at hand."""


def test_every_recipe_has_figures_or_says_that_there_are_none():
    for name, entry in ENTRIES.items():
        figures = entry.published.figures
        assert figures or re.search(r"\bno (published )?row\b", entry.aim), name
        assert len({(one.student, one.labels, one.said) for one in figures}) == len(figures), name
        for one in figures:
            assert 0 < one.top1 < 100, name
            assert one.source.startswith("arXiv 2"), name
            assert f"{one.top1:.1f}" in entry.aim, name


def test_figures_name_students_as_attar_does():
    for student in {one.student for entry in ENTRIES.values() for one in entry.published.figures} - {UNKNOWN}:
        locate(student.removeprefix("timm/"))


def test_the_table_in_the_documentation_has_the_same_figures():
    compared = 0
    for line in DOCS.read_text().splitlines():
        found = re.match(r"\| `([\w+]+/[\w-]+)-ipc\{([\d,]+)\}", line)
        shown = re.findall(r"\d+\.\d", line.split("|")[-2]) if found else []
        if found and shown:
            recipes = [f"{found[1]}-ipc{ipc}" for ipc in found[2].split(",")]
            assert shown == [str(ENTRIES[name].published.figures[0].top1) for name in recipes], line
            compared += len(recipes)
    assert compared > 100


@pytest.mark.parametrize(
    ("published", "said"),
    [
        (row("a", 48.7, 49.7), "48.7 / 49.7 % with ResNet-18 / 50"),
        (row("a", (41.1, 0.4), 42.0), "41.1 ± 0.4 / 42.0 % with ResNet-18 / 50"),
        (row("a", 53.5, 46.5, students=("resnet18", "convnet3")), "53.5 % with ResNet-18, 46.5 % with ConvNetW128"),
        (row("a", 66.2) + row("a", 51.6, labels="hard"), "66.2 % with ResNet-18; 51.6 % with hard labels"),
        (row("a", 26.0, students=("convnet3_in",), labels="hard"), "26.0 % with a ConvNet and hard labels"),
        (row("a", 38.4, label_bytes=11_000_000), "38.4 % with ResNet-18 and 11 MB of labels"),
        (row("a", 67.4) + row("b", 64.7, said="as rerun") + note("x"), "67.4 % with ResNet-18; 64.7 %, as rerun; x"),
        (note("no published row"), "no published row"),
    ],
)
def test_figures_are_said_in_words(published: Published, said: str):
    assert str(published) == said


def test_a_recipe_as_it_is_has_its_figures():
    found = published_beside(recipe_named("cda/tiny-imagenet-ipc50"))
    assert found is not None
    assert (found.recipe, found.changed) == ("cda/tiny-imagenet-ipc50", ())
    figure = found.of("timm/resnet18", "soft")
    assert figure is not None
    assert (figure.top1, found.of("resnet18", "hard"), found.of("vgg11", "soft")) == (48.7, None, None)
    assert published_beside(recipe_named("digits")) is None
    assert published_beside(recipe_named("digits").changed(name="mine")) is None


def test_another_set_has_no_figures():
    recipe = recipe_named("dm/cifar10-ipc10")
    for other in (
        recipe.changed(recover=recipe.recover.changed(ipc=11)),
        recipe.changed(data=recipe.data.changed(source="pictures")),
        recipe.changed(data=recipe.data.changed(num_classes=5)),
        recipe.changed(images="folder"),
        recipe.with_method("random"),
    ):
        assert published_beside(other) is None


def test_the_same_data_from_another_place_has_figures():
    recipe = recipe_named("dm/cifar10-ipc10")
    moved = recipe.changed(data=recipe.data.changed(source="hf:org/cifar"))
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found = published_beside(moved, classes)
    assert found is not None
    assert found.changed == ()
    assert published_beside(moved, [*classes[:9], "sofa"]) is None
    several = recipe_named("edc/cifar10-ipc10")
    numbered = several.relabel.committee.changed(members=tuple(range(len(several.squeeze.each))))  # as a run records it
    found = published_beside(several.changed(relabel=several.relabel.changed(committee=numbered)))
    assert found is not None
    assert found.changed == ()
    assert has_classes_of("imagenet-1k", [f"n{number:08}" for number in range(1000)])
    assert not has_classes_of("tiny-imagenet", [f"n{number:08}" for number in range(1000)])


def test_changed_settings_are_named_if_they_can_change_the_scores():
    recipe = recipe_named("dm/cifar10-ipc10")
    seeds = recipe.evaluate.changed(num_seeds=1, students=("convnet3_in", "resnet18"))
    untouched = recipe.changed(seed=3, evaluate=seeds, squeeze=recipe.squeeze.changed(architecture="resnet18"))
    shorter = untouched.changed(recover=recipe.recover.changed(iterations=600, real_batch=32))
    assert [found and found.changed for found in map(published_beside, (untouched, shorter))] == [
        (),
        ("recover.iterations 20000 -> 600", "recover.real_batch 256 -> 32"),
    ]
    matched, taught = recipe_named("mtt/cifar10-ipc50"), recipe_named("cda/tiny-imagenet-ipc50")
    experts = matched.squeeze.changed(experts=matched.squeeze.experts.changed(number=2), architecture="resnet18")
    training = taught.squeeze.changed(training=taught.squeeze.training.changed(epochs=9))
    found = published_beside(matched.changed(squeeze=experts)), published_beside(taught.changed(squeeze=training))
    assert [one and one.changed for one in found] == [
        ("squeeze.experts.number 100 -> 2",),
        ("squeeze.training.epochs 50 -> 9",),
    ]


def test_runs_of_hard_labels_keep_their_figures_as_earlier_versions_made_them():
    recipe = recipe_named("dm/cifar10-ipc10")
    found = published_beside(recipe.changed(relabel=recipe.relabel.changed(mode="online", teacher_precision="int8")))
    assert found is not None
    assert not found.changed  # teachers beside the images change no score of hard labels
