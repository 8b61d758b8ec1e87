"""Which processes a launch asks a cluster for, and what it does when they are lost; no cluster is started."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.work import Job
from attar.launch import joint, slots, tasks
from attar.recipes.catalogue import recipe_named

ray_exceptions = pytest.importorskip("ray.exceptions")
NEEDS = {"num_cpus": 1.0, "num_gpus": 1.0}


@dataclass(eq=False)
class Call:
    """What a call on a process will answer; None: not yet."""

    actor: Any
    job: str = ""
    answer: Any = None


@dataclass
class FakeRay:
    """A cluster whose processes answer when a test says so."""

    resources: dict[str, float]
    calls: list[Call] = field(default_factory=list)
    killed: list[Any] = field(default_factory=list)
    exceptions: Any = ray_exceptions

    def remote(self, _: Any) -> Any:
        return SimpleNamespace(options=lambda **needs: SimpleNamespace(remote=self.actor))

    def actor(self) -> Any:
        actor = SimpleNamespace()
        actor.look = SimpleNamespace(remote=lambda order: self.call(Call(actor)))
        actor.run = SimpleNamespace(remote=lambda order, inbox, place, name: self.call(Call(actor, name)))
        return actor

    def call(self, call: Call) -> Call:
        self.calls.append(call)
        return call

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def wait(self, references: list[Call], num_returns: int, timeout: float) -> tuple[list[Call], list[Call]]:
        return [one for one in references if one.answer is not None], []

    def get(self, reference: Call) -> Any:
        if isinstance(reference.answer, Exception):
            raise reference.answer
        return reference.answer

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed.append(actor)


def made(cpus: float = 4, gpus: float = 4) -> tuple[FakeRay, slots.Slots]:
    ray = FakeRay({"CPU": cpus, "GPU": gpus})
    return ray, slots.Slots(ray, object, SimpleNamespace(), NEEDS)  # pyright: ignore[reportArgumentType]


def give(slot: slots.Slots, name: str) -> None:
    slot.give(Job(name, lambda advance: None), SimpleNamespace(), None, ("recover", ""))  # pyright: ignore


def test_processes_begin_once_and_do_one_job_after_another():
    ray, slot = made()
    slot.ask(2)
    slot.ask(2)
    assert len(ray.calls) == 2
    for call in ray.calls:
        call.answer = "seen"
    assert slot.wait(0)[0] == ["seen", "seen"]
    for name in "ab":
        give(slot, name)
    assert (slot.num_busy, slot.num_free) == (2, 0)
    ray.calls[2].answer = "done"
    _, ended = slot.wait(0)
    assert [(job.name, error) for job, error in ended] == [("a", None)]
    give(slot, "c")
    assert ray.calls[-1].actor is ray.calls[2].actor, "the same process, with the same GPU"
    assert not ray.killed


def test_more_processes_are_asked_for_than_there_is_room_for_so_that_the_cluster_may_grow():
    ray, slot = made(cpus=2)
    slot.ask(1000)
    assert len(ray.calls) == 2 + slots.SPARE
    slot.ask(0)
    assert ray.killed == [call.actor for call in ray.calls[2:]], "those for which there is room may do the next jobs"
    slot.end_idle(60)
    assert len(ray.killed) == slots.SPARE
    slot.end_idle()
    assert len(ray.killed) == 2 + slots.SPARE


def test_a_lost_process_gives_its_job_back_and_is_replaced():
    ray, slot = made()
    slot.ask(1)
    ray.calls[0].answer = "seen"
    slot.wait(0)
    give(slot, "a")
    lost = ray.calls[1].answer = ray_exceptions.ActorDiedError()
    _, ended = slot.wait(0)
    assert [(job.name, error) for job, error in ended] == [("a", lost)]
    assert (slot.num_busy, slot.num_free) == (0, 0)
    slot.ask(1)
    assert ray.calls[-1].actor is not ray.calls[0].actor


def test_processes_that_cannot_begin_end_in_a_sentence():
    ray, slot = made()

    def lose() -> None:
        slot.ask(1)
        ray.calls[-1].answer = ray_exceptions.ActorDiedError()
        slot.wait(0)

    for _ in range(slots.RETRIES):
        lose()
    with pytest.raises(AttarError, match="were lost 11 times before their first job"):
        lose()


def test_a_machine_without_attar_is_told_at_once():
    ray, slot = made()
    slot.ask(1)
    told = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'attar'"
    cause = ray_exceptions.RayTaskError("Worker.__init__", told, RuntimeError("failed to import"))
    ray.calls[0].answer = ray_exceptions.ActorDiedError(cause)
    with pytest.raises(AttarError, match=r"lacks a package \(No module named 'attar'\)"):
        slot.wait(0)


def test_idle_processes_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slots, "IDLE_SECONDS", 0.01)
    ray, slot = made()
    slot.ask(1)
    ray.calls[0].answer = "seen"
    slot.wait(0)
    slot.rest()
    slot._timer.join()
    assert ray.killed == [ray.calls[0].actor]
    slot.close()


@pytest.mark.parametrize(("cpus", "gpus", "wanted"), [(8, 4, 4), (3, 4, 3), (8, 0, 0)])
def test_room_is_counted_in_cpus_and_gpus(cpus: float, gpus: float, wanted: int):
    ray = FakeRay({"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus})
    assert slots.room(ray, NEEDS) == wanted
    assert slots.room(FakeRay({"CPU": 2, "GPU": 1}), {"num_cpus": 0.1, "num_gpus": 0.1}) == 10


def test_more_processes_than_a_cluster_that_cannot_grow_has_are_refused():
    ray = FakeRay({"CPU": 2.0})
    needs = {"num_cpus": 1.0, "num_gpus": 0.0}
    tasks.refuse_too_large(ray, needs, 2)
    with pytest.raises(
        AttarError, match="^--execution.train-workers 9 needs 9 times 1 CPU, and this machine has 2 CPUs"
    ):
        tasks.refuse_too_large(ray, needs, 9)
    with pytest.raises(AttarError, match="^A job needs 4 CPUs, and this machine has 2 CPUs"):
        tasks.refuse_too_large(ray, needs | {"num_cpus": 4.0}, 1)


@pytest.mark.parametrize(
    ("device", "asked", "gpus", "wanted"),
    [
        ("auto", -1.0, 4, 1.0),
        ("auto", -1.0, 0, 0.0),
        ("cpu", -1.0, 4, 0.0),
        ("auto", 0.0, 4, 0.0),
        ("cuda", 0.5, 4, 0.5),
    ],
)
def test_a_job_takes_a_gpu_where_there_are_some(device: str, asked: float, gpus: float, wanted: float):
    recipe = recipe_named("digits")
    recipe = recipe.changed(execution=recipe.execution.changed(device=device, job_gpus=asked))
    assert tasks.needs(FakeRay({"CPU": 4.0, "GPU": gpus}), recipe)["num_gpus"] == wanted


def group_error(**failures: Exception) -> Exception:
    error = RuntimeError("Training failed due to worker errors")
    error.worker_failures = {int(rank[1:]): failure for rank, failure in failures.items()}  # pyright: ignore
    return error


def died(preempted: bool = False) -> Exception:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    end = ray_exceptions.ActorDiedError()
    if preempted:
        end = type("Ended", (ray_exceptions.RayActorError,), {"preempted": True})()
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=end)


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4711")


def test_training_is_repeated_when_a_process_was_lost():
    pytest.importorskip("ray.train.torch")
    assert not joint.was_announced(group_error(r1=died()))
    assert not joint.was_announced(group_error(r0=GLOO, r1=died()))
    assert not joint.was_announced(group_error(r0=GLOO)), "the others fail first"
    assert not joint.was_announced(group_error(r0=ranks.PeerLostError("a process was lost")))
    assert joint.was_announced(group_error(r0=GLOO, r1=died(preempted=True)))
    assert not joint.was_announced(ray_exceptions.ActorDiedError())


def test_an_error_of_any_training_process_that_the_user_can_fix_is_told():
    pytest.importorskip("ray.train.torch")
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    refusal = AttarError("a.png cannot be read; remove it.")
    for failure in (refusal, UserExceptionWithTraceback(refusal, "Traceback ...")):
        for others in ({"r0": GLOO}, {"r0": died()}, {}):
            with pytest.raises(AttarError, match=r"^a\.png cannot be read; remove it\.$"):
                joint.was_announced(group_error(**others, r1=failure))


def test_an_error_of_the_program_is_raised_as_it_is():
    pytest.importorskip("ray.train.torch")
    error = group_error(r0=GLOO, r1=KeyError("epoch"))
    with pytest.raises(RuntimeError) as raised:
        joint.was_announced(error)
    assert raised.value is error


def test_ray_without_its_training_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    with pytest.raises(AttarError, match=r"lacks; install it by: pip install 'attar\[ray\]'"):
        joint.load()
