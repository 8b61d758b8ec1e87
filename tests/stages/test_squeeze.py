import json
import shutil

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.models.build import build
from attar.ops.choices import RealAugmentation
from attar.stages import squeeze, students
from attar.stages.rows import ROWS
from attar.store import checkpoint
from attar.store.weights import load_weights
from attar.training import memory
from conftest import mini_recipe


def one_epoch():
    """``mini_recipe`` with teachers, and students of all real images, of one epoch."""
    recipe = mini_recipe()
    training = recipe.squeeze.training.changed(epochs=1)
    return recipe.changed(squeeze=recipe.squeeze.changed(training=training))


def test_the_teacher_is_measured_on_real_validation_images(mini_run):
    teacher = teachers.load(mini_run / "squeeze")
    manifest = json.loads((mini_run / "squeeze" / "manifest.json").read_text())
    assert teacher.classes == tuple("0123456789")
    assert teacher.accuracy == manifest["result"]["top1"] > 0.9
    assert manifest["device_seconds"] > 0
    assert manifest["versions"]["torch"] == torch.__version__
    assert not (mini_run / "squeeze" / "checkpoint.safetensors").exists()
    assert not (mini_run / "squeeze" / "plan.json").exists()


def test_a_teacher_of_another_run_is_taken_along(mini_run, tmp_path):
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(mini_run / "squeeze")))
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    theirs, ours = teachers.load(mini_run / "squeeze"), teachers.load(tmp_path / "run" / "squeeze")
    assert ours.accuracy == theirs.accuracy
    assert all(torch.equal(a, b) for a, b in zip(ours.module.parameters(), theirs.module.parameters(), strict=True))


def test_a_training_killed_inside_an_epoch_ends_with_the_same_bytes(mini_run, tmp_path, monkeypatch, capsys):
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(checkpoint_minutes=1e-9))
    saved, save = list[dict](), squeeze.weights.save_tree

    def killed(path, state):
        save(path, state)
        saved.append(state)
        if state["fit"].get("step", 0) == 2 and state["fit"]["epoch"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(squeeze.weights, "save_tree", killed)
        patch.setattr(checkpoint, "MAX_TIME_SHARE", 1e9)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    assert saved[-1]["fit"]["step"] == 2
    pipeline.run(recipe, tmp_path / "run", stage="squeeze")
    assert "continues after step 2 of 23 in epoch 2 of 4" in capsys.readouterr().err
    ours, theirs = (folder / "squeeze" / "teacher.safetensors" for folder in (tmp_path / "run", mini_run))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_hierarchy_of_classes_makes_another_teacher(tmp_path):
    recipe = one_epoch()
    short = recipe.squeeze
    tree = tmp_path / "tree.txt"
    tree.write_text("".join(f"{child} {child % 3}\n" for child in range(3, 10)))
    with_tree = recipe.changed(squeeze=short.changed(semantic_tree=str(tree)))
    pipeline.run(with_tree, tmp_path / "run", stage="squeeze", quiet=True)
    manifest = json.loads((tmp_path / "run" / "squeeze" / "manifest.json").read_text())
    assert set(manifest["parents"]) == {"data", "tree"}
    tree.rename(tmp_path / "moved.txt")
    moved = recipe.changed(squeeze=short.changed(semantic_tree=str(tmp_path / "moved.txt")))
    pipeline.run(moved, tmp_path / "run", stage="squeeze", quiet=True)
    with pytest.raises(AttarError, match=r"made from a hierarchy of classes \(squeeze.semantic_tree\) that is not the"):
        pipeline.run(recipe.changed(squeeze=short), tmp_path / "run", stage="squeeze", quiet=True)
    pipeline.run(recipe.changed(squeeze=short), tmp_path / "plain", stage="squeeze", quiet=True)
    ours, theirs = (tmp_path / name / "squeeze" / "teacher.safetensors" for name in ("run", "plain"))
    assert ours.read_bytes() != theirs.read_bytes()
    with pytest.raises(AttarError, match=r"tree.txt cannot be read \(No such file or directory\)"):
        pipeline.run(with_tree, tmp_path / "new", stage="squeeze", quiet=True)
    assert not (tmp_path / "new" / "squeeze").exists()


def test_cutout_and_randaugment_make_another_teacher(tmp_path):
    recipe = one_epoch()
    hidden = recipe.squeeze.changed(augmentation=RealAugmentation(cutout=0.5, randaugment_ops=1))
    for name, config in (("plain", recipe.squeeze), ("hidden", hidden)):
        pipeline.run(recipe.changed(squeeze=config), tmp_path / name, stage="squeeze", quiet=True)
    ours, theirs = (tmp_path / name / "squeeze" / "teacher.safetensors" for name in ("plain", "hidden"))
    assert ours.read_bytes() != theirs.read_bytes()
    with pytest.raises(AttarError, match="augmentation"):
        pipeline.run(recipe, tmp_path / "hidden", stage="squeeze", quiet=True)


def test_trainings_that_lack_memory_name_the_setting_that_needs_less(mini_run, finished, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    shutil.rmtree(finished / "evaluate")
    monkeypatch.setattr(squeeze, "fit", full)
    monkeypatch.setattr(students, "fit", full)
    with pytest.raises(
        AttarError, match=r"batches of \d+ images; raise --squeeze.training.accumulation-steps \(now 1\)"
    ):
        pipeline.run(mini_recipe(), tmp_path / "new", stage="squeeze", quiet=True)
    with pytest.raises(AttarError, match="raise --evaluate.protocol.training.accumulation-steps"):
        pipeline.run(mini_recipe(), finished, quiet=True)
    with pytest.raises(ZeroDivisionError), memory.explained(mini_recipe().squeeze.training, "squeeze.training"):
        _ = 1 / 0


def test_a_foreign_checkpoint_is_taken_along(mini_run, tmp_path):
    state, _ = load_weights(mini_run / "squeeze" / "teacher.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "mine.pth")
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(tmp_path / "mine.pth")))
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    assert teachers.load(tmp_path / "run" / "squeeze").accuracy == teachers.load(mini_run / "squeeze").accuracy


def test_a_module_of_the_callers_is_a_teacher_for_every_stage(mini_run, tmp_path):
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = teachers.load(mini_run / "squeeze").module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)

    recipe = one_epoch()
    recipe = recipe.changed(
        relabel=recipe.relabel.changed(mode="online"), evaluate=recipe.evaluate.changed(num_seeds=1)
    )
    result = attar.run(recipe, tmp_path / "run", teacher=Wrapped(), quiet=True)
    assert [line.row for line in result.table] == [str(row) for row in ROWS]
    assert (
        teachers.load(tmp_path / "run" / "squeeze", Wrapped()).accuracy == teachers.load(mini_run / "squeeze").accuracy
    )
    with pytest.raises(AttarError, match="pass it from Python"):
        teachers.load(tmp_path / "run" / "squeeze")


def test_recover_refuses_a_teacher_near_chance_unless_told(tmp_path):
    recipe = mini_recipe()
    network = build("convnet3", 10, 8, seed=3)
    with pytest.raises(AttarError, match=r"about chance \(10.0%\).*--recover.accept-weak-teacher True"):
        pipeline.run(recipe, tmp_path / "run", teacher=network, quiet=True)
    assert not (tmp_path / "run" / "recover").exists()
    bold = recipe.changed(recover=recipe.recover.changed(accept_weak_teacher=True))
    pipeline.run(bold, tmp_path / "run", stage="recover", teacher=network, quiet=True)
    assert (tmp_path / "run" / "recover" / "manifest.json").exists()


def test_recover_refuses_a_teacher_of_other_classes_unless_told(mini_run, tmp_path):
    folder = tmp_path / "foreign"
    teacher = teachers.load(mini_run / "squeeze")
    renamed = tuple(f"sign {name}" for name in teacher.classes)
    teachers.Teacher(
        teacher.module, teacher.architecture, teacher.stem, renamed, teacher.normalisation, teacher.image_size
    ).save(folder)
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(folder)))
    with pytest.raises(AttarError, match="knows other classes than the data.*'sign 0' is the first"):
        pipeline.run(recipe, tmp_path / "run", quiet=True)
    bold = recipe.changed(recover=recipe.recover.changed(accept_other_classes=True))
    pipeline.run(bold, tmp_path / "run", stage="recover", quiet=True)


def test_a_teacher_with_the_classes_in_another_order_is_put_right(mini_run, tmp_path):
    folder = tmp_path / "shuffled"
    teacher = teachers.load(mini_run / "squeeze")
    teachers.aligned(teacher, teacher.classes[::-1]).save(folder)
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(folder)))
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    assert teachers.load(tmp_path / "run" / "squeeze").accuracy == teacher.accuracy


def test_a_teacher_of_another_image_size_is_refused(mini_run, tmp_path):
    recipe = mini_recipe()
    recipe = recipe.changed(
        data=recipe.data.changed(size=16), squeeze=recipe.squeeze.changed(weights=str(mini_run / "squeeze"))
    )
    with pytest.raises(AttarError, match="made for 8 pixels, but the data are prepared at 16"):
        pipeline.run(recipe, tmp_path / "run", quiet=True)


def test_a_diverged_training_is_told_and_leaves_no_teacher(tmp_path):
    recipe = mini_recipe()
    wild = recipe.squeeze.training.changed(learning_rate=1e12)
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(training=wild))
    with pytest.raises(AttarError, match="diverged.*--squeeze.training.learning-rate"):
        pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    assert not (tmp_path / "run" / "squeeze" / "teacher.json").exists()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A teacher of one epoch whose recipe says nothing of compiling."""
    out = tmp_path_factory.mktemp("plain")
    pipeline.run(one_epoch(), out, stage="squeeze", quiet=True)
    return load_weights(out / "squeeze" / "teacher.safetensors")[0]


@pytest.mark.parametrize(("choice", "compiled"), [("auto", False), ("off", False), ("on", True)])
def test_trainings_are_compiled_on_a_cpu_only_when_asked(plain, tmp_path, monkeypatch, choice, compiled):
    made = []

    def compile_(function, **_):
        def fast(*arguments):
            made.append(type(function).__name__)
            return function(*arguments)

        return fast

    monkeypatch.setattr(torch, "compile", compile_)
    recipe = one_epoch()
    recipe = recipe.changed(execution=recipe.execution.changed(compile=choice))
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    assert ("ConvNet" in made) == compiled
    ours, _ = load_weights(tmp_path / "run" / "squeeze" / "teacher.safetensors")
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.slow
def test_a_compiled_training_ends_where_the_plain_one_does(mini_run, tmp_path):
    recipe = mini_recipe()
    recipe = recipe.changed(execution=recipe.execution.changed(compile="on"))
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    ours, theirs = (teachers.load(run / "squeeze").accuracy for run in (tmp_path / "run", mini_run))
    assert ours == pytest.approx(theirs, abs=0.02)
