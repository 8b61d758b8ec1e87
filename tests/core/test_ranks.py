"""core/ranks.py: what processes tell one another."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch.distributed

from attar.core import ranks
from attar.core.errors import AttarError


def choose(place: int, meeting: Path, answers: Any) -> None:
    """A process of two, which would decide otherwise than the first."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=place, world_size=2)
    answers.put((place, [ranks.of_first(place == 0), ranks.of_first(place == 1)]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_the_first_process_decides_for_all(tmp_path: Path):
    context = multiprocessing.get_context("fork")  # PyTorch is imported already
    answers = context.Queue()
    processes = [context.Process(target=choose, args=(place, tmp_path / "meeting", answers)) for place in (0, 1)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert found == {0: [True, False], 1: [True, False]}


def test_one_process_decides_for_itself():
    assert ranks.of_first(True)
    assert not ranks.of_first(False)


def join_alone(folder: Path, answers: Any) -> None:
    """A process of two, of which the other never comes."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    ranks.JOIN_SECONDS = 1.0
    try:
        with ranks.group():
            answers.put("joined")
    except AttarError as error:
        answers.put(str(error))


def test_a_process_that_never_comes_is_not_waited_for_forever(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=join_alone, args=(tmp_path, answers))
    process.start()
    said = answers.get(timeout=300)
    process.join(60)
    assert "The 2 processes of this launch did not find one another within 0.0167 minutes" in said
    assert process.exitcode == 0
