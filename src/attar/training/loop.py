"""Train a network by gradient descent: the one loop for teachers and students."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core import ranks
from attar.core.randomness import seed_of
from attar.ops import schedule
from attar.ops.pixels import Normalisation
from attar.ops.targets import Targets
from attar.training.averaging import Average
from attar.training.choices import Optimisation
from attar.training.optimiser import Optimiser
from attar.training.parallel import Together

TrainingBatch = tuple[Float[Tensor, "image 3 height width"], Targets]
Loss = Callable[[Tensor, Targets], Tensor]


@dataclass(frozen=True)
class FinishedEpoch:
    """A finished epoch."""

    number: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean loss over the epoch's batches."""
    state: Callable[[], dict[str, Any]]
    """Returns everything that ``fit`` needs to continue from here."""


def fit(
    network: nn.Module,
    normalisation: Normalisation,
    batches: Callable[..., Iterable[TrainingBatch]],
    loss: Loss,
    optimisation: Optimisation,
    num_images: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    after_epoch: Callable[[FinishedEpoch], None],
    resume: dict[str, Any] | None = None,
    seed: int = 0,
    forward: Callable[[Tensor], Tensor] | None = None,
    after_batch: Callable[[int], None] = lambda _: None,
    together: Together | None = None,
    offer: Callable[[Callable[[], dict[str, Any]]], None] = lambda _: None,
) -> None:
    """Train ``network`` in place on ``batches(epoch)`` of images in [0, 1], already on its device.

    Batches have ``optimisation.batch_size`` images, except that an epoch's last batch has the remaining ones. ``fit``
    cuts batches into parts and passes the number of images of each batch to ``after_batch``. Batches of a single image
    are skipped, because BatchNorm cannot train on one. ``resume`` is an earlier ``FinishedEpoch.state()``; a resumed
    training equals an uninterrupted one when ``batches`` depends only on the epoch. Random numbers drawn inside the
    network (dropout) depend on ``seed`` and the epoch; the global random state is unchanged.

    With ``ema_decay`` the network has its averaged parameters during ``after_epoch`` and at the end; its buffers are
    those of the trained network. The losses are those of the trained network. The loop waits for the device once per
    epoch. ``forward`` computes the logits instead of ``network``: the same network, compiled.

    After each step ``offer`` gets a function that returns the state inside the epoch, which ``resume`` takes, too. Then
    ``fit`` calls ``batches(epoch, first)``, which leaves out the first batches. The training then equals one
    without an interruption, except that with ``together`` random numbers inside the network are drawn anew.

    With ``together`` all its processes call ``fit`` at the same point, ``batches`` yields this process's part of every
    batch, ``forward`` calls ``together.network``, and random numbers inside the network differ
    between processes. ``after_epoch`` is called in each of them.
    """
    forward = forward or (network if together is None else together.network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = together.part.size if together else 1
    optimiser = Optimiser(network, optimisation)
    average = Average(network, optimisation.ema_decay) if optimisation.ema_decay else None
    first, skipped = 0, 0
    if resume is not None:
        network.load_state_dict(resume["network"])
        optimiser.load_state_dict(resume["optimiser"])
        if average is not None:
            average.load(resume["average"])
        first, skipped = resume["epoch"], resume.get("step", 0)
    if together is not None:
        together.agree(first)
        together.agree(skipped)
    rates = _rates(optimisation, num_images)
    device = next(network.parameters()).device
    for epoch in range(first, optimisation.epochs):
        network.train()
        losses, num_batches = [], 0
        inside = resume if skipped and epoch == first else None
        named = () if together is None else (together.part.rank,) if inside is None else (together.part.rank, skipped)
        with _draws(device, seed_of(seed, "fit", epoch, *named)):
            if inside is not None:
                losses, num_batches = list(inside["losses"].to(device)), inside["num_batches"]
                if together is None:
                    _set_draws(device, inside["draws"])
            remaining = batches(epoch) if inside is None else batches(epoch, skipped)
            for step, (images, targets) in enumerate(remaining, 0 if inside is None else skipped):
                total = len(images) if together is None else together.num_images(len(images))
                if total < 2:
                    continue
                optimiser.zero_grad()
                num_batches += 1
                num_parts = min(optimisation.accumulation_steps, len(images) // 2)  # no part is a single image
                for part in range(num_parts):
                    piece = slice(part * len(images) // num_parts, (part + 1) * len(images) // num_parts)
                    seen = normalisation.apply(images[piece]).contiguous(memory_format=torch.channels_last)
                    waits = together is not None and part < num_parts - 1
                    with together.accumulates() if together and waits else contextlib.nullcontext():
                        with autocast():
                            logits = forward(seen)
                        # The processes average their gradients; each weighs its images by their share of all.
                        value = loss(logits, targets.take(piece)) * len(seen) * size / total
                        value.backward()
                    losses.append(value.detach())
                optimiser.step(rates(epoch, step))
                if average is not None:
                    average.update()
                after_batch(total)
                offer(
                    lambda epoch=epoch, step=step, losses=losses, done=num_batches: {
                        **_state(epoch, network, optimiser, average),
                        "step": step + 1,
                        "losses": torch.stack(losses),
                        "num_batches": done,
                        "draws": _drawn(device),
                    }
                )
        mean = float(torch.stack(losses).sum()) / num_batches
        mean = mean if together is None else ranks.mean(mean)
        state = _state(epoch + 1, network, optimiser, average)
        with average.shown() if average is not None else contextlib.nullcontext():
            after_epoch(FinishedEpoch(epoch + 1, mean, lambda state=state: state))
    if average is not None:
        average.swap()
    network.eval()


def all_finite(network: nn.Module) -> bool:
    """Return whether all weights of a network are finite and the rest of its state has no NaN."""
    faults = [weight.isfinite().logical_not().any() for weight in network.parameters()]
    faults += [buffer.isnan().any() for buffer in network.buffers()]  # a mask may hold infinities
    return not any(torch.stack(faults).tolist()) if faults else True


def _rates(choice: Optimisation, num_images: int) -> Callable[[int, int], float]:
    """Return the learning rate of a step of an epoch, both counted from 0."""
    steps_per_epoch = -(-num_images // choice.batch_size)
    total, warmup = steps_per_epoch * choice.epochs, round(steps_per_epoch * choice.warmup_epochs)

    def rate(epoch: int, step: int) -> float:
        place = epoch * steps_per_epoch + (step if choice.rate_moves == "step" else 0)
        return schedule.learning_rate(
            choice.schedule, choice.learning_rate, place, total, warmup, choice.cosine_stretch
        )

    return rate


def _state(epoch: int, network: nn.Module, optimiser: Optimiser, average: Average | None) -> dict[str, Any]:
    state = {"epoch": epoch, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    return state if average is None else {**state, "average": average.state()}


def _drawn(device: torch.device) -> list[Tensor]:
    """Return the states of PyTorch's generators on CPU and device."""
    on_gpu = device.type == "cuda"
    return [torch.default_generator.get_state(), *([torch.cuda.get_rng_state(device)] if on_gpu else [])]


def _set_draws(device: torch.device, states: list[Tensor]) -> None:
    """Continue from the states of ``_drawn``; on another kind of device only the CPU's is known."""
    torch.default_generator.set_state(states[0].cpu())
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1].cpu(), device)


@contextlib.contextmanager
def _draws(device: torch.device, seed: int) -> Iterator[None]:
    """Inside the context, PyTorch draws from this seed on CPU and device; afterwards the global state is restored."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
