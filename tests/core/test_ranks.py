"""core/ranks.py: what processes tell one another."""

import multiprocessing
from pathlib import Path
from typing import Any

import torch.distributed

from attar.core import ranks


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
    found = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == {0: [True, False], 1: [True, False]}


def test_one_process_decides_for_itself():
    assert ranks.of_first(True)
    assert not ranks.of_first(False)
