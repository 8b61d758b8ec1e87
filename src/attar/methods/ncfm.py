"""NCFM: matching by the neural characteristic function (Wang et al., 2025, arXiv 2502.20653).

The characteristic function of a class's stored images is brought to that of its real images, under networks between
their first and their trained weights. Each stored image is a mosaic of several.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import pydantic

from attar.ops.choices import Combination, Storage
from attar.synthesis.matching_choices import Matching
from attar.synthesis.method import Needs, Stretch, UnitShape

if TYPE_CHECKING:
    from attar.synthesis.networks import Bare, Weights
    from attar.synthesis.task import Recovered, Task


class Config(
    Matching,
    defaults={"image_learning_rate": 0.01, "real_batch": 1024, "dsa": ("colour", "crop", "cutout")},
):
    """Mosaics of real images, moved until half-trained networks see the same distribution as in the real images.

    All classes of a unit share the learning rate's plateau, so unit_classes alters the result.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser of the pixels; 'sgd' with momentum is published for CIFAR-100 at 10 images per class."""
    weight_decay: float = pydantic.Field(default=5e-4, ge=0)
    """AdamW's weight decay of the pixels."""
    patience: int = pydantic.Field(default=500, ge=0)
    """Halve the learning rate when the loss has not fallen for more than so many iterations; 0: never."""
    factor: int = pydantic.Field(default=2, ge=1, le=8)
    """Images along each side of a stored image; each is stored at that fraction of its side."""
    num_frequencies: int = pydantic.Field(default=4096, ge=1)
    """Frequencies at which characteristic functions are compared, drawn anew in each iteration."""
    amplitude_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of the difference in amplitude in the loss; the rest is the difference in phase."""
    match_weight: float = pydantic.Field(default=300.0, gt=0)
    """Weight of the distance of characteristic functions."""
    calibration_weight: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the trained network's cross-entropy on the stored images; 0: without it."""

    def needs(self) -> Needs:
        """First and last weights of experts, and one unit at a time, because its classes share a learning rate."""
        return replace(super().needs() | Needs(teachers="none", snapshots="ends"), teachers="none", side_by_side=False)

    def combination(self) -> Combination:
        """All kinds together."""
        return "all"

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """All parts of the stored images are shown in each iteration."""
        return tuple(stretch.showing(self.factor**2) for stretch in super().cost(unit))

    def metrics(self) -> tuple[str, ...]:
        """The loss, and its two parts."""
        return (*super().metrics(), "distance", *(("cross_entropy",) if self.calibration_weight else ()))

    def storage(self) -> Storage:
        """Parts are enlarged bilinearly, as in the published code."""
        return Storage(factor=self.factor, enlarge="bilinear")

    def idle(self) -> dict[str, str]:
        """The settings of the other optimiser."""
        adamw = self.optimizer == "adamw"
        return super().idle() | ({"momentum": "--optimizer sgd"} if adamw else {"weight_decay": "--optimizer adamw"})


def recover(task: Task, config: Config) -> Recovered:
    """Match the characteristic functions of each class; raises AttarError when the experts are another network."""
    import torch

    from attar.synthesis.canvas import Mosaic
    from attar.synthesis.characteristic import Characteristic, CrossEntropy
    from attar.synthesis.matching import Look, match
    from attar.synthesis.mosaics import random_mosaics
    from attar.synthesis.task import Recovered

    body, whole = networks(task, config)
    experts = task.experts
    assert experts is not None  # needs

    def pair(iteration: int) -> tuple[int, float]:
        stream = task.shared_stream("network", iteration)
        return int(torch.randint(experts.num_experts, (1,), generator=stream)), float(torch.rand(1, generator=stream))

    def between(iteration: int) -> Weights:
        number, share = pair(iteration)
        ends = (experts.weights(number, place)[: body.num_weights] for place in (0, experts.num_snapshots - 1))
        first, last = ends
        return share * first + (1 - share) * last

    def trained(iteration: int) -> Weights:
        return experts.weights(pair(iteration)[0], experts.num_snapshots - 1)

    def optimiser(pixels: torch.Tensor) -> torch.optim.Optimizer:
        if config.optimizer == "sgd":
            return torch.optim.SGD([pixels], lr=config.image_learning_rate, momentum=config.momentum)
        return torch.optim.AdamW([pixels], lr=config.image_learning_rate, weight_decay=config.weight_decay)

    statistic = Characteristic(config.num_frequencies, config.amplitude_share, config.match_weight)
    looks = [Look("distance", body, between, statistic)]
    if config.calibration_weight:
        looks.append(Look("cross_entropy", whole, trained, CrossEntropy(config.calibration_weight), real=False))
    start, canvas = random_mosaics(task, config.ipc, config.factor), Mosaic(config.storage(), config.grey)
    return Recovered(match(task, config, start, canvas, looks, optimiser, config.patience))


def networks(task: Task, config: Config) -> tuple[Bare, Bare]:
    """Return the experts' ConvNet up to its features, and the whole of it."""
    from torch import nn

    from attar.core.errors import AttarError
    from attar.models.small import ConvNet
    from attar.synthesis.networks import Bare

    assert task.real is not None  # needs
    assert task.experts is not None
    side, num_classes, width = task.size[0], task.real.num_classes, config.network_width

    def whole(depth: int) -> ConvNet:
        return ConvNet(depth, num_classes, side, width, norm="instance")

    def body(depth: int) -> ConvNet:
        network = whole(depth)
        network.fc = nn.Identity()  # type: ignore[assignment]
        return network

    count = len(task.experts.weights(0, 0))
    for depth in [config.network_depth] if config.network_depth else range(1, 9):
        found = Bare(partial(body, depth)), Bare(partial(whole, depth))
        if found[1].num_weights == count:
            return found
    blocks = f"{config.network_depth} blocks" if config.network_depth else "up to 8 blocks"
    raise AttarError(
        f"The experts are not ConvNets with InstanceNorm, {blocks} and {width} channels; use "
        f"--squeeze.experts.architecture convnet{config.depth(side)}_in, or set --recover.network-depth and "
        f"--recover.network-width."
    )
