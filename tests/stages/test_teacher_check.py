"""stages/teacher_check.py: a teacher near chance stops a run that uses it, if there are enough pictures to tell."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.models.build import build
from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation
from attar.stages import teacher_check
from attar.stages.workspace import Workspace
from attar.synthesis.method import MethodConfig


@pytest.mark.parametrize(
    ("accuracy", "num_classes", "num_images", "found"),
    [
        (0.10, 10, 5000, "yes"),
        (0.13, 10, 5000, "yes"),
        (0.16, 10, 5000, "no"),
        (0.02, 1000, 50_000, "yes"),  # twenty times chance, and of no use
        (0.10, 10, 30, "perhaps"),
        (0.20, 10, 30, "no"),
        (0.55, 2, 20, "perhaps"),
        (0.52, 2, 2000, "perhaps"),
        (0.50, 2, 2000, "yes"),
        (0.75, 2, 20, "no"),
        (0.0, 3, 20, "yes"),
    ],
)
def test_few_images_leave_open_whether_a_teacher_is_near_chance(accuracy, num_classes, num_images, found):
    assert teacher_check.near_chance(accuracy, num_classes, num_images) == found


def test_only_a_teacher_that_is_used_stops_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    classes = tuple("abcdefghij")
    same = Normalisation((0.0,) * 3, (1.0,) * 3)
    teacher = Teacher(build("convnet3_w32", 10, 8, seed=0), "convnet3_w32", "small", classes, same, 8, accuracy=0.1)

    def space(num_val: int) -> Workspace:
        real, choice = SimpleNamespace(classes=classes), SimpleNamespace(size=8)
        made = SimpleNamespace(real=real, choice=choice, log=Log(), val_labels=range(num_val))
        return cast("Workspace", cast("Any", made))

    config = MethodConfig(ipc=1)
    with pytest.raises(AttarError, match=r"right on 10.0% of the 500 real validation images, about chance \(10.0%\)"):
        teacher_check.check(teacher, space(500), "dm", config)
    teacher_check.check(teacher, space(500), "dm", config, used=False)
    assert "images and labels do not depend on it" in capsys.readouterr().err
    teacher_check.check(teacher, space(30), "dm", config)
    assert "guessing reaches about as much (10.0%); add pictures" in capsys.readouterr().err
    teacher_check.check(teacher, space(500), "dm", config.changed(accept_weak_teacher=True))
    assert not capsys.readouterr().err
