"""Training a network by gradient descent: the one loop behind teachers and students."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.config import Config
from attar.core.randomness import seed_of
from attar.ops import schedule
from attar.ops.averaging import Average
from attar.ops.optimiser import Optimiser
from attar.ops.pixels import Normalisation
from attar.ops.schedule import Schedule
from attar.ops.targets import Targets

Batch = tuple[Float[Tensor, "image 3 height width"], Targets]
Loss = Callable[[Tensor, Targets], Tensor]


class Optimisation(Config):
    """How a network is trained: optimiser, learning rate over time, batches."""

    epochs: int = pydantic.Field(default=100, ge=1)
    """Passes over the images."""
    batch_size: int = pydantic.Field(default=128, ge=2)
    """Images in one optimiser step, over all accumulation steps."""
    accumulation_steps: int = pydantic.Field(default=1, ge=1)
    """Parts into which a batch is cut to save memory; BatchNorm sees one part at a time."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """'sgd' with momentum, 'adamw', or 'muon' for matrices and convolutions with Adam for the rest."""
    learning_rate: float = pydantic.Field(default=0.1, gt=0)
    """Peak learning rate; Muon's steps are scaled to AdamW's, so what suits one is a start for the other."""
    schedule: Schedule = "cosine"
    """'cosine'; 'cosine-linear': from 5/6 of training on a line to 0 (EDC's 'cos2'); or 'constant'."""
    cosine_stretch: float = pydantic.Field(default=1.0, ge=1)
    """Half a cosine lasts so many times as long as training: 1 ends at 0, 2 at half the peak (papers' zeta or eta)."""
    rate_moves: Literal["step", "epoch"] = "step"
    """The learning rate moves with every optimiser step, or once an epoch as in most published scripts."""
    warmup_epochs: float = pydantic.Field(default=0.0, ge=0)
    """Linear rise to the peak at the start."""
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD and Muon."""
    betas: tuple[float, float] = (0.9, 0.999)
    """The two decay rates of AdamW, and of Adam beside Muon."""
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    """Weight decay."""
    decay_norms: bool = True
    """Apply weight decay to biases and normalisation layers too."""
    ema_decay: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Above 0 a moving average of the parameters is evaluated, which keeps this much of itself in each step."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch."""

    number: int
    """1 after the first."""
    loss: float
    """Mean over the epoch's batches."""
    state: Callable[[], dict[str, Any]]
    """Everything that ``fit`` needs to continue from here."""


def fit(
    network: nn.Module,
    normalisation: Normalisation,
    batches: Callable[[int], Iterable[Batch]],
    loss: Loss,
    optimisation: Optimisation,
    num_images: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    after_epoch: Callable[[Epoch], None],
    resume: dict[str, Any] | None = None,
    seed: int = 0,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train ``network`` in place on ``batches(epoch)`` of images in [0, 1], already on its device.

    Batches are of ``optimisation.batch_size`` images, the last of an epoch of what remains; they are cut into parts
    here. ``resume`` is an earlier ``Epoch.state()``; a resumed training equals an uninterrupted one when ``batches``
    depends on the epoch alone. Batches of a single image are passed over, for BatchNorm cannot train on one. What
    the network itself draws (dropout) depends on ``seed`` and the epoch; the global random state is left as it was.

    With ``ema_decay`` the network has its averaged parameters during ``after_epoch`` and in the end; its buffers are
    those of the training. The losses are those of the network that is trained. The device is waited for once an epoch.
    ``forward`` computes the logits in place of ``network``: the same network, compiled.
    """
    forward = forward or network
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = Optimiser(network, optimisation)
    average = Average(network, optimisation.ema_decay) if optimisation.ema_decay else None
    first = 0
    if resume is not None:
        network.load_state_dict(resume["network"])
        optimiser.load_state_dict(resume["optimiser"])
        if average is not None:
            average.load(resume["average"])
        first = resume["epoch"]
    rates = _rates(optimisation, num_images)
    device = next(network.parameters()).device
    for epoch in range(first, optimisation.epochs):
        network.train()
        losses, num_batches = [], 0
        with _draws(device, seed_of(seed, "fit", epoch)):
            for step, (images, targets) in enumerate(batches(epoch)):
                if len(images) < 2:
                    continue
                optimiser.zero_grad()
                num_batches += 1
                num_parts = min(optimisation.accumulation_steps, len(images) // 2)  # no part is a single image
                for part in range(num_parts):
                    piece = slice(part * len(images) // num_parts, (part + 1) * len(images) // num_parts)
                    seen = normalisation.apply(images[piece]).contiguous(memory_format=torch.channels_last)
                    with autocast():
                        logits = forward(seen)
                    value = loss(logits, targets.take(piece)) * len(seen) / len(images)
                    value.backward()
                    losses.append(value.detach())
                optimiser.step(rates(epoch, step))
                if average is not None:
                    average.update()
        mean = float(torch.stack(losses).sum()) / num_batches
        state = {"epoch": epoch + 1, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
        if average is not None:
            state["average"] = average.state()
        with average.shown() if average is not None else contextlib.nullcontext():
            after_epoch(Epoch(epoch + 1, mean, lambda state=state: state))
    if average is not None:
        average.swap()
    network.eval()


def all_finite(network: nn.Module) -> bool:
    """Whether no weight of a network is infinite or no number, and no other part of its state is no number."""
    faults = [weight.isfinite().logical_not().any() for weight in network.parameters()]
    faults += [buffer.isnan().any() for buffer in network.buffers()]  # a mask may hold infinities
    return not any(torch.stack(faults).tolist()) if faults else True


def _rates(choice: Optimisation, num_images: int) -> Callable[[int, int], float]:
    """The learning rate of a step of an epoch, both counted from 0."""
    steps_per_epoch = -(-num_images // choice.batch_size)
    total, warmup = steps_per_epoch * choice.epochs, round(steps_per_epoch * choice.warmup_epochs)

    def rate(epoch: int, step: int) -> float:
        place = epoch * steps_per_epoch + (step if choice.rate_moves == "step" else 0)
        return schedule.learning_rate(
            choice.schedule, choice.learning_rate, place, total, warmup, choice.cosine_stretch
        )

    return rate


@contextlib.contextmanager
def _draws(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, PyTorch draws from this seed on the CPU and the device; afterwards the global state is as it was."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
