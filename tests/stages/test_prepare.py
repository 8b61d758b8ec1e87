"""stages/prepare.py: tables are made once, in parts that processes share and a killed run keeps, and found again."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.execution import Execution
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.methods import cda
from attar.ops.pixels import Normalisation
from attar.stages import prepare
from attar.stages.workspace import Workspace
from attar.synthesis.method import Preparation
from attar.synthesis.task import Context, Network

NUM_CLASSES = 7
CONFIG = cda.Config(ipc=5, target="class")


class Killed(BaseException):
    """Ends a process in the middle of its work."""


class RealImages:
    num_classes = NUM_CLASSES

    def count(self, label: int) -> int:
        return label + 1

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        raise AssertionError("nobody looks at images here")

    def class_name(self, label: int) -> str:
        return f"class {label}"


class Heard(Log):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


class Step:
    """Rows of numbers that say who made them; keeps the rows that were made, and may be killed."""

    def __init__(self, kill_at: int = -1) -> None:
        self.made: list[tuple[int, list[int]]] = []
        self.kill_at = kill_at

    def __call__(self, context: Context, config: Any) -> dict[str, Tensor]:
        if self.kill_at in context.rows:
            raise Killed
        self.made.append((context.number, list(context.rows)))
        drawn = [torch.rand(2, generator=context.stream("numbers", row)) for row in context.rows]
        return {
            "numbers": torch.stack(drawn) + config.bn_weight + 10 * context.number,
            "counts": torch.tensor([context.real.count(row) for row in context.rows]),
        }

    def preparation(self, **more: Any) -> Preparation:
        return Preparation("numbers", self, reads=("bn_weight",), **more)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "ROWS", 3)


def run(
    out: Path, *steps: Preparation, config: Any = CONFIG, weights: Sequence[str] = ("a", "b"), seed: int = 0
) -> tuple[prepare.Tables, list[str]]:
    log = Heard()
    space = Workspace(out, seed, DataChoice(), Execution(device="cpu", precision="fp32", threads=1), log)
    network = Network(nn.Identity(), Normalisation((0.5,) * 3, (0.5,) * 3))
    networks = [network] * len(weights)
    return prepare.run(space, steps, config, networks, weights, RealImages(), log), log.warned


def test_steps_move_the_progress_bar_within_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moved, step = list[float](), Step()

    @contextlib.contextmanager
    def progress(self: Log, *_: Any, **__: Any) -> Iterator[Callable[[float], None]]:
        yield moved.append

    def make(context: Context, config: Any) -> dict[str, Tensor]:
        context.advance(0.5)
        context.advance(9)  # more than there are
        return step(context, config)

    monkeypatch.setattr(Log, "progress", progress)
    run(tmp_path, Preparation("numbers", make, reads=("bn_weight",)), weights=("a",))
    assert moved == [0.5, 2.5, 0, 0.5, 2.5, 0, 0.5, 0.5, 0]


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


def test_tables_have_a_row_for_each_class_and_are_made_for_each_teacher(tmp_path: Path):
    step = Step()
    table, _ = run(tmp_path, step.preparation())
    assert step.made == [(number, rows) for number in (0, 1) for rows in ([0, 1, 2], [3, 4, 5], [6])]
    assert table("numbers.counts").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert torch.equal(table("numbers.numbers", teacher=1), table("numbers.numbers") + 10)
    names = "there is no table 'numbers.other' of teacher 0; there are numbers.counts, numbers.numbers"
    with pytest.raises(KeyError, match=names):
        table("numbers.other")
    with pytest.raises(KeyError):
        table("numbers.numbers", teacher=2)
    assert len(files(tmp_path)) == 2, "parts are left"


def test_a_step_may_be_made_once_and_by_slot(tmp_path: Path):
    step = Step()
    table, _ = run(tmp_path, step.preparation(per_teacher=False, rows="slot"))
    assert step.made == [(0, [0, 1, 2]), (0, [3, 4])]
    assert table("numbers.numbers", teacher=1).shape == (5, 2)


def test_a_step_with_long_rows_is_shared_out_row_by_row(tmp_path: Path):
    step = Step()
    table, _ = run(tmp_path, step.preparation(per_teacher=False, rows="slot", rows_per_job=2))
    assert step.made == [(0, [0, 1]), (0, [2, 3]), (0, [4])]
    assert table("numbers.counts").tolist() == [1, 2, 3, 4, 5]


def test_a_killed_run_keeps_its_parts_and_ends_with_the_same_bytes(tmp_path: Path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    run(whole, Step().preparation())
    with pytest.raises(Killed):
        run(killed, Step(kill_at=6).preparation())
    step = Step()
    run(killed, step.preparation())
    assert step.made == [(0, [6]), *((1, rows) for rows in ([0, 1, 2], [3, 4, 5], [6]))]
    assert files(killed) == files(whole)


def test_finished_tables_are_found_again_and_damaged_ones_are_made_again(tmp_path: Path):
    first, _ = run(tmp_path, Step().preparation())
    step = Step()
    again, warned = run(tmp_path, step.preparation())
    assert step.made == warned == []
    assert torch.equal(again("numbers.numbers"), first("numbers.numbers"))
    before = files(tmp_path)
    path = tmp_path / sorted(before)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    _, warned = run(tmp_path, step.preparation())
    assert len(step.made) == 3, "the other teacher's are whole"
    assert len(warned) == 1
    assert f"{path} is damaged" in warned[0]
    assert warned[0].endswith("it is made again")
    assert files(tmp_path) == before


def test_a_damaged_part_is_made_again(tmp_path: Path):
    with pytest.raises(Killed):
        run(tmp_path, Step(kill_at=6).preparation())
    path = tmp_path / sorted(files(tmp_path))[0]
    path.write_bytes(path.read_bytes()[:100])
    step = Step()
    _, warned = run(tmp_path, step.preparation())
    assert (0, [0, 1, 2]) in step.made
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        ({"config": CONFIG.changed(learning_rate=0.5)}, []),
        ({"config": CONFIG.changed(bn_weight=0.5)}, [0, 0, 0, 1, 1, 1]),
        ({"weights": ("a", "c")}, [1, 1, 1]),
        ({"weights": ("b", "a")}, []),
        ({"seed": 1}, [0, 0, 0, 1, 1, 1]),
    ],
)
def test_what_a_step_reads_and_nothing_else_makes_it_another_one(
    tmp_path: Path, change: dict[str, Any], remade: list[int]
):
    run(tmp_path, Step().preparation())
    step = Step()
    run(tmp_path, step.preparation(), **change)
    assert [number for number, _ in step.made] == remade


def test_a_step_gets_the_settings_that_it_reads_and_no_others(tmp_path: Path):
    def make(context: Context, config: Any) -> dict[str, Tensor]:
        assert vars(config) == {"bn_weight": CONFIG.bn_weight, "min_crop": CONFIG.min_crop}
        return {"nothing": torch.zeros(len(context.rows))}

    run(tmp_path, Preparation("careful", make, reads=("min_crop", "bn_weight")))
    with pytest.raises(AttarError, match="'careful' reads 'nonsense', which is neither a setting"):
        run(tmp_path, Preparation("careful", make, reads=("nonsense",)))


def test_a_later_step_reads_the_tables_of_those_it_names_and_follows_them(tmp_path: Path):
    def double(context: Context, config: Any) -> dict[str, Tensor]:
        rows = slice(context.rows.start, context.rows.stop)
        return {"numbers": 2 * context.table("numbers.numbers", context.number)[rows]}

    later = Preparation("later", double, reads=("numbers",))
    table, _ = run(tmp_path, Step().preparation(), later)
    assert torch.equal(table("later.numbers", 1), 2 * table("numbers.numbers", 1))
    before = files(tmp_path)
    run(tmp_path, Step().preparation(), later, config=CONFIG.changed(bn_weight=0.5))
    assert len(files(tmp_path)) == 2 * len(before), "the later step did not notice that the earlier one changed"
    with pytest.raises(KeyError, match="add its step to 'reads'"):
        run(tmp_path / "other", Step().preparation(), Preparation("later", double))


def test_teachers_that_need_no_tables_have_none(tmp_path: Path):
    step = Step()
    table, _ = run(tmp_path, step.preparation(applies=lambda config, network: False))
    assert step.made == []
    with pytest.raises(KeyError):
        table("numbers.numbers")


def test_a_step_that_returns_other_rows_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'wrong' has the shape \(2,\) for 3 rows"):
        run(tmp_path, Preparation("bad", lambda context, config: {"wrong": torch.zeros(2)}))
    assert not files(tmp_path)


def share(place: int, meeting: Path, out: Path, answers: Any) -> None:
    """What one of two processes makes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=place, world_size=2)
    step = Step()
    table, _ = run(out, step.preparation())
    answers.put((place, len(step.made), table("numbers.counts").tolist()))
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_parts_and_leave_the_bytes_of_one(tmp_path: Path):
    run(tmp_path / "one", Step().preparation())
    context = multiprocessing.get_context("fork")  # PyTorch is imported already
    answers = context.Queue()
    arguments = (tmp_path / "meeting", tmp_path / "two", answers)
    processes = [context.Process(target=share, args=(place, *arguments)) for place in (0, 1)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(place, 3, [1, 2, 3, 4, 5, 6, 7]) for place in (0, 1)]
    assert files(tmp_path / "two") == files(tmp_path / "one")
