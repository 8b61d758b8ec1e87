"""A network whose weights are a formula, and a monitor that keeps what an optimisation reports."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attar.models.small import SmallResNet


def formula_network(num_classes: int = 6) -> nn.Module:
    """A ResNet with waves for weights and statistics: the same on every machine and under every version of PyTorch."""
    with torch.random.fork_rng(devices=[]):
        network = SmallResNet(8, num_classes)
    return by_formula(network)


def by_formula(network: nn.Module) -> nn.Module:
    """The network with waves for weights and statistics, frozen."""
    with torch.no_grad():
        for place, (name, tensor) in enumerate(network.state_dict().items()):
            if tensor.is_floating_point():
                counted = torch.arange(tensor.numel(), dtype=torch.float64)
                wave = torch.sin(0.7 * counted**2 + place).reshape(tensor.shape)  # squared, or all rows look alike
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 16
                grows = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(1 + wave / 4 if grows else wave * math.sqrt(2 / fan_in))
    return network.eval().requires_grad_(False)


class Curves:
    """A monitor that keeps every unit's losses and all images."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.images: list[Tensor] = []

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        self.losses.append(metrics["loss"])
        self.images.append(images().clone())
