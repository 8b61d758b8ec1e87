"""The scripts for clusters are well formed, and the commands in them are commands that attar takes."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.recipes.arguments import changed_by, split
from attar.recipes.catalogue import recipe_named
from attar.store.objects import is_address

CLUSTERS = Path(__file__).parents[2] / "examples" / "clusters"
SRUN = "srun --kill-on-bad-exit=1 "


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTERS / name).read_text()))


def commands() -> dict[str, list[str]]:
    """What attar is asked in each script, as words."""
    job = documents("kubernetes.yaml")[1]["spec"]["template"]["spec"]["containers"][0]
    return {
        "slurm.sh": shlex.split(
            (CLUSTERS / "slurm.sh").read_text().partition(SRUN)[2].partition("&")[0].replace("\\\n", " ")
        ),
        "kubernetes.yaml": [*job["command"], *job["args"]],
        "skypilot.yaml": shlex.split(documents("skypilot.yaml")[0]["run"].replace("\\\n", " ")),
    }


@pytest.mark.parametrize("script", ["slurm.sh", "kubernetes.yaml", "skypilot.yaml"])
def test_the_command_is_one_that_attar_takes(script: str):
    words = commands()[script]
    assert words[0] == "torchrun"
    place = words.index("-m")
    assert words[place : place + 3] == ["-m", "attar", "run"]
    asked = split("run", words[place + 3 :])
    assert asked.out
    recipe = changed_by(recipe_named(asked.recipe), asked.settings, "attar run")
    assert recipe.execution.mirror == "$BUCKET/runs/in1k" * (script == "skypilot.yaml")


def test_skypilot_names_a_bucket_and_a_machine():
    (task,) = documents("skypilot.yaml")
    assert is_address(task["envs"]["BUCKET"])
    assert set(task) <= {"name", "workdir", "resources", "envs", "setup", "run"}, "no such keys of a SkyPilot task"
    assert "[s3]" in task["setup"]


def test_the_pods_find_one_another():
    service, job = documents("kubernetes.yaml")
    pod, machines = job["spec"]["template"]["spec"], job["spec"]["completions"]
    words = commands()["kubernetes.yaml"]
    assert job["spec"]["parallelism"] == machines
    assert f"--nnodes={machines}" in words
    assert pod["subdomain"] == service["metadata"]["name"]
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"--rdzv-endpoint={first}:29500" in words
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes


def test_the_ray_job_runs_a_command_that_attar_takes_on_gpus_that_its_machines_have():
    (job,) = documents("ray.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["attar", "run"]
    given = split("run", words[2:])
    assert (given.launcher, given.address) == ("ray", "auto")
    execution = changed_by(recipe_named(given.recipe), given.settings, "attar run").execution
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert (execution.job_cpus, execution.job_gpus) == (float(limits["cpu"]), limits["nvidia.com/gpu"])
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert given.out.startswith(f"{mount['mountPath']}/")
        assert mount["name"] == pod["volumes"][0]["name"]


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment with stand-ins of SLURM's commands, which write down how they were called."""
    waits = f"for i in $(seq 600); do [ -f {tmp_path}/end ] && exit 3; sleep 0.1; done"
    for name, does in {
        "scontrol": f'[ "$1" != show ] || echo one; echo "scontrol $*" >> {tmp_path}/calls',
        "srun": f'echo "srun $*" >> {tmp_path}/calls; {waits}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "one,two", "SLURM_NNODES": "2"}
    return {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def calls(folder: Path, count: int) -> list[str]:
    """The first calls, waited for."""
    for _ in range(600):
        found = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{count} calls were expected: {found}")


def test_a_slurm_job_queues_itself_again_before_its_time_is_over(slurm: dict[str, str], tmp_path: Path):
    with subprocess.Popen(["bash", CLUSTERS / "slurm.sh"], env=slurm) as job:
        asked, ran = calls(tmp_path, 2)
        assert asked == "scontrol show hostnames one,two"
        assert ran.startswith(SRUN + "torchrun --nnodes 2")
        assert "--rdzv-endpoint one:29500" in ran
        job.send_signal(signal.SIGUSR1)
        assert calls(tmp_path, 3)[2] == "scontrol requeue 7"
        (tmp_path / "end").touch()


def test_a_slurm_job_fails_as_its_command_does(slurm: dict[str, str], tmp_path: Path):
    (tmp_path / "end").touch()
    assert subprocess.run(["bash", CLUSTERS / "slurm.sh"], env=slurm, check=False).returncode == 3
