"""A finished run takes students of more or fewer epochs: labels are kept, and only those of new epochs are made."""

import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar import pipeline
from attar.begin import recipe_of
from attar.core.errors import AttarError
from attar.recipes.arguments import split
from attar.stages import growth
from attar.stages.run import Run
from conftest import MINI, mini_recipe


def recipe(student_epochs: int, label_epochs: int | None = None, **labels):
    """The mini recipe with students of so many epochs, and labels of as many."""
    mini = mini_recipe()
    training = mini.evaluate.protocol.training.changed(epochs=student_epochs)
    protocol = mini.evaluate.protocol.changed(training=training)
    return mini.changed(
        relabel=mini.relabel.changed(epochs=label_epochs or student_epochs, **labels),
        evaluate=mini.evaluate.changed(
            protocol=protocol, num_seeds=1, rows=("distilled", "distilled-hard", "random-soft")
        ),
    )


def state_of(folder: Path) -> dict[Path, int]:
    """Return when each file but the pages was written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return {path: path.stat().st_mtime_ns for path in files}


def accuracies(run: Path) -> list[float]:
    return [score.top1 for score in Run(run).accuracies]


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_more_epochs_make_what_a_new_run_makes_and_fewer_need_nothing(recovered: Path, tmp_path: Path, mode: str):
    fresh = tmp_path / "fresh"
    shutil.copytree(recovered, fresh)
    pipeline.run(recipe(2, mode=mode), recovered, quiet=True)
    first, scores = accuracies(recovered), state_of(recovered / "evaluate" / "scores")
    if mode == "stored":
        before = [attar.load(recovered).stored.parts(epoch) for epoch in range(2)]
    pipeline.run(recipe(4, mode=mode), recovered, quiet=True)
    pipeline.run(recipe(4, mode=mode), fresh, quiet=True)
    assert attar.load(recovered).info.labels.epochs == 4
    assert accuracies(recovered) == accuracies(fresh)
    if mode == "stored":
        for name in (Path(), Path("baselines/random")):
            grown, new = (attar.load(run / name / "distilled").stored for run in (recovered, fresh))
            for epoch in range(4):
                assert all(torch.equal(part, new.parts(epoch)[key]) for key, part in grown.parts(epoch).items())
        assert all(
            torch.equal(part, grown[key])
            for grown, old in zip(map(attar.load(recovered).stored.parts, range(2)), before, strict=True)
            for key, part in old.items()
        )
    assert not list(recovered.rglob(growth.BEFORE))
    sets = state_of(recovered / "distilled") | state_of(recovered / "baselines")
    pipeline.run(recipe(2, mode=mode), recovered, quiet=True)
    assert accuracies(recovered) == first
    assert scores.items() <= state_of(recovered / "evaluate" / "scores").items()
    assert len(state_of(recovered / "evaluate" / "scores")) == 2 * len(scores)  # the first are found, none is trained
    pipeline.run(recipe(3, mode=mode), recovered, quiet=True)
    assert state_of(recovered / "distilled") | state_of(recovered / "baselines") == sets


def test_labels_put_aside_by_a_killed_run_are_used(finished: Path):
    before = attar.load(finished).stored.parts(5)
    (finished / "distilled").rename(finished / growth.BEFORE)
    pipeline.run(recipe(7), finished, quiet=True)
    after = attar.load(finished).stored
    assert after.header.num_epochs == attar.load(finished / "baselines/random/distilled").stored.header.num_epochs == 7
    assert all(torch.equal(part, after.parts(5)[key]) for key, part in before.items())


def test_a_pool_serves_any_number_of_epochs(recovered: Path):
    pipeline.run(recipe(4, pool_epochs=2), recovered, quiet=True)
    before = state_of(recovered / "distilled")
    for epochs, pool in ((6, 2), (3, 2), (1, 1)):
        pipeline.run(recipe(epochs, pool_epochs=pool), recovered, quiet=True)
        assert state_of(recovered / "distilled") == before
        assert Run(recovered).asked.protocol["training"]["epochs"] == epochs


def test_labels_of_fewer_epochs_than_students_train_are_another_choice(finished: Path):
    pipeline.run(recipe(8, 6), finished, quiet=True)  # which see the six epochs again
    assert attar.load(finished).info.labels.epochs == 6
    with pytest.raises(AttarError, match=r"made with other settings \(relabel.epochs 6 -> 4\)"):
        pipeline.run(recipe(8, 4), finished, quiet=True)


def test_one_sentence_says_which_labels_are_kept(finished: Path, tmp_path: Path, capsys):
    words = ["digits", *MINI[:-2], "--evaluate.rows", "distilled", "--evaluate.protocol.training.epochs", "2"]
    labels = words.index("--relabel.epochs")
    del words[labels : labels + 2]
    given, _ = recipe_of("run", split("run", [*words, "--out", str(finished)]))
    assert "labels are made for" not in capsys.readouterr().err
    pipeline.run(given, finished)
    assert "the labels of 6 epochs are kept; students train for 2" in capsys.readouterr().err
    recipe_of("run", split("run", [*words, "--out", str(tmp_path / "new")]))
    assert "labels are made for 2 epochs, not 150" in capsys.readouterr().err
    recipe_of("run", split("run", [*words, "--relabel.mode", "online", "--out", str(tmp_path / "new")]))
    assert "labels are made for" not in capsys.readouterr().err
