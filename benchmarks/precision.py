"""What precision and stem cost on this device: image-iterations per second and their ratios, measured in one run.

    python benchmarks/precision.py

Each row repeats the same step (a batch of 50 images of 64 pixels, forward and backward) in turns, so that other load
on the machine meets both sides; shown are medians and the range of the repeats' ratios. `train` differentiates the
weights, `recover` the pixels.
"""

import statistics
import time
from collections.abc import Callable

import torch

from attar.core.device import Execution, resolve
from attar.models.build import Stem, build
from attar.stages.folder import versions

BATCH, SIDE, REPEATS = 50, 64, 5


def step(name: str, stem: Stem, work: str, precision: str, device: torch.device) -> Callable[[], float]:
    """A function that takes one step and returns image-iterations per second."""
    network = build(name, 10, SIDE, stem=stem, seed=0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train(work == "train").requires_grad_(work == "train")
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=draws).to(device, memory_format=torch.channels_last)
    images.requires_grad_(work == "recover")

    def run() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        logits.float().logsumexp(1).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return BATCH / (time.perf_counter() - started)

    return run


def compare(title: str, first: Callable[[], float], second: Callable[[], float]) -> None:
    """Print both speeds and how much faster the second is."""
    for warm_up in (first, second):
        warm_up()
    pairs = [(first(), second()) for _ in range(REPEATS)]
    slow, fast = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(after / before for before, after in pairs)
    ratio = f"{statistics.median(ratios):5.1f}x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    print(f"{title:<58} {slow:7.0f} {fast:7.0f}   {ratio}", flush=True)


def main() -> None:
    """Print the table."""
    device = resolve(Execution())
    print(
        f"{device.describe()}, torch {versions()['torch']}, {REPEATS} repeats, image-iterations per second", flush=True
    )
    stems: tuple[tuple[str, Stem], ...] = (("resnet20", "auto"), ("resnet18", "small"))
    for name, stem in stems:
        sides = [step(name, stem, "train", precision, device.device) for precision in ("fp32", "bf16")]
        compare(f"train {name}, {stem} stem: fp32, bf16", *sides)
    sides = [step("resnet18", stem, "recover", "fp32", device.device) for stem in ("small", "standard")]
    compare("recover resnet18, fp32: small stem, standard stem", *sides)


if __name__ == "__main__":
    main()
