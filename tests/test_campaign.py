"""benchmarks/campaign.py: rehearsals of every step, time limits, and state that travels from machine to machine."""

import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.store import weights

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def campaign() -> Iterator[ModuleType]:
    """The script as a module."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("campaign")
    for path in BENCHMARKS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def carrying(campaign: ModuleType) -> ModuleType:
    return sys.modules["carrying"]


def rehearse(campaign: ModuleType, folder: Path, *steps: str, work: str = "work", state: str = "state") -> int:
    where = ["--out", folder / "out", "--work", folder / work, "--state", folder / state]
    return campaign.main([*steps, *map(str, where), "--dry"])


def results(folder: Path, step: str) -> dict[str, Any]:
    return json.loads((folder / "out" / f"{step}.json").read_text())


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(("check",), marks=pytest.mark.slow),
        ("speed",),
        ("teacher", "tiny-ipc10", "tiny-ipc50"),
        pytest.param(("teacher", "tiny-ipc10", "tiny-family"), marks=pytest.mark.slow),
        pytest.param(("cifar",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_every_step_is_rehearsed_with_the_code_that_a_gpu_runs(
    campaign: ModuleType, steps: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert rehearse(campaign, tmp_path, *steps) == 0, capsys.readouterr().out
    known = sys.modules["steps"].STEPS
    assert set(known) == {"check", "speed", "teacher", "tiny-ipc10", "tiny-ipc50", "tiny-family", "cifar10", "cifar100"}
    for step in ("cifar10", "cifar100") if steps == ("cifar",) else steps:
        found = results(tmp_path, step)
        assert list(found["pieces"]) == [piece.name for piece in known[step] if piece.rehearsed]
        assert all(piece["values"] and piece["seconds"] >= 0 for piece in found["pieces"].values())
        assert found["dry"]
        log = (tmp_path / "out" / f"{step}.log").read_text()
        assert all(f"{step}: {name} took" in log for name in found["pieces"])
        assert "failed" not in log
        assert len(list((tmp_path / "out").glob(f"{step}.*"))) <= 8
    if "tiny-ipc50" in steps:
        values = results(tmp_path, "tiny-ipc50")["pieces"]["judge"]["values"]
        assert {line["row"]: line["num_images"] for line in values["table"]}["distilled"] == 5 * 4
        assert values["published"].startswith("no result, for it is a rehearsal: 48.7, ")
        assert "reproduced" in values["published"]
    if "check" in steps:
        pieces = results(tmp_path, "check")["pieces"]
        assert pieces["gpu tests"]["values"]["passed"] > 0
        assert pieces["repeats"]["values"]["usual: repeated in a process"]
        assert pieces["gradients"]["values"]["worst cosine"] > 0.999


def test_a_training_that_the_time_ran_out_for_goes_on_on_another_machine(
    campaign: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    carried = importlib.import_module("carried")
    shortened, save_tree = carried.shortened, weights.save_tree

    def longer(recipe: Any) -> Any:
        short = shortened(recipe)
        return short.changed(squeeze=short.squeeze.changed(training=short.squeeze.training.changed(epochs=3)))

    def out_of_time(path: Path, tree: Any) -> None:
        save_tree(path, tree)
        raise campaign.OutOfTimeError

    monkeypatch.setattr(carried, "shortened", longer)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_tree", out_of_time)
        assert rehearse(campaign, tmp_path, "teacher") == 1
    assert "the next command goes on with it" in capsys.readouterr().out
    assert results_of_nothing(tmp_path)
    (tmp_path / "out").rename(tmp_path / "state")
    assert rehearse(campaign, tmp_path, "teacher", work="elsewhere") == 0
    printed = capsys.readouterr()
    assert "state brought back" in printed.out
    assert "continues after epoch 1 of 3" in printed.err
    (tmp_path / "out").rename(tmp_path / "later")
    assert rehearse(campaign, tmp_path, "teacher", work="third", state="later") == 0
    assert "squeeze is done already: top-1 %" in capsys.readouterr().out
    brought = (tmp_path / "third" / "teacher" / "half" / teachers.WEIGHTS).read_bytes()
    assert brought == (tmp_path / "elsewhere" / "teacher" / "half" / teachers.WEIGHTS).read_bytes()


def results_of_nothing(folder: Path) -> bool:
    """No piece is recorded as done."""
    path = folder / "out" / "teacher.json"
    return not path.exists() or not json.loads(path.read_text())["pieces"]


def test_a_step_stops_by_itself_and_does_no_piece_twice(
    campaign: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    calls, limits, timer = [], [], signal.setitimer
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds: limits.append(seconds))

    def at(now: float) -> Any:
        """A campaign whose clock stands still unless a piece moves it."""
        out = tmp_path / "out"
        return campaign.Campaign(out, tmp_path / "work", (out,), tmp_path / "data", True, 1000.0, lambda: now)

    def quick(running: Any) -> dict[str, Any]:
        calls.append("quick")
        running.clock = lambda: 1000.0 - campaign.PACKING_SECONDS - 0.2
        return {"answer": 42}

    def slow(_: Any) -> dict[str, Any]:
        calls.append("slow")
        assert limits[-1] == pytest.approx(0.2)
        timer(signal.ITIMER_REAL, limits[-1])  # not before: on a busy machine the time is over before the piece begins
        time.sleep(60)
        return {}

    def broken(_: Any) -> dict[str, Any]:
        raise ValueError("of no use")

    pieces = [campaign.Piece("broken", broken), campaign.Piece("quick", quick), campaign.Piece("slow", slow)]
    assert not campaign.run_step(at(0.0), "mine", pieces)
    assert results(tmp_path, "mine")["pieces"].keys() == {"quick"}
    assert not campaign.run_step(at(999.0), "mine", pieces)
    assert calls == ["quick", "slow"]
    printed = capsys.readouterr().out
    assert "mine: broken failed: ValueError: of no use" in printed
    assert "mine: slow stops, for the time is over" in printed
    assert "mine: quick is done already: answer 42" in printed
    assert "mine: slow is left for the next command" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chekc", "--out", "o", "--dry", "--work", "w"], "There is no step named 'chekc'; did you mean check"),
        (["check"], "Name the steps and --out FOLDER"),
        (["--prepare", "tiny"], "'tiny' is no NAME=FOLDER"),
        (["--prepare", "tiny=nowhere"], "nowhere holds no Parquet files to carry"),
    ],
)
def test_a_faulty_command_is_refused(
    campaign: ModuleType,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    assert campaign.main(arguments) == 2
    assert capsys.readouterr().err.startswith(words)


def test_without_a_gpu_only_rehearsals_are_done(
    campaign: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert campaign.main(["check", "--out", str(tmp_path)]) == 2
    assert "--dry rehearses the steps on a CPU" in capsys.readouterr().err


def test_state_that_is_too_large_leaves_out_what_is_worth_least(
    carrying: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(carrying, "PART_BYTES", 20_000)
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [folder / name for name in ("first", "second", "large", "small")]
    for path, size in zip(files, (30_000, 20_000, 60_000, 3_000), strict=True):
        path.write_bytes(bytes([size % 251]) * size)
    assert carrying.pack(folder, files, tmp_path / "state", "mine") == ["large"]
    sizes = [path.stat().st_size for path in sorted((tmp_path / "state").glob("*.part"))]
    assert max(sizes) <= 20_000
    assert len(sizes) <= carrying.MOST_PARTS
    assert carrying.unpack([tmp_path / "state"], "mine", tmp_path / "again")
    for path in files[:2] + files[3:]:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert not carrying.unpack([tmp_path / "state"], "mine", tmp_path / "again"), "what is here stays"
    part = next((tmp_path / "state").glob("*.0.part"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(AttarError, match="are damaged; carry them again"):
        carrying.unpack([tmp_path / "state"], "mine", tmp_path / "third")
    part.unlink()
    with pytest.raises(AttarError, match=r"mine\.0\.part is missing; carry all parts"):
        carrying.unpack([tmp_path / "state"], "mine", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_images_travel_in_portions_with_their_bytes_and_order(carrying: ModuleType, tmp_path: Path):
    draws = torch.Generator().manual_seed(0)
    images = [bytes(torch.randint(0, 256, (900,), generator=draws, dtype=torch.uint8).tolist()) for _ in range(90)]
    table = pa.table({"image": pa.array(images), "label": pa.array(list(range(90)))})
    (tmp_path / "whole").mkdir()
    for place in range(3):
        pq.write_table(table.slice(30 * place, 30), tmp_path / "whole" / f"train-{place:05d}-of-00003.parquet")
    folders = carrying.portions(tmp_path / "whole", tmp_path / "data", "mine", portion_bytes=40_000)
    assert len(folders) > 1
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.glob("*.parquet")) <= 40_000
    together = carrying.gathered(tmp_path / "data", "mine", tmp_path / "together")
    read = pa.concat_tables(pq.read_table(path) for path in sorted(together.glob("train-*.parquet")))
    assert read.equals(table)
    folders[-1].rename(tmp_path / "lost")
    with pytest.raises(AttarError, match=rf"are not all here; .* carry {folders[-1]}\."):
        carrying.gathered(tmp_path / "data", "mine", tmp_path / "again")
