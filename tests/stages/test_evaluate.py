import json

from attar import pipeline
from attar.report.table import lines
from conftest import mini_recipe


def scores(run):
    return sorted(path.name for path in (run / "evaluate" / "scores").iterdir())


def test_every_row_has_its_seeds_bytes_and_seconds(mini_run):
    table = {line.row: line for line in lines(mini_run)}
    assert list(table) == ["distilled", "random-soft", "random-hard", "full"]
    for line in table.values():
        assert line.num_seeds == 2
        assert line.top1_std is not None
        assert 0 <= line.top1_mean <= line.top5_mean <= 100
        assert line.image_bytes > 0
        assert line.train_seconds > 0
    assert table["distilled"].num_images == table["random-soft"].num_images == 20
    assert table["full"].num_images == 1438
    assert table["random-hard"].label_bytes == table["full"].label_bytes == 0
    assert table["distilled"].label_bytes == table["random-soft"].label_bytes > 0
    assert table["full"].top1_mean > 90


def test_more_seeds_only_add_to_what_is_known(finished):
    before = scores(finished)
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "evaluate" / "scores").iterdir()}
    recipe = mini_recipe()
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=3, rows=("distilled",)))
    result = pipeline.run(recipe, finished, quiet=True)
    assert [(line.row, line.num_seeds) for line in result.table] == [("distilled", 3)]
    assert len(scores(finished)) == len(before) + 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_another_protocol_is_another_score(finished):
    recipe = mini_recipe()
    protocol = recipe.evaluate.protocol.changed(loss="hard")
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(protocol=protocol, rows=("distilled",), num_seeds=1))
    (line,) = pipeline.run(recipe, finished, quiet=True).table
    assert line.protocol == "digits v1 modified"
    assert line.label_bytes == 0
    kept = [json.loads(path.read_text()) for path in (finished / "evaluate" / "scores").glob("distilled-*")]
    assert len(kept) == 3
    assert all(len(entry["losses"]) == 3 for entry in kept)


def test_the_teacher_can_stand_for_the_full_data_row(finished):
    recipe = mini_recipe()
    recipe = recipe.changed(evaluate=recipe.evaluate.changed(full_data="teacher", rows=("full",)))
    (line,) = pipeline.run(recipe, finished, quiet=True).table
    manifest = json.loads((finished / "squeeze" / "manifest.json").read_text())
    assert (line.protocol, line.num_seeds, line.top1_std) == ("the teacher", 1, None)
    assert line.top1_mean == round(100 * manifest["result"]["top1"], 2)


def test_several_students_make_several_rows(finished):
    recipe = mini_recipe()
    students = ("convnet3", "timm/resnet10t")
    recipe = recipe.changed(
        evaluate=recipe.evaluate.changed(students=students, rows=("distilled", "random-hard"), num_seeds=1)
    )
    table = pipeline.run(recipe, finished, quiet=True).table
    assert [(line.row, line.student) for line in table] == [
        (row, student) for row in ("distilled", "random-hard") for student in students
    ]


def test_random_as_the_method_is_its_own_baseline(squeezed):
    recipe = mini_recipe().with_method("random")
    result = pipeline.run(recipe, squeezed, quiet=True)
    table = {line.row: line for line in result.table}
    assert table["distilled"].top1_mean == table["random-soft"].top1_mean
    assert not (squeezed / "baselines").exists()


def test_without_enough_real_images_the_random_rows_are_left_out(squeezed):
    recipe = mini_recipe()
    recipe = recipe.changed(
        recover=recipe.recover.changed(ipc=141, ipc_start=139, iterations=1),
        evaluate=recipe.evaluate.changed(rows=("distilled", "random-hard"), num_seeds=1),
    )
    result = pipeline.run(recipe, squeezed, quiet=True)
    assert [line.row for line in result.table] == ["distilled"]
