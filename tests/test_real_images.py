"""The whole pipeline on photographs, where ../shared/data is."""

from pathlib import Path

import pytest

from attar import pipeline
from attar.stages.dataset_info import read_info
from attar.stages.rows import ROWS
from conftest import mini_recipe

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")]


@pytest.mark.parametrize("resident", ["on", "off"])
def test_imagenette_from_parquet_to_scores(tmp_path: Path, resident: str):
    recipe = mini_recipe()
    data = recipe.data.changed(source=str(SHARED / "imagenette-mini"), size=32, resize=36, resident=resident)
    squeeze = recipe.squeeze.changed(
        architecture="resnet20", training=recipe.squeeze.training.changed(epochs=2, learning_rate=0.1)
    )
    recipe = recipe.changed(
        data=data,
        squeeze=squeeze,
        recover=recipe.recover.changed(flip=True, min_crop=0.08, accept_weak_teacher=True),
        evaluate=recipe.evaluate.changed(students=("resnet20",), num_seeds=1),
    )
    result = pipeline.run(recipe, tmp_path / "run", quiet=True)
    assert [line.row for line in result.table] == list(ROWS)
    info = read_info(tmp_path / "run" / "distilled")
    assert info.titles["n01440764"] == "tench"
    assert "non-commercial" in info.licence
    assert (tmp_path / "run" / "report" / "grid.png").stat().st_size > 10_000


def test_the_digits_recipe_beats_random_images_with_hard_labels(tmp_path: Path):
    """The main job as users run it, with what its header promises."""
    table = {line.row: line for line in pipeline.run("digits", tmp_path / "run", quiet=True).table}
    assert table["distilled"].top1_mean > table["random-hard"].top1_mean + 1
    assert table["full"].top1_mean > 98
