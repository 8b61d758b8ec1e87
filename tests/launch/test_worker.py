"""What a process on the cluster does with its order; Ray is imported, but no cluster is started."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from attar import __version__
from attar.core.errors import AttarError
from attar.core.execution import Execution
from conftest import mini_recipe

ray = pytest.importorskip("ray")
from attar.launch import cluster, worker  # noqa: E402
from attar.launch.inbox import Message  # noqa: E402


def order_for(out: Path, launch: str = "one") -> worker.Order:
    recipe = mini_recipe().to_yaml()
    return worker.Order(launch, recipe, str(out), "", str(out.parent), __version__, cpus=1.0, gpus=0.0)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"), [("auto", 0.0, "cpu"), ("auto", 0.5, "auto"), ("cuda", 1.0, "cuda")]
)
def test_a_job_without_a_gpu_computes_on_the_cpu(device: str, gpus: float, wanted: str, tmp_path: Path):
    order = replace(order_for(tmp_path), gpus=gpus)
    assert worker.execution_of(Execution(device=device), order).device == wanted


@pytest.mark.parametrize(
    ("device", "own", "gpus", "wanted"),
    [
        ("auto", "cuda:1", True, "cuda:1"),
        ("cuda", "cuda:1", True, "cuda:1"),
        ("cpu", "cuda:1", True, "cpu"),
        ("auto", "cuda:1", False, "auto"),
        ("auto", "cpu", True, "auto"),
    ],
)
def test_training_together_takes_the_gpu_that_ray_names(
    device: str, own: str, gpus: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker.torch.cuda, "is_available", lambda: gpus)
    assert worker.in_training(Execution(device=device), own).device == wanted


def test_two_launches_in_one_folder_leave_each_other_alone(tmp_path: Path):
    one, two = (order_for(tmp_path / "run", launch) for launch in ("one", "two"))
    train = tmp_path / "run" / ".ray-train-two"
    (tmp_path / "run").mkdir()
    with cluster.marked(worker.mark_of(one), tmp_path / "run" / ".ray-train-one"):
        with cluster.marked(worker.mark_of(two), train):
            train.mkdir()
            worker._prepare(one)
            worker._prepare(two)
        assert not train.exists()
        worker._prepare(one)
        with pytest.raises(AttarError, match="Machine 10.0.0.7 does not see the run's files"):
            worker._prepare(two)
    assert not (tmp_path / "run").exists(), "nothing is left of a run that made nothing"


def killed(out: Path) -> None:
    """A launch that is killed."""
    with cluster.marked(out / ".launch-killed", out / ".ray-train-killed"):
        (out / ".ray-train-killed").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_launch_left_is_removed_by_the_next(tmp_path: Path):
    out, beside = tmp_path / "run", tmp_path / "run" / ".ray-train-one"
    out.mkdir()
    launch = multiprocessing.get_context("fork").Process(target=killed, args=(out,))
    launch.start()
    launch.join()
    assert launch.exitcode == -signal.SIGKILL
    left = {".launch-killed", ".ray-train-killed"}
    assert {path.name for path in out.iterdir()} == left
    with cluster.marked(out / ".launch-begins", beside):  # a launch may not have its lock yet
        assert {path.name for path in out.iterdir()} == left | {".launch-begins"}
    old = time.time() - cluster.LOCK_SECONDS - 1
    with cluster.marked(out / ".launch-one", beside):
        for mark in out.glob(".launch-*"):
            os.utime(mark, (old, old))
        with cluster.marked(out / ".launch-two", beside):
            assert {path.name for path in out.iterdir()} == {".launch-one", ".launch-two"}
    assert not out.exists()


def test_progress_says_what_earlier_processes_did(monkeypatch: pytest.MonkeyPatch):
    sent = list[Message]()

    inbox = SimpleNamespace(put=SimpleNamespace(remote=sent.append))
    monkeypatch.setattr(worker, "_answer", lambda reference: None)
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.0)
    mail = worker.Mail(inbox, "squeeze")
    mail.advance(6, earlier=True)
    mail.advance(1, "loss 2")
    assert [(message.kind, message.steps, message.earlier) for message in sent] == [
        ("began", 0.0, 0.0), ("moved", 6.0, 6.0), ("moved", 7.0, 6.0)
    ]  # fmt: skip
    silent = worker.Mail(inbox, "squeeze", speaks=False)
    silent.advance()
    assert len(sent) == 3


def test_a_full_disk_is_a_sentence_and_other_errors_are_not():
    import errno

    def fail(error: Exception) -> None:
        with worker._errors_for_driver():
            raise error

    with pytest.raises(AttarError, match="The disk is full while writing a.bin"):
        fail(OSError(errno.ENOSPC, "No space left on device", "a.bin"))
    with pytest.raises(PermissionError):
        fail(PermissionError(errno.EACCES, "Permission denied"))
