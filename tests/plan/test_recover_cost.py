"""plan/recover_cost.py: a method does what it will do in the run, cut short."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from attar import pipeline
from attar.core import compiling
from attar.core.errors import AttarError
from attar.methods import cda
from attar.plan import calibrate, recover_cost
from attar.plan.calibrate import Work
from attar.plan.recover_cost import RecoverCost
from attar.recipes.recipe import Recipe
from attar.synthesis.method import Needs, Preparation, Stretch
from attar.synthesis.optimise import shape_of
from attar.synthesis.task import Context, Recovered, Task
from conftest import mini_recipe


class Pretend:
    """A method whose iterations take as long as ``seconds`` says, on a clock of its own."""

    class Config(cda.Config):
        """CDA's."""

        photographs: bool = False
        """Whether real images are read."""

        def needs(self) -> Needs:
            return Needs(real_images=self.photographs)

        def metrics(self) -> tuple[str, ...]:
            return ()

    def __init__(self, seconds: Any) -> None:
        self.now, self.seconds, self.done, self.tasks = 0.0, seconds, 0, []

    def recover(self, task: Task, config: Any) -> Recovered:
        self.tasks.append((task, config))
        iteration = 0
        for stretch in config.cost(shape_of(task)):
            for own in range(stretch.iterations):
                self.now += self.seconds(iteration + own, stretch)
                self.done += 1
                if task.monitor.step(iteration + own, lambda: torch.empty(0)):
                    break
            iteration += stretch.iterations
        return Recovered(torch.zeros(len(task.labels), 3, *task.size))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, work_of):
    """Makes a work whose method is pretended."""

    def make(seconds: Any, **recover: Any) -> tuple[Work, Pretend]:
        method, module = Pretend(seconds), ModuleType("pretended.method")
        vars(module).update(Config=Pretend.Config, recover=method.recover)
        monkeypatch.setitem(sys.modules, "pretended.method", module)
        recipe = mini_recipe()
        choices: dict[str, Any] = {"ipc": 5, "unit_classes": 4, "parallel_units": 2, "iterations": 1000}
        config = Pretend.Config(**(choices | recover))
        return work_of(recipe, method="pretended.method", recover=config, clock=lambda: method.now), method

    return make


def test_an_optimisation_is_cut_short_and_told_its_true_length(pretend):
    work, method = pretend(lambda iteration, config: 0.5 if iteration else 20.0)
    found = recover_cost.measure(work)
    assert (found.step_seconds, found.preparation_seconds) == (0.5, 19.5)
    assert method.done == 2 + 5
    ((task, config),) = method.tasks
    assert config == work.recover
    assert task.unit_sizes == (4, 4)
    assert found.num_images == 8


def test_the_task_counts_those_alike_as_the_stage_does(pretend, squeezed, monkeypatch):
    # 10 classes in blocks of 4, 4 and 2, over 5 slots, two units side by side
    work, method = pretend(lambda iteration, config: 0.5)
    recover_cost.measure(work)
    shapes = [calibrate.shape_of(group) for group in work.groups]
    assert shapes == [(4, 4), (2, 4), (4, 2), (4, 4), (2, 4), (4, 2), (4, 4), (2,)]
    measured = method.tasks.pop()[0]
    method.seconds = lambda iteration, config: 0.0
    recipe = mini_recipe().with_method("pretended.method").changed(recover=work.recover.changed(iterations=1))
    pipeline.run(recipe, squeezed, stage="recover", quiet=True)
    assert len(method.tasks) == len(shapes)
    stage = method.tasks[0][0]
    assert measured.num_alike == stage.num_alike == 3
    assert torch.equal(measured.labels, stage.labels)
    assert torch.equal(measured.slots, stage.slots)
    assert (measured.unit_sizes, measured.size, measured.device) == (stage.unit_sizes, stage.size, stage.device)
    assert len(measured.streams("views")) == len(stage.streams("views"))


def test_all_groups_count_by_their_images_and_compilation_by_their_shapes(pretend):
    work, _ = pretend(lambda iteration, config: 0.5)
    found = RecoverCost(step_seconds=0.8, preparation_seconds=30.0, num_images=8, compilation="not compiled, as asked")
    assert found.seconds(work.groups, 1000) == pytest.approx(1000 * 50 * 0.1 + 30)
    compiled = RecoverCost(step_seconds=0.8, preparation_seconds=30.0, num_images=8, compilation="compiled, as asked")
    assert compiled.seconds(work.groups, 1000) == pytest.approx(1000 * 50 * 0.1 + 4 * 30)


def test_every_size_of_views_is_measured_for_its_share(pretend):
    """Each once, in one run of the method; a stretch like an earlier one is left after an iteration."""
    work, method = pretend(lambda iteration, stretch: stretch.side, view_sizes=(0.5, 1.0, 0.5), iterations=900)
    found = recover_cost.measure(work)
    assert found.step_seconds == pytest.approx((600 * 0.5 + 300 * 1.0) / 900)
    assert len(method.tasks) == 1
    assert method.done == 7 + 7 + 1


def test_teachers_that_take_turns_are_measured_turn_by_turn(pretend):
    work, _ = pretend(lambda iteration, stretch: 20.0 if iteration < 4 else (1.0, 2.0, 3.0, 6.0)[iteration % 4])
    stretch = Stretch(1000, teachers=(0.25,) * 4)
    work.__dict__["stretches"] = (stretch,)
    assert recover_cost.measure(work).step_seconds == pytest.approx(3.0)


def test_what_is_done_once_is_not_multiplied_by_the_images(pretend, monkeypatch):
    """A step that takes 30 s the first time, 0.2 s a row and 10 ms an image, of 10 classes with 140 images."""
    work, method = pretend(lambda iteration, stretch: 0.5, photographs=True)
    begun: list[int] = []

    def make(context: Context, config: Any) -> dict[str, torch.Tensor]:
        method.now += 0.2 + 0.01 * context.real.count(0) + (0.0 if begun else fixed)
        begun.append(context.real.count(0))
        return {"mean": torch.zeros(len(context.rows), 1)}

    monkeypatch.setattr(sys.modules["pretended.method"], "prepare", lambda config: (Preparation("step", make),), False)
    fixed = 3.0
    assert recover_cost.measure(work).prepare_seconds == pytest.approx(3 + 10 * 0.2 + sum(work.counts) * 0.01)
    assert begun == [8, 8, 32]
    begun.clear()
    fixed = 6.0  # one that takes long is not made again
    assert recover_cost.measure(work).prepare_seconds == pytest.approx((6.28 / 8) * sum(work.counts))
    assert begun == [8]


def test_a_plan_compiles_on_a_processor_only_when_asked(monkeypatch, work_of):
    def compiled(function: Any, **_: Any) -> Any:
        done.append(function)
        return function

    done: list[Any] = []
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compiling.Compiler, "wants", lambda self, amount: True)
    recipe = mini_recipe()
    found = recover_cost.measure(work_of(recipe))
    assert (done, found.measured_compiled) == ([], False)
    assert found.compilation.startswith("gradients of pixels by convnet3: compiled (")
    found = recover_cost.measure(work_of(recipe, execution=recipe.execution.changed(compile="on")))
    assert (len(done), found.measured_compiled) == (1, True)


def test_experts_are_stood_for_by_random_ones(work_of):
    recipe = mini_recipe().with_method("tesla")
    recipe = recipe.changed(recover=recipe.recover.changed(student_steps=1))
    assert recover_cost.measure(work_of(recipe)).step_seconds > 0


def test_a_method_that_tells_nothing_cannot_be_measured(pretend, monkeypatch):
    work, _ = pretend(lambda iteration, config: 0.0)
    monkeypatch.setattr(sys.modules["pretended.method"], "recover", lambda task, config: torch.zeros(1))
    with pytest.raises(
        AttarError, match=r"'pretended.method' declares iterations in Config.cost\(\) but does not report them"
    ):
        recover_cost.measure(work)


def test_memory_that_does_not_suffice_is_a_sentence(pretend, monkeypatch):
    def explode(task: Task, config: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    work, _ = pretend(lambda iteration, config: 0.0)
    monkeypatch.setattr(sys.modules["pretended.method"], "recover", explode)
    with pytest.raises(AttarError, match="not enough memory for 2 units side by side; lower --recover.parallel-units"):
        recover_cost.measure(work)


def test_other_errors_are_not_taken_for_a_lack_of_memory(pretend, monkeypatch):
    def fail(task: Task, config: Any) -> torch.Tensor:
        raise RuntimeError("a bug")

    work, _ = pretend(lambda iteration, config: 0.0)
    monkeypatch.setattr(sys.modules["pretended.method"], "recover", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        recover_cost.measure(work)


def test_real_images_are_stood_for_by_random_ones(pretend):
    work, method = pretend(lambda iteration, config: 0.5, photographs=True)
    recover_cost.measure(work)
    real = method.tasks[0][0].real
    assert real.take(3, [0, 5]).shape == (2, 3, 8, 8)
    assert [real.count(label) for label in range(10)] == list(work.counts)


def test_it_is_decided_as_in_the_stage_whether_to_compile(mini_run, work_of):
    events = [json.loads(line) for line in (mini_run / "recover" / "log.jsonl").read_text().splitlines()]
    (said,) = {event["compilation"] for event in events if event["event"] == "execution"}
    work = work_of(mini_recipe())
    assert "TFLOP" in said
    assert recover_cost.measure(work).compilation == said


def test_reasons_of_a_large_committee_are_counted():
    slow, fast = "not compiled (1 TFLOP to do: ...)", "compiled (900 TFLOP to do: ...)"
    assert recover_cost._in_short([slow, fast]) == f"{slow}; {fast}"
    assert recover_cost._in_short([slow] * 3).startswith("not compiled (3 networks")
    found = RecoverCost(1.0, 1.0, 8, compilation=recover_cost._in_short([slow, fast, slow]))
    assert found.compiled
    assert "1 of 3 networks" in found.compilation


def test_a_failed_compilation_is_told(monkeypatch, work_of):
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fail)
    recipe = mini_recipe()
    found = recover_cost.measure(work_of(recipe, execution=recipe.execution.changed(compile="on")))
    assert found.compilation == "not compiled, because that failed"
    assert not found.compiled


def test_a_teacher_that_does_not_suit_the_method_is_refused(work_of):
    squeeze = mini_recipe().squeeze
    with pytest.raises(AttarError, match="no BatchNorm layers"):
        recover_cost.measure(work_of(mini_recipe(), squeeze=squeeze.changed(architecture="squeezenet1_1"), size=64))
    with pytest.raises(AttarError, match="no network named 'convnet33'"):
        recover_cost.measure(work_of(mini_recipe(), squeeze=squeeze.changed(architecture="convnet33")))


def slow_recipe(name: str) -> Recipe[Any]:
    """A recipe whose recover takes some seconds on a core."""
    recipe = mini_recipe()
    if name == "digits":
        return recipe.changed(recover=recipe.recover.changed(ipc=10, unit_slots=10, iterations=300, snapshots=(100,)))
    training = recipe.squeeze.training.changed(epochs=1)
    side_by_side = {"ipc": 3, "parallel_units": 2, "iterations": 60, "grey": False, "accept_weak_teacher": True}
    return recipe.changed(
        data=recipe.data.changed(size=32),
        squeeze=recipe.squeeze.changed(architecture="resnet20", training=training),
        recover=recipe.recover.changed(**side_by_side),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "resnet20"])
def test_the_estimate_of_recover_is_what_recover_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work_of
):
    """Within a quarter, in the seconds of one CPU thread, for the machine may have other work; tried three times."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # which the stage reads
    recipe, ratios = slow_recipe(name), []
    pipeline.run(recipe, tmp_path / "0", stage="squeeze", quiet=True)
    for attempt in range(3):
        work, out = work_of(recipe, clock=time.process_time), tmp_path / str(attempt)
        estimate = recover_cost.measure(work).seconds(work.groups, recipe.recover.iterations)
        if attempt:
            out.mkdir()
            (out / "squeeze").symlink_to(tmp_path / "0" / "squeeze")
        pipeline.run(recipe, out, stage="recover", quiet=True)
        ratios.append(estimate / json.loads((out / "recover" / "manifest.json").read_text())["device_seconds"])
        if 0.75 < ratios[-1] < 1.25:
            return
    pytest.fail(f"estimate over truth: {ratios}")
