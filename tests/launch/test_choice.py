"""--launcher and --address: what is refused, with one sentence and before anything is written."""

import socket
import sys
from pathlib import Path

import pytest

from attar.cli import main
from attar.launch import cluster


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    sentence, *more = capsys.readouterr().err.splitlines()
    assert not more
    return sentence


def test_ray_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "ray", None)
    sentence = refused(capsys, "run", "digits", "--out", str(tmp_path / "run"), "--launcher", "ray")
    assert "pip install 'attar[ray]'" in sentence
    assert not (tmp_path / "run").exists()


def test_an_unreachable_address_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    pytest.importorskip("ray")
    more = ("run", "digits", "--out", str(tmp_path / "run"), "--launcher", "ray", "--address")
    with socket.socket() as deaf:  # it keeps the port from others, and does not listen
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        assert f"No Ray cluster answers at {address} (" in refused(capsys, *more, address)
    for malformed in ("ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:"):
        assert "--address takes HOST:PORT" in refused(capsys, *more, malformed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run digits --launcher slurm", "no launcher named 'slurm'"),
        ("run digits --address 10.0.0.1:6379", "add --launcher ray"),
        ("show digits --launcher ray", "'attar show' has no --launcher"),
        ("plan digits --address 10.0.0.1:6379", "'attar plan' has no --address"),
        ("compare digits --methods dm --budgets 1kB --launcher ray", "'attar compare' has no --launcher"),
        ("run digits --execution.job-cpus 0", "job-cpus"),
        ("run digits --execution.job-gpus 1.5", "give a whole number of GPUs"),
    ],
)
def test_what_a_launcher_cannot_do_is_said(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    verb = words.partition(" ")[0]
    out = [] if verb in ("show", "plan") else ["--out", str(tmp_path / "run")]
    assert sentence in refused(capsys, *words.split(), *out)
    assert not (tmp_path / "run").exists()


def test_ray_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from attar.core.errors import AttarError
    from conftest import mini_recipe

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AttarError, match="without torchrun"), cluster.started(mini_recipe(), tmp_path, "", ""):
        pass
