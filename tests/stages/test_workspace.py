"""stages/workspace.py: a run computes in the precision that its folder was begun in, wherever it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.core import device, ranks
from attar.core.device import Execution
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.precision import Speeds
from attar.data.choice import DataChoice
from attar.stages.folder import MANIFEST, PLAN
from attar.stages.workspace import Workspace
from conftest import interrupt, mini_recipe

FASTER = {"bf16": 2.0, "fp32": 0.7}
"""How many times as fast as float32 bf16 is, on a processor where auto chooses the one or the other."""


class Heard(Log):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Moves to a processor where auto chooses this precision."""

    def move(precision: str) -> None:
        gains = FASTER[precision]
        found = Speeds({"fp32": 1.0, "bf16": gains}, {"fp32": 1.0, "bf16": gains})
        monkeypatch.setattr(device, "_cpu_info", lambda key: "avx512_bf16" if key == "flags" else "")
        monkeypatch.setattr(device.precision, "measured", lambda: found)

    return move


def space_of(out: Path, precision: Any = "auto") -> tuple[Workspace, Heard]:
    log = Heard()
    return Workspace(out, 0, DataChoice(), Execution(device="cpu", precision=precision, threads=1), log), log


def begin(out: Path, stage: str, precision: Any, name: str = MANIFEST) -> None:
    """Leave what a stage writes into its folder."""
    (out / stage).mkdir(parents=True)
    (out / stage / name).write_text(json.dumps({"stage": stage, "request": {"precision": precision}}))


@pytest.mark.parametrize("name", [PLAN, MANIFEST])
@pytest.mark.parametrize("stage", ["squeeze", "recover"])
@pytest.mark.parametrize(("begun", "here"), [("bf16", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
def test_the_precision_of_the_folder_stays(begun: str, here: str, stage: str, name: str, on: Any, tmp_path: Path):
    begin(tmp_path, stage, begun, name)
    on(here)
    space, log = space_of(tmp_path)
    assert space.device.precision == space.device.precision == begun
    faster = (
        f"{'which' if here == 'bf16' else 'because bf16'} runs {FASTER[here]}x as fast as float32 on matrix products"
    )
    sentence = f"attar     {tmp_path} was begun in {begun}, which stays; here auto would choose {here}, {faster}"
    assert [line.startswith(sentence) for line in log.said] == ([True] if begun != here else [])


def test_an_empty_folder_takes_what_is_faster_here(on: Any, tmp_path: Path):
    for here in ("bf16", "fp32"):
        on(here)
        space, log = space_of(tmp_path)
        assert space.device.precision == here
        assert log.said == []


def test_a_precision_asked_for_is_taken_whatever_the_folder_says(on: Any, tmp_path: Path):
    begin(tmp_path, "squeeze", "bf16")
    on("bf16")
    space, log = space_of(tmp_path, "fp32")
    assert space.device.precision == space.device_of(tmp_path / "squeeze").precision == "fp32"
    assert log.said == []


def test_stages_that_were_begun_apart_keep_their_own(on: Any, tmp_path: Path):
    begin(tmp_path, "squeeze", "fp32")
    begin(tmp_path, "recover", "bf16", PLAN)
    on("bf16")
    space, _ = space_of(tmp_path)
    assert space.device.precision == "fp32"
    assert space.device_of(tmp_path / "recover").precision == "bf16"
    assert space.device_of(tmp_path / "baselines" / "random" / "recover").precision == "fp32"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"request": 3}', '{"request": {"precision": "fp8"}}', '{"request": {}}']
)
def test_a_folder_that_says_nothing_decides_nothing(content: str, on: Any, tmp_path: Path):
    """Its stage refuses a damaged one by name; images from elsewhere have no precision."""
    (tmp_path / "squeeze").mkdir()
    (tmp_path / "squeeze" / MANIFEST).write_text(content)
    begin(tmp_path, "recover", "bf16")
    on("fp32")
    assert space_of(tmp_path)[0].device.precision == "bf16"


def test_the_first_process_decides_where_nothing_is_begun(on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its answer is bf16, though this process measured otherwise."""
    on("fp32")
    asked: list[bool] = []
    monkeypatch.setattr(ranks, "of_first", lambda choice: not asked.append(choice))
    space, _ = space_of(tmp_path)
    assert space.device.precision == "bf16"
    assert asked == [False]


def test_a_finished_run_is_repeated_on_a_processor_that_would_choose_otherwise(finished: Path, on: Any):
    """Nothing is made anew and nothing is refused; asked for in so many words, another precision is refused."""
    made = json.loads((finished / "squeeze" / MANIFEST).read_text())["request"]["precision"]
    other = "fp32" if made == "bf16" else "bf16"
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    scores = {path: path.read_bytes() for path in finished.rglob("scores/*.json")}
    on(other)
    pipeline.run(mini_recipe(), finished, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == before
    assert {path: path.read_bytes() for path in finished.rglob("scores/*.json")} == scores
    recipe = mini_recipe()
    asked = recipe.changed(execution=recipe.execution.changed(precision=other))
    with pytest.raises(AttarError, match="was made with other settings"):
        pipeline.run(asked, finished, quiet=True)


def test_units_that_are_left_are_made_as_the_others_were(finished: Path, on: Any):
    """Bit by bit, though auto would now choose the other precision."""
    made = json.loads((finished / "recover" / MANIFEST).read_text())["request"]["precision"]
    units = sorted((finished / "recover" / "units").iterdir())
    bits = units[-1].read_bytes()
    units[-1].unlink()
    interrupt(finished / "recover")
    on("fp32" if made == "bf16" else "bf16")
    pipeline.run(mini_recipe(), finished, stage="recover", quiet=True)
    assert units[-1].read_bytes() == bits
