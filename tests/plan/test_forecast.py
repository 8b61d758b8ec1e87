"""The words and sums of a plan, from step times that are given."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.cli import main
from attar.core.device import Device
from attar.core.errors import AttarError
from attar.plan import calibrate, forecast, recover_cost
from attar.plan.calibrate import Work
from attar.plan.recover_cost import RecoverCost
from attar.recipes.recipe import recipe_type
from attar.stages.label_choice import Relabel
from attar.store import units
from conftest import MINI, mini_recipe

RECOVERING = RecoverCost(
    step_seconds=0.3,
    preparation_seconds=25.0,
    num_images=10,
    compilation="compiled (120 TFLOP to do)",
    memory_bytes=1_900_000_000,
)


def work_of(**changes: Any) -> Work:
    """The mini recipe's: 20 digits, two units of 12 iterations, 1,400 real images."""
    recipe = mini_recipe()
    parts = {
        name: getattr(recipe, name) for name in ("execution", "squeeze", "method", "recover", "relabel", "evaluate")
    }
    return Work(**({"counts": [140] * 10, "size": 8} | parts | changes))


@pytest.fixture(autouse=True)
def _steps_are_given(monkeypatch: pytest.MonkeyPatch):
    """An epoch takes a second for labels, two on distilled images and a minute on all."""
    monkeypatch.setattr(recover_cost, "measure", lambda work: RECOVERING)
    monkeypatch.setattr(calibrate, "labels_epoch_seconds", lambda work: 1.0)
    monkeypatch.setattr(calibrate, "distilled_epoch_seconds", lambda work, student: 2.0)
    monkeypatch.setattr(calibrate, "full_epoch_seconds", lambda work, name, stem, squeeze=None: 60.0)


def told(**changes: Any) -> dict[str, str]:
    """The plan's lines by what they begin with."""
    lines = "\n".join(forecast.lines(work_of(**changes))).splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_every_stage_has_its_line_and_the_last_is_their_sum():
    work = work_of(execution=mini_recipe().execution.changed(precision="fp32"))
    lines, device = forecast.lines(work), work.device.describe()
    assert "\n".join(lines).splitlines() == [
        "Squeeze: about 4 min (4 epochs of 1,400 images, reading them not counted)",
        "Recover: about 32 s (30 ms per image and iteration, 10 images side by side), 1.9 GB of memory, on " + device,
        "Arithmetic: fp32, as asked; compiled (120 TFLOP to do), which takes 25 s",
        "Relabel: about 24 s (6 epochs of 20 images, and of 3 baselines)",
        # 2 seeds x (9 rows x 3 epochs x 2 s and 4 epochs x 60 s), and twice 1,400 images at 20 a second
        "Evaluate: about 12 min (convnet3, 2 seeds: 9 x 3 epochs of 20 images and 4 epochs of 1,400 images; "
        "the teacher looks at 1,400 images for herding and for kcentre)",
        "Altogether: about 17 min, in one process",
    ]


def test_every_member_is_trained():
    members = ({}, {"training": {"epochs": 1}}, {"weights": "elsewhere.pt"})
    found = told(squeeze=mini_recipe().squeeze.changed(members=members))["Squeeze"]
    assert found == "about 5 min (2 teachers, 4 + 1 epochs of 1,400 images, reading them not counted)"


def test_experts_are_trained_where_the_method_asks_for_them():
    recipe = mini_recipe().with_method("tesla")
    found = told(method="tesla", recover=recipe.recover)["Squeeze"]
    words = "4 epochs of 1,400 images, and 8 experts of 16 epochs each, reading them not counted"
    assert found == f"about 2.2 h ({words})"


def test_preparation_counts_for_every_shape_of_groups():
    recover = mini_recipe().recover.changed(ipc=3, parallel_units=2)
    assert told(recover=recover)["Recover"].startswith("about 61 s ")  # 3 x 12 x 0.3 and twice 25
    assert told(recover=recover)["Arithmetic"].endswith("which takes 25 s for each of 2 sizes of groups")


def test_a_figure_without_compilation_says_so(monkeypatch):
    monkeypatch.setattr(recover_cost, "measure", lambda work: replace(RECOVERING, measured_compiled=False))
    recover = mini_recipe().recover.changed(ipc=3, parallel_units=2)
    assert told(recover=recover)["Recover"].startswith("about 36 s ")  # 3 x 12 x 0.3 and once 25
    assert told()["Arithmetic"].endswith(
        "; measured uncompiled, so recover takes less (--execution.compile on measures it compiled)"
    )


def test_precision_is_explained(monkeypatch):
    why = "which runs 2.1x as fast as float32 on matrix products, 1.8x on convolutions"
    cpu = Device(torch.device("cpu"), "bf16", "auto", 0, why)
    monkeypatch.setattr(calibrate, "resolve", lambda _: cpu)
    assert told()["Arithmetic"].startswith(f"bf16, {why}; ")


def test_memory_that_is_not_known_is_not_made_up(monkeypatch):
    unknown = RecoverCost(0.3, 0.0, 10, "not compiled, as asked")
    monkeypatch.setattr(recover_cost, "measure", lambda work: unknown)
    assert "side by side), memory not known, on " in told()["Recover"]
    assert told()["Arithmetic"].endswith("; not compiled, as asked")


def test_random_images_take_no_time_and_are_their_own_comparison():
    random = mini_recipe().with_method("random")
    found = told(method="random", recover=random.recover)
    assert found["Recover"] == "negligible, because real images are only copied"
    assert found["Relabel"] == "about 18 s (6 epochs of 20 images, and of 2 baselines)"
    # distilled and random are one set: of nine rows, six are trained apart on little.
    assert "7 x 3 epochs of 20 images" in found["Evaluate"]


def test_a_method_that_looks_at_all_real_images_takes_that_long():
    herding = mini_recipe().with_method("herding")
    found = told(method="herding", recover=herding.recover)
    assert found["Recover"] == "about 70 s (the teacher looks at 1,400 images)"
    assert found["Evaluate"].endswith("the teacher looks at 1,400 images for kcentre)")


def test_labels_without_augmentation_are_one_epoch_for_each_image_of_a_mosaic():
    judging = mini_recipe().evaluate.changed(rows=("distilled", "distilled-noaug", "random-noaug"))
    found, mosaics = told(evaluate=judging), told(evaluate=judging, recover=mini_recipe().with_method("cim").recover)
    words = "6 epochs of 20 images, and of 1 baseline, and epochs without augmentation"
    assert found["Relabel"] == f"about 14 s ({words}: 1 of distilled, 1 of random)"
    assert mosaics["Relabel"] == f"about 17 s ({words}: 4 of distilled, 1 of random)"
    assert "3 x 3 epochs of 20 images" in found["Evaluate"]


def test_rows_that_are_trained_alike_are_counted_once():
    judging = mini_recipe().evaluate
    hard = judging.changed(protocol=judging.protocol.changed(loss="hard"), rows=("distilled", "distilled-hard"))
    assert told(evaluate=hard)["Evaluate"] == "about 12 s (convnet3, 2 seeds: 1 x 3 epochs of 20 images)"


def test_a_method_without_iterations_is_not_known(monkeypatch):
    found = told(method="my.method", recover=mini_recipe().with_method("random").recover)
    assert found["Recover"] == "not known (the method 'my.method' has no iterations that could be measured)"
    assert found["Altogether"].startswith("more than about ")


def test_a_stage_that_cannot_be_measured_says_why_and_the_others_go_on(monkeypatch):
    def refuse(*_: Any) -> Any:
        raise AttarError("There is no network named 'x'; did you mean y?")

    def explode(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recover_cost, "measure", refuse)
    monkeypatch.setattr(calibrate, "full_epoch_seconds", explode)
    found = told()
    assert found["Recover"] == "not known (There is no network named 'x'; did you mean y?)"
    assert found["Squeeze"] == found["Evaluate"] == "not known (there is not enough memory)"
    assert found["Relabel"].startswith("about 24 s")
    assert found["Altogether"] == "more than about 24 s, in one process"


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(calibrate, "labels_epoch_seconds", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        told()


def test_imported_weights_need_no_training():
    found = told(squeeze=mini_recipe().squeeze.changed(weights="IMAGENET1K_V1"))
    assert found["Squeeze"] == "no training, because weights are imported (IMAGENET1K_V1)"


def test_labels_that_are_asked_for_in_training_are_counted_there():
    found = told(relabel=mini_recipe().relabel.changed(mode="online"))
    assert found["Relabel"] == "nothing, because the teacher labels while students train"
    # 2 seeds x (4 rows x 3 epochs x 1 s and 9 rows x 3 epochs x 2 s and 4 epochs x 60 s), and 2 x 70 s
    assert found["Evaluate"].startswith("about 13 min ")
    alone = mini_recipe().evaluate.changed(rows=("distilled",))
    found = told(relabel=mini_recipe().relabel.changed(mode="online"), evaluate=alone)
    assert found["Evaluate"].startswith("about 18 s ")  # 2 seeds x 3 epochs x (1 s and 2 s)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": ("distilled",)}, "about 12 s (convnet3, 2 seeds: 1 x 3 epochs of 20 images)"),
        ({"rows": ("full",), "num_seeds": 1}, "about 4 min (convnet3, 1 seed: 4 epochs of 1,400 images)"),
        ({"rows": ("full",), "full_data": "teacher"}, "nothing to train"),
        (
            {"rows": ("distilled", "random-hard"), "students": ("resnet20", "convnet3")},
            "about 48 s (resnet20, convnet3, 2 seeds: 2 x 3 epochs of 20 images)",
        ),
    ],
)
def test_students_rows_and_seeds_multiply(changes: dict[str, Any], words: str):
    assert told(evaluate=mini_recipe().evaluate.changed(**changes))["Evaluate"] == words


def test_too_few_real_images_are_not_compared():
    found = told(counts=[140] * 9 + [1])
    assert found["Relabel"] == "about 6 s (6 epochs of 20 images)"
    assert "3 x 3 epochs of 20 images and 4 epochs of 1,261" in found["Evaluate"]  # soft and hard labels, equal bytes


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.0421, "0.042 s"),
        (9.44, "9.4 s"),
        (119, "119 s"),
        (121, "2 min"),
        (3600, "60 min"),
        (7300, "2 h"),
        (40 * 3600, "40 h"),
        (60 * 3600, "2.5 days"),
        (5e9, "57,870 days"),
    ],
)
def test_durations_are_readable(seconds: float, words: str):
    assert forecast.readable_seconds(seconds) == words


def test_unit_files_are_as_large_as_said(mini_run):
    results = [units.load(mini_run / "recover" / "units", unit) for unit in units.plan(10, 0, 2, 100)]
    tensors = [
        tensor
        for result in results
        for tensor in (result.images, result.labels, *result.snapshots.values(), *result.curves.values())
    ]
    assert forecast.unit_file_bytes(work_of()) == sum(tensor.nbytes for tensor in tensors)
    assert forecast.num_snapshots(work_of()) == 2
    assert forecast.num_snapshots(work_of(recover=mini_recipe().recover.changed(snapshots=(4, 12, 100)))) == 1


def test_unit_files_of_random_images_hold_no_snapshots():
    work = work_of(method="random", recover=mini_recipe().with_method("random").recover)
    assert forecast.unit_file_bytes(work) == 20 * (3 * 64 + 8)


def test_a_plan_is_measured_on_this_device_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    main(["show", "digits", "--plan", *MINI, "--relabel.mode", "online"])
    said = capsys.readouterr()
    lines = [line.removeprefix("# ") for line in said.out.splitlines()]
    for start in ("Squeeze: about ", "Recover: about ", "Arithmetic: ", "Relabel: nothing", "Evaluate: about "):
        assert any(line.startswith(start) for line in lines), start
    assert "Unit files: 15.9 kB on disk, with 2 snapshots of every image" in lines
    assert "some steps of every stage are timed on this device: that takes about half a minute" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_plan_says_nothing_beside(capsys):
    main(["show", "digits", "--plan", "--quiet", *MINI])
    assert capsys.readouterr().err == ""


def test_a_plan_needs_the_data(tmp_path):
    recipe = recipe_type("cda")(name="absent", recover=mini_recipe().recover, relabel=Relabel())
    with pytest.raises(AttarError, match="cifar10 is not in "):
        pipeline.plan(recipe.changed(data=recipe.data.changed(source="cifar10", root=str(tmp_path))))
