"""Students go on from a checkpoint, and sets are opened once for all students that train on them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.recipes.recipe import Recipe
from attar.report.page import write
from attar.stages import distilled, evaluate, students
from attar.store import checkpoint
from attar.store.checkpoint import Checkpoint
from conftest import mini_recipe


class Killed(BaseException):
    """Ends a training in its middle, as a signal does."""


def recipe_of(**changes: Any) -> Recipe[Any]:
    recipe = mini_recipe()
    return recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=1, **changes))


def judge(out: Path, recipe: Recipe[Any]) -> None:
    pipeline.run(recipe, out, stage="evaluate", quiet=True)


def results(out: Path) -> dict[str, Any]:
    """Of every score all but what it took."""
    found = {}
    for path in (out / "evaluate" / "scores").iterdir():
        content = json.loads(path.read_text())
        score = {key: value for key, value in content["score"].items() if not key.endswith("seconds")}
        found[path.name] = score, content["losses"]
    return found


@pytest.fixture
def unjudged(finished: Path) -> Path:
    shutil.rmtree(finished / "evaluate" / "scores")
    return finished


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Checkpoints are saved after every epoch; the training ends after so many of them."""
    real = Checkpoint.offer

    def kill_after(number: int) -> None:
        left = [number]

        def offer(self: Checkpoint, state: Callable[[], Any]) -> None:
            real(self, state)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
        monkeypatch.setattr(checkpoint, "MAX_TIME_SHARE", float("inf"))
        monkeypatch.setattr(Checkpoint, "offer", offer)

    return kill_after


def resumed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs after which trainings go on; 0 from the beginning."""
    epochs: list[int] = []
    for module in (students, students.squeeze):
        fit = module.fit

        def seen(*values: Any, fit: Any = fit, **named: Any) -> None:
            epochs.append(named["resume"]["epoch"] if named["resume"] else 0)
            fit(*values, **named)

        monkeypatch.setattr(module, "fit", seen)
    return epochs


@pytest.mark.parametrize(("row", "ema_decay"), [("distilled", 0.9), ("full", 0.0)])
def test_a_killed_student_goes_on_and_equals_one_that_was_not(
    row: str, ema_decay: float, unjudged: Path, killing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    training = mini_recipe().evaluate.protocol.training.changed(ema_decay=ema_decay)
    recipe = recipe_of(rows=(row,), protocol=mini_recipe().evaluate.protocol.changed(training=training))
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(training=recipe.squeeze.training.changed(epochs=2)))
    killing(1)
    with pytest.raises(Killed):
        judge(unjudged, recipe)
    monkeypatch.undo()
    folder = unjudged / "evaluate" / "checkpoints"
    assert len(list(folder.iterdir())) == 1
    epochs = resumed(monkeypatch)
    judge(unjudged, recipe)
    found = results(unjudged)
    assert list(folder.iterdir()) == []
    shutil.rmtree(unjudged / "evaluate" / "scores")
    judge(unjudged, recipe)
    assert epochs == [1, 0]
    assert results(unjudged) == found


def test_a_checkpoint_of_other_settings_is_not_used(
    unjudged: Path, killing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    killing(1)
    with pytest.raises(Killed):
        judge(unjudged, recipe_of(rows=("distilled",)))
    monkeypatch.undo()
    (saved,) = (unjudged / "evaluate" / "checkpoints").iterdir()
    warm = mini_recipe().evaluate.protocol.changed(temperature=5.0)
    epochs = resumed(monkeypatch)
    # Even one that lies in its place: the file says which training it is of.
    monkeypatch.setattr(
        evaluate.scores.ScoreFile, "checkpoint", property(lambda file: Checkpoint(saved, file.identity))
    )
    judge(unjudged, recipe_of(rows=("distilled",), protocol=warm))
    assert epochs == [0]


def test_a_set_is_opened_checked_and_placed_once_for_all_its_students(unjudged: Path, monkeypatch: pytest.MonkeyPatch):
    counts = {"opened": 0, "placed": 0}

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*values, **named)

        return call

    monkeypatch.setattr(evaluate, "Distilled", counted("opened", evaluate.Distilled))
    monkeypatch.setattr(distilled.mapped, "placed", counted("placed", distilled.mapped.placed))
    monkeypatch.setattr(write, "run_page", lambda *_: None)  # it reads the set once more, for its pictures
    recipe = recipe_of(rows=("distilled", "distilled-hard", "random-soft", "random-hard"))
    training = recipe.evaluate.protocol.training.changed(epochs=1)
    protocol = recipe.evaluate.protocol.changed(training=training)
    judge(unjudged, recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=2, protocol=protocol)))
    assert len(results(unjudged)) == 8
    assert counts == {"opened": 2, "placed": 2}, "the distilled images and the random ones"
