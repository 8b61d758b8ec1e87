"""gs:// against an emulator of Google Cloud Storage, which runs in a process of its own.

Runs where attar's extra ``gs`` and the package gcp-storage-emulator are installed.
"""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gcsfs", reason="the extra gs is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

pytestmark = pytest.mark.slow

SERVE = """
import sys, threading
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="shelf").start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process whose gs:// is the emulator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    yield os.environ | {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "FSSPEC_GS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks what the emulator does not answer
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
    }
    server.kill()
    server.wait()


@pytest.fixture
def attar(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of attar; returns how it ended and what it wrote."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "attar", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_sent_and_fetched(attar, tmp_path: Path, mini_run: Path):
    sent = attar("push", mini_run, "gs://shelf/runs/mini")
    assert sent.returncode == 0, sent.stderr
    fetched = attar("pull", "gs://shelf/runs/mini", "--out", tmp_path / "back")
    assert fetched.returncode == 0, fetched.stderr
    back = contents(tmp_path / "back")
    assert {"squeeze", "recover", "distilled", "evaluate"} <= {name.partition("/")[0] for name in back}
    here = contents(mini_run)
    assert all(here[name] == data for name, data in back.items() if name in here)
    absent = attar("pull", "gs://shelf/absent", "--out", tmp_path / "absent")
    assert absent.returncode == 2
    assert "gs://shelf/absent" in absent.stderr
    assert not (tmp_path / "absent").exists()


def test_pictures_are_read_and_a_run_is_mirrored(attar, environment: dict[str, str], tmp_path: Path):
    draws, pictures = np.random.default_rng(0), tmp_path / "pictures"
    for number in range(60):
        written = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(written, "PNG")
        path = pictures / ("cat", "dog")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written.getvalue())
    send = "import sys, gcsfs; gcsfs.GCSFileSystem(token='anon').put(sys.argv[1], 'shelf/pictures', recursive=True)"
    subprocess.run([sys.executable, "-c", send, str(pictures)], env=environment, check=True)
    common = (
        "dm/digits-ipc1", "--data.size", "16", "--relabel.mode", "none", "--evaluate.rows", "distilled-hard",
        "--evaluate.num-seeds", "1", "--evaluate.protocol.training.epochs", "2", "--recover.iterations", "3",
        "--recover.real-batch", "4",
    )  # fmt: skip
    there = attar("run", *common, "--data.source", "gs://shelf/pictures", "--out", tmp_path / "there",
                  "--execution.mirror", "gs://shelf/runs/there")  # fmt: skip
    assert there.returncode == 0, there.stderr
    here = attar("run", *common, "--data.source", pictures, "--out", tmp_path / "here")
    assert here.returncode == 0, here.stderr
    images = "distilled/data/train-00000-of-00001.parquet"
    assert (tmp_path / "there" / images).read_bytes() == (tmp_path / "here" / images).read_bytes()
    fetched = attar("pull", "gs://shelf/runs/there", "--out", tmp_path / "back")
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "back" / images).read_bytes() == (tmp_path / "there" / images).read_bytes()
