"""A training step of the ConvNet with InstanceNorm on a CPU: attar's layer beside PyTorch's GroupNorm.

    python benchmarks/instance_norm.py

Prints the median CPU milliseconds of an image, with the range, of steps that take turns in one thread: in bf16 and in
float32, and for gradients of gradients, which mtt and tesla take.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from attar.core import memory
from attar.models.build import build
from attar.models.small import InstanceNorm
from attar.stages.folder import versions

ARCHITECTURE, SIZE, CLASSES = "convnet3_in", 32, 10


def network(groups: bool) -> nn.Module:
    """The ConvNet, with GroupNorm in place of attar's layer if ``groups``."""
    found = build(ARCHITECTURE, CLASSES, SIZE, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for block in [module for module in found.modules() if groups and isinstance(module, nn.Sequential)]:
        for place, layer in enumerate(block):
            if isinstance(layer, InstanceNorm):
                block[place] = nn.GroupNorm(layer.num_groups, layer.num_channels)
    return found.train()


def step(module: nn.Module, images: torch.Tensor, low: bool, second: bool) -> None:
    """Gradients of the weights; or those of their square, by the pixels."""
    targets = torch.arange(len(images)) % CLASSES
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        logits = module(images)
    loss = F.cross_entropy(logits.float(), targets)
    gradients = torch.autograd.grad(loss, list(module.parameters()), create_graph=second)
    if second:
        torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in gradients]).sum(), images)


def timed(work: Callable[[], None]) -> float:
    """CPU seconds."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(sides: Mapping[str, nn.Module], images: torch.Tensor, runs: int) -> None:
    """Print a line for each kind of step; the first turn warms up and does not count."""
    for second in (False, True):
        for low in (True, False):
            found: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(runs + 1):
                for side, module in sides.items():
                    seconds = timed(functools.partial(step, module, images, low, second))
                    if turn:
                        found[side].append(1000 * seconds / len(images))
            ratios = [old / new for old, new in zip(found["GroupNorm"], found["attar"], strict=True)]
            words = [
                f"{side} {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
                for side, times in found.items()
            ]
            what = f"{'second gradients' if second else 'training step'}, {'bf16' if low else 'fp32'}"
            print(f"{what:<23}{'  '.join(words)} ms/image  {statistics.median(ratios):.1f}x (n = {runs})", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    sides = {"GroupNorm": network(groups=True), "attar": network(groups=False)}
    images = torch.randn(asked.batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    with memory.kept():
        compare(sides, images, asked.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
