"""--launcher ray on two simulated machines: the same bytes as one process, whatever is lost on the way."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from attar.stages.run import Run
from attar.stages.squeeze import CHECKPOINT
from conftest import MINI
from stages.test_determinism import assert_same, bytes_of, finish, start, start_ranks

pytestmark = pytest.mark.slow
MANY = [*MINI, "--recover.ipc", "12", "--recover.unit-classes", "5", "--recover.parallel-units", "1"]
MANY += ["--recover.iterations", "80"]
"""24 units, which take longer than a process takes to start."""
WAIT_SECONDS = 600


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[Any]:
    """A head without CPUs, where the driver is, and a machine of two CPUs; tests add the other one."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    made.add_node(num_cpus=2, **node)
    yield made
    made.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    node = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


def by_ray(cluster: Any, verb: str, out: Path, settings: list[str], said: Path, *more: str) -> BaseProcess:
    return start(
        [verb, "digits", "--out", str(out), "--launcher", "ray", "--address", cluster.address, *settings, *more], said
    )


def wait_until(true: Callable[[], bool], process: BaseProcess, said: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not true():
        assert process.is_alive(), said.read_text()
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.02)


def units_in(out: Path) -> list[Path]:
    return sorted((out / "recover" / "units").glob("*.safetensors"))


@pytest.fixture(scope="module")
def quiet(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many units by one process."""
    folder = tmp_path_factory.mktemp("quiet")
    for verb in ("squeeze", "recover"):
        finish(start([verb, "digits", "--out", str(folder / "run"), *MANY], folder / verb), folder / verb)
    return folder / "run"


@pytest.fixture
def begun(quiet: Path, tmp_path: Path) -> Path:
    """A run that has a teacher and no images."""
    shutil.copytree(quiet / "squeeze", tmp_path / "run" / "squeeze")
    return tmp_path / "run"


def test_one_process_two_processes_and_four_workers_on_two_machines_make_the_same_bytes(
    cluster: Any, second: Any, mini_run: Path, tmp_path: Path
):
    for process, said in start_ranks(["run", "digits", "--out", str(tmp_path / "two"), *MINI], tmp_path):
        finish(process, said)
    finish(by_ray(cluster, "run", tmp_path / "four", MINI, tmp_path / "said"), tmp_path / "said")
    assert_same(mini_run, tmp_path / "two")
    assert_same(mini_run, tmp_path / "four")
    said = (tmp_path / "said").read_text()
    assert "3 machines with 4 CPUs and 0 GPUs; a job takes 1 CPU, on " in said
    assert len(list((tmp_path / "four").glob("log.rank*.jsonl"))) >= 2, "several did jobs"
    assert "all real images" in said, "the table"
    assert not re.search(r"^\(|^\[?20\d\d-|raylet", said, re.MULTILINE), f"Ray's own log in {said}"


def test_a_machine_that_is_lost_costs_only_what_it_was_doing(
    cluster: Any, second: Any, quiet: Path, begun: Path, tmp_path: Path
):
    said = tmp_path / "said"
    process = by_ray(cluster, "recover", begun, MANY, said)
    # A third process is on the second machine.
    wait_until(lambda: len(units_in(begun)) >= 4 and len([*begun.glob("log.rank*.jsonl")]) >= 3, process, said)
    cluster.remove_node(second, allow_graceful=False)
    assert len(units_in(begun)) < 24, "the machine was lost too late for this test"
    finish(process, said)
    assert {name: content for name, content in bytes_of(begun).items() if name.startswith("recover")} == {
        name: content for name, content in bytes_of(quiet).items() if name.startswith("recover")
    }
    assert " begins again on " in said.read_text()


def test_a_machine_that_joins_later_does_jobs(cluster: Any, begun: Path, tmp_path: Path):
    said = tmp_path / "said"
    process = by_ray(cluster, "recover", begun, MANY, said)
    wait_until(lambda: bool(units_in(begun)), process, said)
    second = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    try:
        finish(process, said)
        assert len(list(begun.glob("log.rank*.jsonl"))) >= 3
    finally:
        cluster.remove_node(second)


def test_a_driver_that_is_killed_goes_on_when_it_is_started_again(
    cluster: Any, quiet: Path, begun: Path, tmp_path: Path
):
    said = tmp_path / "said"
    process = by_ray(cluster, "recover", begun, MANY, said)
    wait_until(lambda: len(units_in(begun)) >= 3, process, said)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    time.sleep(2)
    made = {path: path.stat().st_mtime_ns for path in units_in(begun)}
    assert 3 <= len(made) < 24
    finish(by_ray(cluster, "recover", begun, MANY, said), said)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items()), "no unit is made twice"
    assert "of 24 units are there already" in said.read_text()
    assert {name: content for name, content in bytes_of(begun).items() if name.startswith("recover")} == {
        name: content for name, content in bytes_of(quiet).items() if name.startswith("recover")
    }


def test_an_error_that_the_user_can_fix_is_one_sentence_and_is_not_tried_again(cluster: Any, tmp_path: Path):
    said = tmp_path / "said"
    process = by_ray(cluster, "squeeze", tmp_path / "run", MINI, said, "--squeeze.training.learning-rate", "1e30")
    process.join(WAIT_SECONDS)
    assert process.exitcode == 2
    *_, last = said.read_text().splitlines()
    assert last.startswith("attar: The teacher's training diverged in epoch 1 ")
    assert "Traceback" not in said.read_text()


def test_a_network_that_two_workers_train_together_ends_where_one_process_ends(
    cluster: Any, quiet: Path, tmp_path: Path
):
    said, out = tmp_path / "said", tmp_path / "run"
    more = ("--execution.data-parallel", "on", "--execution.train-workers", "2")
    finish(by_ray(cluster, "squeeze", out, MINI, said, *more), said)
    assert "2 processes train each teacher together" in said.read_text()
    (together,), (alone,) = Run(out).teachers, Run(quiet).teachers
    assert together.top1 == pytest.approx(alone.top1, abs=0.05)


def test_a_training_goes_on_when_one_of_its_processes_is_killed(cluster: Any, tmp_path: Path):
    said, out = tmp_path / "said", tmp_path / "run"
    more = ("--execution.data-parallel", "on", "--execution.train-workers", "2", "--squeeze.training.epochs", "40")
    process = by_ray(cluster, "squeeze", out, MINI, said, *more, "--squeeze.checkpoint-epochs", "5")
    wait_until(lambda: (out / "squeeze" / CHECKPOINT).exists(), process, said)
    names = {path.parent: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    victim = max(int(path.name) for path, name in names.items() if name.startswith(b"ray::RayTrainWorker"))
    os.kill(victim, signal.SIGKILL)
    finish(process, said)
    assert "squeeze   continues after epoch " in said.read_text()
    assert "squeeze begins again on " in said.read_text()
    assert (Run(out).teachers[0].top1 or 0) > 0.9
    assert "raylet" not in said.read_text()


ONLY_ONE_FAILS = """
from torch import distributed, nn
from attar.core.errors import AttarError

class Net(nn.Sequential):
    def forward(self, images):
        if len(images) > 8 and distributed.is_initialized() and distributed.get_rank() == 1:
            raise AttarError("The second process has had enough; ask it less.")
        return super().forward(images)

def network(num_classes, image_size):
    return Net(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
"""


def test_an_error_of_any_process_of_a_training_is_one_sentence(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one_fails.py").write_text(ONLY_ONE_FAILS)
    said = tmp_path / "said"
    more = ("--execution.data-parallel", "on", "--execution.train-workers", "2")
    more += ("--squeeze.architecture", "one_fails:network")
    process = by_ray(cluster, "squeeze", tmp_path / "run", MINI, said, *more)
    process.join(WAIT_SECONDS)
    assert process.exitcode == 2, said.read_text()
    *_, last = said.read_text().splitlines()
    assert last == "attar: The second process has had enough; ask it less."
    assert "Traceback" not in said.read_text()
    assert not [*(tmp_path / "run").glob(".launch*"), *(tmp_path / "run").glob(".ray-train*")]


def test_a_training_that_waits_for_machines_says_so(cluster: Any, tmp_path: Path):
    said, out = tmp_path / "said", tmp_path / "run"
    more = ("--execution.data-parallel", "on", "--execution.train-workers", "9")
    process = by_ray(cluster, "squeeze", out, MINI, said, *more)
    wanted = "ray       waiting for 9 places with 1 CPU each; the cluster has "
    wait_until(lambda: said.exists() and wanted in said.read_text(), process, said)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


@pytest.fixture
def with_gpus(environment: None) -> Iterator[Any]:
    """A head, and a machine that Ray believes to have four GPUs."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    made.add_node(num_cpus=2, num_gpus=4, **node)
    yield made
    made.shutdown()


def test_processes_keep_their_gpus(with_gpus: Any, quiet: Path, begun: Path, tmp_path: Path):
    said = tmp_path / "said"
    finish(by_ray(with_gpus, "recover", begun, MANY, said), said)
    assert "a job takes 1 CPU and 1 GPU, on " in said.read_text()
    assert "begins again" not in said.read_text()
    assert {name: content for name, content in bytes_of(begun).items() if name.startswith("recover")} == {
        name: content for name, content in bytes_of(quiet).items() if name.startswith("recover")
    }
    assert len(list(begun.glob("log.rank*.jsonl"))) <= 2, "a process for each CPU that has a GPU, for all units"
