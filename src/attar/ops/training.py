"""Training a network by gradient descent: the one loop behind teachers and students."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.config import Config
from attar.ops import schedule
from attar.ops.pixels import Normalisation
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
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """'sgd' with momentum, or 'adamw'."""
    learning_rate: float = pydantic.Field(default=0.1, gt=0)
    """Peak learning rate; falls to 0 along half a cosine."""
    warmup_epochs: float = pydantic.Field(default=0.0, ge=0)
    """Linear rise to the peak at the start."""
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two decay rates."""
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    """Weight decay."""
    decay_norms: bool = True
    """Apply weight decay to biases and normalisation layers too."""


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
) -> None:
    """Train ``network`` in place on ``batches(epoch)`` of images in [0, 1], already on its device.

    ``resume`` is an earlier ``Epoch.state()``; a resumed training equals an uninterrupted one when ``batches`` depends
    on the epoch alone. The learning rate moves with every step. Batches of a single image are passed over, for
    BatchNorm cannot train on one.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(network, optimisation)
    first = 0
    if resume is not None:
        network.load_state_dict(resume["network"])
        optimiser.load_state_dict(resume["optimiser"])
        first = resume["epoch"]
    steps_per_epoch = -(-num_images // optimisation.batch_size)
    total, warmup = steps_per_epoch * optimisation.epochs, round(steps_per_epoch * optimisation.warmup_epochs)
    for epoch in range(first, optimisation.epochs):
        network.train()
        losses, num_batches = [], 0
        for step, (images, targets) in enumerate(batches(epoch), start=epoch * steps_per_epoch):
            if len(images) < 2:
                continue
            for group in optimiser.param_groups:
                group["lr"] = schedule.cosine(optimisation.learning_rate, step, total, warmup)
            optimiser.zero_grad()
            num_batches += 1
            num_parts = min(optimisation.accumulation_steps, len(images) // 2)  # no part is a single image
            for part in range(num_parts):
                piece = slice(part * len(images) // num_parts, (part + 1) * len(images) // num_parts)
                seen = normalisation.apply(images[piece]).contiguous(memory_format=torch.channels_last)
                with autocast():
                    logits = network(seen)
                value = loss(logits, targets.take(piece)) * len(seen) / len(images)
                value.backward()
                losses.append(value.detach())
            optimiser.step()
        mean = float(torch.stack(losses).sum()) / num_batches
        done = epoch + 1
        after_epoch(
            Epoch(
                done,
                mean,
                lambda done=done: {
                    "epoch": done,
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                },
            )
        )
    network.eval()


def _optimiser(network: nn.Module, choice: Optimisation) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [{"params": parameters, "weight_decay": choice.weight_decay}]
    if not choice.decay_norms:  # biases and normalisation layers are the parameters of one dimension
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": choice.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if choice.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=choice.learning_rate, betas=choice.betas)
    return torch.optim.SGD(groups, lr=choice.learning_rate, momentum=choice.momentum)
