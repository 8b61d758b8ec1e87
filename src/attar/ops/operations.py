"""How much work a network is, counted from the shapes of its convolutions and matrix products."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_operations(network: nn.Module, image_size: int) -> float:
    """Floating-point operations of one image's forward pass; a multiplication and its addition count as two.

    ``image_size`` is the side in pixels. Training an image takes about three times as many. The network is run once
    on two black images, in evaluation mode, and left in the mode it was in.
    """
    weight = next(network.parameters())
    images = torch.zeros(2, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(images)
    network.train(training)
    return counter.get_total_flops() / len(images)
