"""Stored images that hold several: labels say which part is shown, and students see the parts that the teacher saw."""

from pathlib import Path

import pytest
import torch
from tests.conftest import edit_json, mini_recipe

from attar import pipeline
from attar.core.errors import AttarError
from attar.exchange import ddranking, fkd_files
from attar.models import teacher as teachers
from attar.ops import mosaic
from attar.ops.choices import LookChoice, Storage
from attar.ops.pixels import from_bytes
from attar.recipes.recipe import Recipe
from attar.report import card
from attar.stages.dataset_info import read_info
from attar.stages.distilled import Distilled
from attar.stages.folder import MANIFEST
from attar.store import sealed
from attar.store.labels import record_bytes

STORAGE = Storage(factor=2, enlarge="nearest")


@pytest.fixture
def no_pictures() -> None:
    """Here they are drawn."""


def as_mosaics(run: Path) -> Path:
    """The same recovered images, said to hold four each."""
    manifest = run / "recover" / MANIFEST
    result = sealed.read_json(manifest, "")["result"]
    edit_json(manifest, result=result | {"storage": STORAGE.plain()})
    return run


def labelled(**values: object) -> Recipe:
    recipe = mini_recipe()
    plain = LookChoice(crop="none", flip=False)
    return recipe.changed(relabel=recipe.relabel.changed(**{"views": plain, "mix": {"kind": "none"}} | values))


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_students_see_the_parts_that_their_labels_are_of(recovered: Path, mode: str):
    recipe = labelled(mode=mode)
    pipeline.run(recipe, as_mosaics(recovered), stage="relabel", quiet=True)
    distilled = Distilled(recovered / "distilled")
    assert distilled.info.storage == STORAGE
    decoded = mosaic.decoded(distilled.images, STORAGE).unflatten(0, (20, 4))
    every = torch.cat([from_bytes(distilled.images)[:, None], decoded], 1)
    numbers = set()
    for epoch in range(3):
        for images, targets in distilled.views(epoch, 7, "cpu", seed=0):
            alike = (images[:, None, None] == every).all((3, 4, 5))  # of which stored images, and which of their parts
            assert alike.any((1, 2)).all()
            numbers |= {int(part) for _, _, part in alike.nonzero()}
            assert targets.logits is not None
    assert numbers == {0, 1, 2, 3, 4}
    if distilled.stored is not None:
        one = distilled.stored.header.record_bytes
        plain = record_bytes(10, recipe.relabel.codec, recipe.relabel.views, recipe.relabel.mix)
        assert one == plain + 1


def test_labels_are_the_teachers_answers_to_the_parts(recovered: Path):
    recipe = labelled(views=LookChoice(crop="none", flip=False, dsa=("colour", "crop"), dsa_combine="one"))
    pipeline.run(recipe, as_mosaics(recovered), stage="relabel", quiet=True)
    teacher, distilled = teachers.load(recovered / "squeeze"), Distilled(recovered / "distilled")
    with torch.inference_mode():
        for images, targets in distilled.views(1, 6, "cpu", seed=3):
            assert targets.logits is not None
            torch.testing.assert_close(teacher.logits(images), targets.logits.float(), atol=0.02, rtol=0.01)


def test_exporters_refuse_what_their_layouts_cannot_say(recovered: Path, tmp_path: Path):
    pipeline.run(labelled(), as_mosaics(recovered), stage="relabel", quiet=True)
    with pytest.raises(AttarError, match="cannot store several images in one"):
        fkd_files.export(recovered, tmp_path / "fkd")
    with pytest.raises(AttarError, match="Each stored image of .* holds 4 images, which DD-Ranking cannot decode"):
        ddranking.export(recovered, tmp_path / "dd")
    assert "Each stored image holds 2 x 2 images" in card.text(read_info(recovered / "distilled"), [])


def cim_recipe(**values: object) -> Recipe:
    """The small digits recipe with mosaics, and rows enough to compare them."""
    recipe = mini_recipe().with_method("cim")
    settings = {"iterations": 3, "learning_rate": 0.01, "dsa": ("crop", "cutout")}
    protocol = recipe.evaluate.protocol
    return recipe.changed(
        recover=recipe.recover.changed(**settings | values),
        relabel=recipe.relabel.changed(epochs=1),
        evaluate=recipe.evaluate.changed(
            rows=("distilled", "distilled-hard", "distilled-noaug", "random-soft"),
            num_seeds=1,
            protocol=protocol.changed(training=protocol.training.changed(epochs=1)),
        ),
    )


def test_a_run_with_mosaics_is_made_labelled_judged_and_reported(squeezed: Path):
    lines = pipeline.run(cim_recipe(), squeezed, quiet=True).table
    assert {line.row: line.num_images for line in lines} == {
        "distilled": 20, "distilled-hard": 20, "distilled-noaug": 20, "random-soft": 20
    }  # fmt: skip
    storage = Storage(factor=2, enlarge="bilinear")
    assert read_info(squeezed / "distilled").storage == storage
    assert sealed.read_json(squeezed / "recover" / MANIFEST, "")["result"]["storage"] == storage.plain()
    assert read_info(squeezed / "baselines" / "random" / "distilled").storage == Storage()
    assert (squeezed / "report" / "film.png").is_file()
    unaugmented = Distilled(squeezed / "baselines" / "distilled" / "noaug")
    parts = mosaic.decoded(unaugmented.images, storage)
    for first in (0, 4):  # every image of the mosaics once in four epochs, enlarged, and nothing else
        epochs = range(first, first + 4)
        shown = torch.cat([images for epoch in epochs for images, _ in unaugmented.views(epoch, 7, "cpu", 0)])
        alike = (shown[:, None] - parts).abs().amax((2, 3, 4)) < 1e-5
        assert len(shown) == len(parts) == 80
        assert torch.equal(alike.sum(0), (parts[:, None] - parts).abs().amax((2, 3, 4)).lt(1e-5).sum(0))


def test_sides_that_do_not_divide_into_parts_are_refused_before_work(tmp_path: Path):
    with pytest.raises(AttarError, match="8 pixels do not divide into 3 parts per side; use another --recover.factor"):
        pipeline.run(cim_recipe(factor=3), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
