"""DM: dataset condensation with distribution matching (Zhao & Bilen, 2023, arXiv 2110.04181).

The mean features of a class's stored images are brought to those of its real images, under fresh random ConvNets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.matching_choices import Matching

if TYPE_CHECKING:
    from attar.synthesis.task import Recovered, Task


class Config(Matching):
    """Real images, moved until random networks see the same mean of them as of all images of the class."""


def recover(task: Task, config: Config) -> Recovered:
    """Match the mean features of each class; no teacher is asked."""
    import torch
    from torch import nn

    from attar.models.small import ConvNet
    from attar.synthesis.canvas import canvas_of
    from attar.synthesis.matching import Look, Mean, match
    from attar.synthesis.networks import Bare
    from attar.synthesis.starts import real
    from attar.synthesis.task import Recovered

    def convnet() -> nn.Module:
        side = task.size[0]
        network = ConvNet(config.depth(side), 1, side, config.network_width, norm="instance")
        network.fc = nn.Identity()  # type: ignore[assignment]
        return network

    network = Bare(convnet)
    look = Look("distance", network, lambda step: network.random(task.shared_stream("network", step)), Mean())

    def optimiser(pixels: torch.Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([pixels], lr=config.image_learning_rate, momentum=config.momentum)

    return Recovered(match(task, config, real(task), canvas_of(config), [look], optimiser))
