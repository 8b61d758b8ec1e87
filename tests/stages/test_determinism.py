"""The same recipe makes the same files: in one process, in two, and after being killed in every stage."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from attar import cli, pipeline
from attar.store import labels as label_files
from attar.store.weights import load_weights
from conftest import MINI, interrupt, mini_recipe
from meeting import free_port

TIMEOUT_SECONDS = 900


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file whose bytes are a result: weights, images, labels, pictures; no logs, nothing with seconds."""
    kept = (".safetensors", ".parquet", ".png")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if (path.suffix in kept and path.stem != "accuracy-cost") or path.name in ("teacher.json", "labels.json")
    }


def accuracies(run: Path) -> list[tuple]:
    from attar.report.table import lines

    return [(line.row, line.top1_mean, line.top1_std, line.top5_mean) for line in lines(run)]


def assert_same(run: Path, other: Path) -> None:
    first, second = bytes_of(run), bytes_of(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert accuracies(run) == accuracies(other)


CONTEXT = multiprocessing.get_context("forkserver")
"""Starts processes from one that has imported attar and computed nothing: alone each would import for seconds."""
CONTEXT.set_forkserver_preload(["attar.cli", "attar.pipeline", "torch.distributed", "sklearn.datasets"])


def attar(arguments: Sequence[str], environment: dict[str, str], said: Path, dies_at: Path | None = None) -> None:
    """The command line, in a process of its own whose output goes into a file.

    It is killed as soon as the file ``dies_at`` is there.
    """
    os.environ |= environment
    if dies_at is not None:
        die_at(dies_at)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["attar", *arguments]
    cli.main()


def die_at(path: Path) -> None:
    """Kill this process when it has put a file there; all files are moved into place."""
    replace = Path.replace

    def replace_and_die(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        if moved == path:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = replace_and_die


def start(arguments: Sequence[str], said: Path, dies_at: Path | None = None, **environment: str) -> BaseProcess:
    process = CONTEXT.Process(target=attar, args=(arguments, environment, said, dies_at))
    process.start()
    return process


def finish(process: BaseProcess, said: Path) -> None:
    process.join(TIMEOUT_SECONDS)
    code = process.exitcode
    process.kill()
    assert code == 0, said.read_text()


def start_ranks(arguments: Sequence[str], folder: Path, size: int = 2) -> list[tuple[BaseProcess, Path]]:
    """As torchrun starts them."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    outputs = [folder / f"said{rank}" for rank in range(size)]
    return [(start(arguments, said, RANK=str(rank), **meeting), said) for rank, said in enumerate(outputs)]


def test_another_seed_gives_other_images(mini_run: Path, tmp_path: Path):
    recipe = mini_recipe().changed(seed=1)
    pipeline.run(recipe, tmp_path / "other", stage="squeeze", quiet=True)
    pipeline.run(recipe, tmp_path / "other", stage="recover", quiet=True)
    name = "recover/data/train-00000-of-00001.parquet"
    assert (mini_run / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_two_processes_write_the_same_files_as_one(mini_run: Path, tmp_path: Path):
    for process, said in start_ranks(["run", "digits", "--out", str(tmp_path / "two"), *MINI], tmp_path):
        finish(process, said)
    assert "random real, soft labels" in (tmp_path / "said0").read_text()
    assert_same(mini_run, tmp_path / "two")
    logs = [(tmp_path / "two" / "recover" / name).read_text() for name in ("log.jsonl", "log.rank1.jsonl")]
    assert "slot00000" in logs[0]
    assert "slot00001" in logs[1], "the second process had no unit of its own"


def test_two_processes_train_the_members_of_a_committee_as_one_does(mini_run: Path, tmp_path: Path):
    weak = "{training: {epochs: 1}}"
    for out, size in (("one", 1), ("two", 2)):
        command = ["squeeze", "digits", "--out", str(tmp_path / out), *MINI, "--squeeze.members", "{}", weak, weak]
        for process, said in start_ranks(command, tmp_path, size):
            finish(process, said)
    first, second = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two")
    assert first == second
    assert sum(name.endswith("teacher.safetensors") for name in first) == 3
    alone = (mini_run / "squeeze" / "teacher.safetensors").read_bytes()
    assert first["squeeze/0/teacher.safetensors"] == alone
    logs = sorted((tmp_path / "two" / "squeeze").glob("*/log*.jsonl"))
    assert {path.name for path in logs} == {"log.jsonl", "log.rank1.jsonl"}, "a process had no member of its own"


def test_two_processes_train_a_teacher_together(tmp_path: Path):
    command = ["squeeze", "digits", "--out", str(tmp_path / "two"), "--squeeze.training.epochs", "1"]
    command += ["--squeeze.architecture", "convnet2", "--execution.threads", "1", "--execution.data-parallel", "on"]
    for process, said in start_ranks(command, tmp_path):
        finish(process, said)
    manifest = json.loads((tmp_path / "two" / "squeeze" / "manifest.json").read_text())
    assert manifest["result"]["processes"] == 2
    assert manifest["result"]["top1"] > 0.5


@pytest.mark.slow
def test_two_processes_train_networks_together(tmp_path: Path):
    own = ["--method", "random", "--recover.ipc", "2", "--relabel.epochs", "3", "--squeeze.training.epochs", "2"]
    own += ["--squeeze.architecture", "convnet2_in", "--evaluate.students", "convnet2_in", "--evaluate.num-seeds", "1"]
    own += ["--evaluate.protocol.training.epochs", "3", "--evaluate.full-data", "train"]
    own += ["--evaluate.rows", "distilled", "full", "--execution.threads", "1", "--execution.precision", "fp32"]
    for out, size in (("one", 1), ("two", 2)):
        command = ["run", "digits", "--out", str(tmp_path / out), *own, "--execution.data-parallel", "on"]
        for process, said in start_ranks(command, tmp_path, size):
            finish(process, said)
    assert "2 processes train each student together" in (tmp_path / "said0").read_text()
    manifests = [json.loads((tmp_path / out / "squeeze" / "manifest.json").read_text()) for out in ("one", "two")]
    assert [each["result"].get("processes") for each in manifests] == [None, 2]
    assert manifests[0]["request"] == manifests[1]["request"], "another number of processes would be refused"
    first, second = (load_weights(tmp_path / out / "squeeze" / "teacher.safetensors")[0] for out in ("one", "two"))
    torch.testing.assert_close(first, second, rtol=0.05, atol=0.02)
    for (row, top1, *_), (same, other, *_) in zip(*(accuracies(tmp_path / out) for out in ("one", "two")), strict=True):
        assert row == same
        assert top1 == pytest.approx(other, abs=5)


def test_killed_in_every_stage_and_run_again_equals_uninterrupted(mini_run: Path, tmp_path: Path):
    out, said = tmp_path / "killed", tmp_path / "said"
    command = ["run", "digits", "--out", str(out), *MINI]
    for stage, sign in {
        "squeeze": out / "squeeze" / "checkpoint.safetensors",
        "recover": out / "recover" / "units" / "slot00000-block0000.safetensors",
        "relabel": out / "distilled" / "plan.json",
        "evaluate": next(
            path
            for path in (mini_run / "evaluate" / "scores").glob("*seed0*")
            if json.loads(path.read_text())["score"]["row"] == "distilled"
        ),
    }.items():
        process = start(command, said, out / sign.relative_to(mini_run) if stage == "evaluate" else sign)
        process.join(TIMEOUT_SECONDS)
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        folder = "distilled" if stage == "relabel" else stage
        assert not (out / folder / "manifest.json").exists(), f"{stage} was finished before it could be killed"
    finish(start(command, said), said)
    assert_same(mini_run, out)


def test_relabel_continues_after_the_files_that_are_there(mini_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(label_files, "SHARD_BYTES", 2 * 20 * 50)  # a file for every epoch or two
    out = tmp_path / "run"
    shutil.copytree(mini_run / "squeeze", out / "squeeze")
    shutil.copytree(mini_run / "recover", out / "recover")
    pipeline.run(mini_recipe(), out, stage="relabel", quiet=True)
    folder = out / "distilled" / "labels"
    before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert len(before) > 2
    kept = folder / sorted(before)[0]
    stamp = kept.stat().st_mtime_ns
    interrupt(out / "distilled")
    (folder / sorted(before)[1]).unlink()
    pipeline.run(mini_recipe(), out, stage="relabel", quiet=True)
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == before
    assert kept.stat().st_mtime_ns == stamp


def test_finished_stages_are_not_done_again(mini_run: Path, tmp_path: Path):
    out = tmp_path / "copy"
    shutil.copytree(mini_run, out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    pipeline.run(mini_recipe(), out, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps


@pytest.mark.gpu
def test_a_gpu_repeats_itself(tmp_path: Path):
    assert torch.cuda.is_available()
    recipe = mini_recipe().changed(execution=mini_recipe().execution.changed(device="cuda"))
    for name in ("first", "second"):
        pipeline.run(recipe, tmp_path / name, quiet=True)
    first, second = bytes_of(tmp_path / "first"), bytes_of(tmp_path / "second")
    images = "recover/data/train-00000-of-00001.parquet"
    assert first[images] == second[images]
