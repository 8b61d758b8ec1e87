"""training/parallel.py: processes that train one network together end where one process would."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.ranks import WHOLE, Part
from attar.ops.pixels import Normalisation
from attar.ops.targets import Targets, hard_loss
from attar.training.choices import Optimisation
from attar.training.loop import FinishedEpoch, TrainingBatch, fit
from attar.training.parallel import Together

NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CHOICE = Optimisation(epochs=3, batch_size=10, learning_rate=0.05, accumulation_steps=2, ema_decay=0.9)
NUM_IMAGES = 33
"""The last batch of an epoch has three images, too few to divide among two processes."""


def network() -> nn.Module:
    """Has a normalisation that looks at one image at a time, and a buffer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.InstanceNorm2d(8, affine=True)
        return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4))


def batches(part: Part, unreadable: int = 0) -> Callable[[int], Iterator[TrainingBatch]]:
    """This part of every batch; the last part's share of the second batch lacks its first ``unreadable`` images."""
    stream = torch.Generator().manual_seed(1)
    images, labels = torch.rand(NUM_IMAGES, 3, 8, 8, generator=stream), torch.arange(NUM_IMAGES) % 4

    def of_epoch(epoch: int) -> Iterator[TrainingBatch]:
        order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(epoch))
        for number, index in enumerate(order.split(CHOICE.batch_size)):
            own = index[part.of(len(index))]
            if number == 1 and part.rank == part.size - 1:
                own = own[unreadable:]
            yield images[own], Targets(labels[own])

    return of_epoch


def trained(part: Part, unreadable: int = 0, stop_after: int = 0, resume: Any = None) -> dict[str, Any]:
    """Weights, losses of the epochs, and the state after epoch ``stop_after``."""
    found, losses, states = network(), [], {}
    joined = Together(found, torch.device("cpu")) if part.size > 1 else None

    def after(epoch: FinishedEpoch) -> None:
        losses.append(epoch.loss)
        if epoch.number == stop_after:
            torch.save(epoch.state(), (buffer := Path(f"{part.rank}.pt").resolve()))
            states["state"] = buffer

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        return hard_loss(logits, targets, 0.0)

    of_epoch = batches(part, unreadable)
    how = {"resume": resume, "together": joined}
    fit(found, NORMALISATION, of_epoch, loss, CHOICE, NUM_IMAGES, contextlib.nullcontext, after, **how)
    return {"weights": found.state_dict(), "losses": losses, **states}


def process(rank: int, folder: Path, unreadable: int, answers: Any) -> None:
    with contextlib.chdir(folder):
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        first = trained(Part(rank, 2), unreadable, stop_after=1)
        state = torch.load(first["state"])
        resumed = trained(Part(rank, 2), unreadable, resume=state)
        try:
            trained(Part(rank, 2), resume=state if rank else None)
            refused = ""
        except AttarError as error:
            refused = str(error)
        torch.save([first, resumed, refused], folder / f"result{rank}")
        answers.put(rank)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def of_two(folder: Path, unreadable: int = 0) -> list[list[Any]]:
    """What two processes find: trained at once, trained with a break, and the error when they continue differently."""
    context = multiprocessing.get_context("fork")  # PyTorch is imported already
    answers = context.Queue()
    processes = [context.Process(target=process, args=(rank, folder, unreadable, answers)) for rank in (0, 1)]
    for one in processes:
        one.start()
    for _ in processes:
        answers.get(timeout=300)
    for one in processes:
        one.join()
    return [torch.load(folder / f"result{rank}", weights_only=False) for rank in (0, 1)]


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["losses"], expected["losses"][-len(found["losses"]) :], rtol=1e-5, atol=1e-5)


def test_two_processes_end_where_one_does(tmp_path: Path):
    (first, resumed, refused), (other, _, other_refused) = of_two(tmp_path)
    alone = trained(WHOLE)
    assert_close(first, alone)
    assert_close(resumed, alone)
    assert len(resumed["losses"]) == CHOICE.epochs - 1
    torch.testing.assert_close(other["weights"], first["weights"], rtol=0, atol=0)
    assert "do not see the same checkpoint" in refused
    assert refused == other_refused


def test_a_batch_that_one_process_cannot_read_is_left_out_by_all(tmp_path: Path):
    (first, _, _), (other, _, _) = of_two(tmp_path, unreadable=4)
    torch.testing.assert_close(other["weights"], first["weights"], rtol=0, atol=0)

    def without(epoch: int) -> Iterator[TrainingBatch]:
        for number, (images, targets) in enumerate(batches(WHOLE)(epoch)):
            yield (images, targets) if number != 1 else (images[:0], targets.take(slice(0, 0)))

    found = network()
    plain = (CHOICE, NUM_IMAGES, contextlib.nullcontext, lambda _: None)
    fit(found, NORMALISATION, without, lambda logits, targets: hard_loss(logits, targets, 0.0), *plain)
    torch.testing.assert_close(first["weights"], found.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 16, 17, 100])
def test_parts_are_all_images_once_or_are_all_the_whole_batch(size: int, count: int):
    parts = [range(count)[Part(rank, size).of(count)] for rank in range(size)]
    if count < 2 * size:
        assert parts == [range(count)] * size
        return
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 2


def test_alone_a_process_hears_itself():
    assert ranks.counts(7) == [7]
    assert ranks.mean(0.5) == 0.5
