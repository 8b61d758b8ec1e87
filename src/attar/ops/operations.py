"""Count a network's floating-point operations from the shapes of its convolutions and matrix products."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_operations(network: nn.Module, image_size: int) -> float:
    """Return the floating-point operations of one image's forward pass; a multiply-add counts as two.

    ``image_size`` is the side in pixels. Training on an image takes about three times as many. Runs the network once on
    two black images in evaluation mode, and restores its mode.
    """
    weight = next(network.parameters())
    images = torch.zeros(2, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(images)
    network.train(training)
    return counter.get_total_flops() / len(images)
